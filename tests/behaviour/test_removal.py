"""Taking away and going back: removal archives mail and ends sessions, too much of it needs a word, one command undoes it (D8, O14)."""

from __future__ import annotations

import contextlib
import datetime as dt
import imaplib
import re
import time
from collections.abc import Iterator

import pytest
from correspondent import MailHost
from edits import Site, answer, edited_lab, logs_in
from mailstore import deliver, imap, search
from testinfra.host import Host
from wire import stranger

SECRETS = {"frank@fir.test": "frank-is-not-printed", "grace@fir.test": "grace-is-not-printed"}
ARCHIVE = "/var/vmail/.archive"
NAMES = ["frank", "heidi", "ivan", "judy", "kim"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Iterator[Site]:
    """Afterwards the lab's own inventory is live, and nothing of fir.test is left."""
    with edited_lab(tmp_path_factory.mktemp("removal"), "--tags", "accounts") as site:
        yield site
    host.check_output(f"rm -rf {ARCHIVE}/*@fir.test")


def declare(site: Site, *names: str, alias: str = "") -> None:
    """Make the mailboxes of fir.test these."""
    rows = "".join(f"  - {{name: {name}, password: {SECRETS.get(f'{name}@fir.test', 'whatever-it-may-be')}}}\n" for name in names)
    aliases = f"aliases:\n  - {{name: sales, to: [{alias}]}}\n" if alias else ""
    (site.path / "domains/fir.yml").write_text(f"domain: fir.test\nmailboxes:\n{rows}{aliases}")


def message(marker: str) -> bytes:
    return f"From: somebody@good.test\r\nTo: frank@fir.test\r\nSubject: {marker}\r\nX-Marker: {marker}\r\n\r\nHello\r\n".encode()


def found(mail: MailHost, marker: str) -> bool:
    with imap(mail, "frank@fir.test", SECRETS["frank@fir.test"]) as session:
        return bool(search(session, "INBOX", "X-Marker", marker))


def accounts(site: Site, *arguments: str) -> str:
    """Output of a run that succeeds; no secret is in it."""
    status, output = site.run("--tags", "accounts", "--diff", "-vvv", *arguments)
    assert status == 0, output[-4000:]
    assert not [secret for secret in (*SECRETS.values(), "argon2id$") if secret in output]
    return output


def test_a_removed_mailbox_stops_at_once_and_one_command_brings_it_back(mail: MailHost, host: Host, site: Site) -> None:
    frank, secret = "frank@fir.test", SECRETS["frank@fir.test"]
    declare(site, "frank", "heidi", alias="frank")
    accounts(site)
    deliver(host, frank, message("kept"))
    assert found(mail, "kept")
    assert answer(mail, "sales@fir.test") == 250

    session = mail.imap(frank, secret)
    session.select()
    with stranger(mail) as smtp:
        assert smtp.rcpt("friend@good.test", frank) == [250, 250]
        smtp.code("RSET")
        declare(site, "grace", "heidi")
        start = time.monotonic()
        assert "archived" in accounts(site)
        took = time.monotonic() - start
        assert smtp.rcpt("friend@good.test", frank) == [250, 550], "a connection that was open before"
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        session.noop()
    with contextlib.suppress(OSError):
        session.shutdown()
    assert not logs_in(mail, frank, secret)
    assert answer(mail, "sales@fir.test") == 550
    assert logs_in(mail, "grace@fir.test", SECRETS["grace@fir.test"])
    assert host.run("test -e /var/vmail/fir.test/frank").rc == 1
    assert host.check_output(f"stat -c '%U %a' {ARCHIVE}") == "root 700"
    name = host.check_output(f"ls {ARCHIVE}/{frank}")
    until = dt.datetime.strptime(name.partition("-until-")[2] + "+0000", "%Y%m%dT%H%M%SZ%z")
    assert dt.timedelta(days=29) < until - dt.datetime.now(dt.UTC) < dt.timedelta(days=31)

    start = time.monotonic()
    status, output = site.run(playbook="playbooks/rollback.yml")
    assert status == 0, output[-4000:]
    assert "until site.yml runs again" in output
    # On a busy computer no longer than the run that it undoes.
    assert time.monotonic() - start < max(30, took)
    assert logs_in(mail, frank, secret)
    assert found(mail, "kept")
    assert answer(mail, "sales@fir.test") == 250
    assert answer(mail, "grace@fir.test") == 550
    deliver(host, frank, message("after"))
    assert found(mail, "after")

    status, output = site.run(playbook="playbooks/generations.yml")
    assert status == 0, output[-4000:]
    # Lines are folded.
    listed = " ".join(output.split())
    assert "mailboxes + frank@fir.test - grace@fir.test" in listed
    assert "mailboxes + grace@fir.test - frank@fir.test" in listed
    assert "argon2id" not in output

    accounts(site)
    assert not logs_in(mail, frank, secret), "the inventory's next run wins"
    assert logs_in(mail, "grace@fir.test", SECRETS["grace@fir.test"])


def test_a_mailbox_declared_again_in_time_has_its_mail_and_what_came_in_between(mail: MailHost, host: Host, site: Site) -> None:
    # As if a delivery had been under way when the mailbox went.
    host.check_output("install -d -o vmail -g vmail -m 700 /var/vmail/fir.test/frank/Maildir/new /var/vmail/fir.test/frank/Maildir/cur")
    host.check_output("printf 'X-Marker: late\\n\\nHello\\n' > /var/vmail/fir.test/frank/Maildir/new/1700000000.late.fir")
    host.check_output("chown -R vmail:vmail /var/vmail/fir.test/frank")
    declare(site, "frank", "heidi")
    accounts(site)
    assert [marker for marker in ("kept", "after", "late") if found(mail, marker)] == ["kept", "after", "late"]
    assert host.run("test -e /var/vmail/fir.test/grace").rc == 1


def test_a_run_that_would_remove_too_much_stops_before_it_changes_anything(mail: MailHost, host: Host, site: Site) -> None:
    declare(site, *NAMES)
    accounts(site)
    state = "sha256sum /var/lib/mailwright/dovecot/* /var/lib/mailwright/postfix/* /var/lib/mailwright/dkim/*.key"
    before = host.check_output(state)
    (site.path / "domains/fir.yml").unlink()
    for arguments in (["--check"], []):
        status, output = site.run(*arguments)
        assert status != 0
        assert re.search(r"this run would remove 5 of \d+ mailboxes \(frank@fir\.test, heidi@fir\.test", output), output
        assert "-e directory_removals_allowed=true" in output
    assert host.check_output(state) == before
    assert found(mail, "kept")
    accounts(site, "-e", "directory_removals_allowed=true")
    assert answer(mail, "frank@fir.test") in (550, 554)
    assert host.check_output("ls /var/vmail").split().count("fir.test") == 0


def test_archived_mail_is_deleted_when_its_date_is_past_and_not_before(host: Host) -> None:
    assert host.service("mailwright-purge-archive.timer").is_running
    assert host.service("mailwright-purge-archive.timer").is_enabled
    purge = "systemctl start mailwright-purge-archive.service"
    kept = host.check_output(f"cd {ARCHIVE} && ls -d *@fir.test/*").split()
    host.check_output(purge)
    assert host.check_output(f"cd {ARCHIVE} && ls -d *@fir.test/*").split() == kept
    past = f"{ARCHIVE}/frank@fir.test/20200101T000000000000Z-until-20200131T000000Z"
    host.check_output(f"mkdir -p {past}/Maildir && touch {past}/Maildir/x && chown -R vmail:vmail {past}")
    host.check_output(purge)
    assert host.check_output(f"cd {ARCHIVE} && ls -d *@fir.test/*").split() == kept
    assert "deleted frank@fir.test/20200101T" in host.check_output(
        "journalctl --sync; journalctl -q -u mailwright-purge-archive.service --since -1min"
    )
