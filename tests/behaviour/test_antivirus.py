"""F7, F10: no virus comes in, and nothing unscanned; what is in quarantine is told, listed, released and deleted.

The lab's one signature finds the EICAR test file, which is harmless and known to every scanner.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attachments import tarred, with_file, zipped
from conftest import ROOT
from correspondent import MailHost, until
from edits import edited_lab
from filtering import BAD, SENDER, forget_greylisting, letter
from test_filter_faults import fault
from test_policy import logged
from test_policy import offer as offered
from testinfra.host import Host
from wire import submission

ALICE, BOB, QUARANTINE, POSTMASTER = "alice@oak.test", "bob@oak.test", "quarantine@oak.test", "postmaster@oak.test"
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
NAME = "Lab.EICAR.UNOFFICIAL"
HELD = 'mailbox Junk header x-quarantine-id ""'


def offer(mail: MailHost, message: str, *recipients: str) -> tuple[int, str]:
    """What a stranger who is not greylisted is told."""
    return offered(mail, message, *recipients, source="198.51.100.116")


def infected(to: str = ALICE, sender: str = SENDER, content: bytes = EICAR) -> tuple[str, str]:
    """(a word of its subject, message)"""
    word = secrets.token_hex(6)
    return word, with_file("notes.txt", content, to=to, sender=sender).replace("Subject: The file", f"Subject: The file {word}")


def quarantine(*arguments: str) -> tuple[int, str]:
    """Status and output of the playbook."""
    argv = [Path(sys.executable).parent / "ansible-playbook", "-i", ROOT / "inventories/lab", ROOT / "playbooks/quarantine.yml"]
    argv += [part for argument in arguments for part in ("-e", argument)]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def held(host: Host, word: str) -> str:
    """The id of the message with that word in its subject, "" where there is none in quarantine."""
    rows = json.loads(
        host.check_output(f'doveadm -f json fetch -u {QUARANTINE} "hdr.subject hdr.x-quarantine-id" {HELD} header subject {word}')
    )
    return rows[0]["hdr.x-quarantine-id"].strip() if rows else ""


def texts(host: Host, mailbox: str, query: str) -> str:
    return host.check_output(f"doveadm fetch -u {mailbox} text mailbox INBOX {query}")


@pytest.fixture(autouse=True)
def empty_quarantine(host: Host) -> Iterator[None]:
    forget_greylisting(host)
    yield
    forget_greylisting(host)
    host.check_output(f"doveadm expunge -u {QUARANTINE} mailbox Junk all")


@pytest.mark.parametrize(
    "content",
    [zipped({"a/b.txt": EICAR}), zipped({"b.zip": zipped({"c.txt": EICAR})}), tarred({"b.txt": EICAR}), b"x" * 3_000_000 + EICAR],
    ids=["zip", "zip-in-zip", "tgz", "large"],
)
def test_a_virus_is_found_wherever_it_hides(mail: MailHost, host: Host, content: bytes) -> None:
    word, message = infected(content=content)
    assert offer(mail, message, ALICE)[0] == 250
    assert until("it is in quarantine", lambda: held(host, word))


def test_own_users_are_told_that_they_send_a_virus(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    with submission(mail, 465, BOB, accounts[BOB]) as session:
        assert session.rcpt(BOB, ALICE) == [250, 250]
        session.code("DATA")
        answer = session.command(infected(sender=BOB)[1].replace("\n", "\r\n") + "\r\n.")
    assert answer == (554, f"5.7.1 Virus found: {NAME}")
    assert logged(host, f"virus found: {NAME}")


def test_what_is_quarantined_is_told_and_released_unfiltered_to_all_whom_it_was_for(mail: MailHost, host: Host) -> None:
    word, message = infected()
    assert (
        offer(mail, f"X-Quarantine-Recipients: mallory@good.test\nX-Quarantine-Id: {64 * 'f'}\n{message}", "Alice+tag@oak.test", BOB)[0]
        == 250
    )
    found = until("it is in quarantine", lambda: held(host, word))
    assert found != 64 * "f"
    assert f"quarantined as {found}: virus {NAME}" in logged(host, f"quarantined as {found}")
    for who in (ALICE, BOB):
        told = until("they hear of it", lambda who=who: texts(host, who, f"text {found}"))
        assert "Subject: A message is in quarantine" in told
        assert f"Reason: virus {NAME}" in told
        assert f"Subject: The file {word}" in told
        assert "EICAR-STANDARD" not in told
    status, output = quarantine()
    assert status == 0
    assert f"{found} " in output
    assert f"from {SENDER} ({SENDER}) to Alice+tag@oak.test, {BOB}: The file {word}" in output
    status, output = quarantine("quarantine_action=release", f"quarantine_ids={found}")
    assert status == 0, output
    assert "release: 1 message" in output
    for who in (ALICE, BOB):
        text = until("they have it", lambda who=who: texts(host, who, f"header subject {word}"))
        assert "X-Quarantine" not in text
        assert f"Return-Path: <{SENDER}>" in text
    assert not held(host, word)
    assert quarantine("quarantine_action=release", f"quarantine_ids={found}")[0] != 0


def test_what_is_deleted_from_quarantine_is_gone_and_nothing_else_is(mail: MailHost, host: Host) -> None:
    ids = []
    for _ in range(2):
        word, message = infected()
        assert offer(mail, message, ALICE)[0] == 250
        ids.append(until("it is in quarantine", lambda word=word: held(host, word)))
    assert f"Subject: The file {word}" in quarantine("quarantine_action=show", f"quarantine_ids={ids[1]}")[1]
    assert quarantine("quarantine_action=delete", f"quarantine_ids={ids[0]}")[0] == 0
    left = host.check_output(f"doveadm fetch -u {QUARANTINE} hdr.x-quarantine-id {HELD}")
    assert ids[0] not in left
    assert ids[1] in left
    assert "needs ids or older_than" in quarantine("quarantine_action=delete")[1]


@contextlib.contextmanager
def no_scanner(host: Host) -> Iterator[None]:
    host.check_output("systemctl stop clamav-daemon.socket clamav-daemon.service")
    try:
        yield
    finally:
        host.check_output("systemctl start clamav-daemon.socket clamav-daemon.service")


def test_without_the_scanner_mail_is_deferred(mail: MailHost, host: Host) -> None:
    message = letter()[1]
    with no_scanner(host):
        assert offer(mail, message, ALICE) == (451, "4.7.1 Virus scanner not ready, try again later")
        assert logged(host, "not scanned for viruses")
    until("it is accepted", lambda: offer(mail, message, ALICE)[0] == 250)


@pytest.mark.parametrize("size", [0, 3_000_000], ids=["small", "large"])
def test_a_hung_scanner_defers_mail_within_bounds(mail: MailHost, host: Host, size: int) -> None:
    message = letter(text="x" * 900 + "\n" + f"{'y' * 900}\n" * (size // 900))[1]
    with fault(host, "clamav-daemon.service", "hung"):
        start = time.monotonic()
        assert offer(mail, message, ALICE) == (451, "4.7.1 Virus scanner not ready, try again later")
        assert time.monotonic() - start < 40
        assert logged(host, "not scanned for viruses")
    until("it is accepted", lambda: offer(mail, message, ALICE)[0] == 250)


def test_an_error_of_the_scanner_is_no_clean_message(mail: MailHost, host: Host) -> None:
    """clamd cannot unpack without a place for temporary files, and says so."""
    host.check_output("systemctl stop clamav-daemon.service")
    host.check_output("mkdir -p /run/systemd/system/clamav-daemon.service.d")
    host.check_output("printf '[Service]\\nReadOnlyPaths=/tmp\\n' > /run/systemd/system/clamav-daemon.service.d/zz-test.conf")
    try:
        host.check_output("systemctl daemon-reload && systemctl start clamav-daemon.service")
        assert offer(mail, infected(content=zipped({"a.txt": EICAR}))[1], ALICE)[0] == 451
    finally:
        host.check_output("rm /run/systemd/system/clamav-daemon.service.d/zz-test.conf && systemctl daemon-reload")
        host.check_output("systemctl restart clamav-daemon.service")


def test_only_the_filter_may_use_the_scanner(host: Host) -> None:
    socket = host.file("/run/clamav/clamd.ctl")
    assert (socket.user, socket.group, socket.mode) == ("clamav", "_rspamd", 0o660)
    score = host.check_output("systemd-analyze security --no-pager clamav-daemon.service | tail -1")
    assert float(re.search(r"level.*: ([\d.]+)", score)[1]) < 2.5, score
    assert host.run("systemctl is-enabled clamav-freshclam.service").stdout.strip() == "disabled"


def test_the_other_actions(mail: MailHost, host: Host, tmp_path: Path) -> None:
    """Infected mail tagged, spam quarantined that would be refused, archives refused, unscanned mail accepted; in one edited inventory."""
    forget_greylisting(host)
    variables = "group_vars/mail/mail.yml"
    with edited_lab(tmp_path, "--tags", "rspamd") as site:
        site.edit(variables, "  action: quarantine\n", "  action: tag\n  unscanned: accept\n")
        site.edit(variables, "mail_quarantine: {", "mail_quarantine: {spam: true, notify_recipients: false, ")
        site.edit(variables, "refuse: [executables, scripts, macros, encrypted_archives]", "refuse: [archives]")
        assert site.changed("--tags", "rspamd") == 1
        word, message = infected()
        assert offer(mail, message, ALICE)[0] == 250
        tagged = until("it is in Junk", lambda: host.check_output(f"doveadm fetch -u {ALICE} text mailbox Junk header subject {word}"))
        assert f"X-Virus: {NAME}" in tagged
        message_id, message = letter(BAD, to="dave@elm.test")
        assert offer(mail, message, "dave@elm.test")[0] == 250
        query = f"doveadm fetch -u {QUARANTINE} hdr.x-quarantine-reason mailbox Junk header message-id '{message_id}'"
        assert "spam, 1" in until("it is in quarantine", lambda: host.check_output(query))
        assert offer(mail, with_file("photos.zip", zipped({"a.txt": b"x"})), ALICE)[1].endswith("(archives)")
        document = with_file("report.docx", zipped({"[Content_Types].xml": b"<Types/>"}))
        assert offer(mail, document, ALICE)[0] == 250
        with no_scanner(host):
            assert offer(mail, letter()[1], ALICE)[0] == 250
        with fault(host, "clamav-daemon.service", "hung"):
            start = time.monotonic()
            assert offer(mail, letter()[1], ALICE)[0] == 250
            assert time.monotonic() - start < 40


def test_once_switched_off_nothing_of_the_scanner_runs_or_is_left(mail: MailHost, host: Host, tmp_path: Path) -> None:
    units = "clamav-daemon.socket clamav-daemon.service clamav-freshclam.service"
    with edited_lab(tmp_path) as site:
        site.edit("group_vars/mail/mail.yml", "  action: quarantine\n", "  action: none\n")
        # Of a service whose turn is earlier in the same run.
        (site.path / "group_vars/mail/pop3.yml").write_text("dovecot_pop3_enabled: false\n")
        assert site.changed() > 0
        assert site.changed() == 0
        assert set(host.run(f"systemctl is-active {units}").stdout.split()) == {"inactive"}
        assert set(host.run(f"systemctl is-enabled {units}").stdout.split()) == {"disabled"}
        assert host.run("pgrep -x 'clamd|freshclam'").rc == 1
        assert not host.file("/run/clamav/clamd.ctl").exists
        assert not host.file("/var/lib/clamav/lab.ndb").exists
        assert host.check_output("grep -rl Mailwright /etc/clamav /etc/systemd/system/clamav* || true") == ""
        word, message = infected()
        assert offer(mail, message, ALICE)[0] == 250
        until("it is delivered", lambda: texts(host, ALICE, f"header subject {word}"))
    word, message = infected()
    assert offer(mail, message, ALICE)[0] == 250
    assert until("it is in quarantine again", lambda: held(host, word))
