"""Living with it: the inventory is edited and the playbook run again (M1, M2, D5, D9, A1, O1, O11, O12; promises of runs).

Each run is a real ansible-playbook from a copy of the lab's inventory; at the end the lab's own inventory is live again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import main_pid
from correspondent import MailHost
from edits import CANARY, Site, answer, edited_lab, logs_in
from testinfra.host import Host
from wire import submission

DAEMONS = ["postfix", "dovecot", "rspamd", "nginx", "redis-server", "unbound"]


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Afterwards the lab's own inventory is live."""
    with edited_lab(tmp_path_factory.mktemp("edits")):
        yield


@pytest.fixture
def site(tmp_path: Path, restored: None) -> Site:
    return Site(tmp_path / "inventory")


def processes(host: Host) -> dict[str, str]:
    """Daemon → its main process."""
    return {unit: main_pid(host, unit) for unit in DAEMONS}


def test_check_mode_tells_that_there_is_nothing_to_change(site: Site) -> None:
    assert site.changed("--check", "--diff") == 0


def test_what_was_changed_by_hand_is_put_right(mail: MailHost, host: Host, site: Site) -> None:
    files = ["/etc/nginx/nginx.conf", "/etc/postfix/main.cf", "/var/lib/mailwright/postfix/virtual_aliases"]
    state = host.check_output("stat -c '%U:%G %a' " + " ".join(files) + "; sha256sum " + " ".join(files))
    host.check_output("echo '# by hand' >>/etc/nginx/nginx.conf")
    host.check_output("chmod 0666 /etc/postfix/main.cf")
    host.check_output("echo 'alice@oak.test bob@oak.test' >>/var/lib/mailwright/postfix/virtual_aliases")
    host.check_output("systemctl stop unbound")
    assert site.changed("--check") == 4
    assert site.changed() == 4
    assert host.check_output("stat -c '%U:%G %a' " + " ".join(files) + "; sha256sum " + " ".join(files)) == state
    assert host.service("unbound").is_running
    assert site.changed() == 0


def test_an_edit_goes_live_in_one_run_without_ending_a_process(mail: MailHost, host: Host, site: Site) -> None:
    (site.path / "domains/fir.yml").write_text(
        f"domain: Fir.test\nmailboxes:\n  - {{name: Frank, password: {CANARY}}}\n"
        "aliases:\n  - {name: sales, to: [frank, alice@oak.test, somebody@good.test]}\n"
    )
    before = processes(host)
    state = host.check_output("sha256sum /var/lib/mailwright/dovecot/users /var/lib/mailwright/postfix/*.lmdb")
    status, output = site.run("--check", "--diff", "-vvv", "--tags", "accounts")
    assert status == 0, output[-4000:]
    assert "fir.test" in output
    assert CANARY not in output
    assert host.check_output("sha256sum /var/lib/mailwright/dovecot/users /var/lib/mailwright/postfix/*.lmdb") == state
    assert answer(mail, "frank@fir.test") == 554

    status, output = site.run("--diff", "-vvv", "--tags", "accounts")
    assert status == 0, output[-4000:]
    assert CANARY not in output
    assert CANARY not in host.check_output("journalctl --quiet --since -5min")
    assert logs_in(mail, "frank@fir.test", CANARY)
    assert answer(mail, "frank@fir.test") == 250, "a daemon may remember that it refused this"
    assert answer(mail, "FRANK@FIR.TEST") == 250
    assert answer(mail, "sales@fir.test") == 250
    assert answer(mail, "postmaster@fir.test") == 250
    assert processes(host) == before

    (site.path / "domains/fir.yml").unlink()
    assert site.changed("--tags", "accounts") > 0
    assert answer(mail, "frank@fir.test") in (550, 554)
    assert not logs_in(mail, "frank@fir.test", CANARY)


def test_a_password_is_owned_by_the_inventory_or_only_seeded_by_it(
    mail: MailHost, host: Host, site: Site, accounts: dict[str, str]
) -> None:
    def hashes() -> dict[str, str]:
        lines = host.file("/var/lib/mailwright/dovecot/users").content_string.splitlines()
        return {line.split(":")[0]: line.split(":")[1] for line in lines if line and not line.startswith("#")}

    before = hashes()
    variables = "group_vars/mail/mail.yml"
    site.edit(variables, "bob@oak.test: bob-opens-the-lab", f"bob@oak.test: {CANARY}")
    site.edit(variables, "erin@elm.test: erin-opens-the-lab", f"erin@elm.test: {CANARY}")
    assert site.changed("--tags", "accounts") > 0
    after = hashes()
    assert {name for name in before if after[name] != before[name]} == {"bob@oak.test"}, "every other hash is kept"
    assert logs_in(mail, "bob@oak.test", CANARY)
    assert not logs_in(mail, "bob@oak.test", accounts["bob@oak.test"])
    assert logs_in(mail, "erin@elm.test", accounts["erin@elm.test"]), "on_create"
    site.edit(variables, f"bob@oak.test: {CANARY}", "bob@oak.test: bob-opens-the-lab")
    assert site.changed("--tags", "accounts") > 0
    assert logs_in(mail, "bob@oak.test", accounts["bob@oak.test"])


def test_a_wrong_inventory_touches_nothing(host: Host, site: Site) -> None:
    def modules_run() -> str:
        return host.check_output("journalctl --sync; journalctl --quiet --output cat --grep 'Invoked with' | wc -l")

    site.edit("domains/oak.test.yml", "    to: [alice]\n", "    to: [nobody-here]\n")
    before = modules_run()
    status, output = site.run()
    assert status != 0
    line = (site.path / "domains/oak.test.yml").read_text().splitlines().index("    to: [nobody-here]") + 1
    assert re.search(rf"domains/oak\.test\.yml:{line}: aliases\[\d+\]\.to\[0\]: nobody-here@oak\.test: no mailbox", output), output
    assert "No host was contacted" in output
    assert modules_run() == before


def test_an_override_wins_and_a_wrong_one_never_goes_live(mail: MailHost, host: Host, site: Site) -> None:
    def timeout() -> str:
        return host.check_output("postconf -h smtp_helo_timeout")

    pid = main_pid(host, "postfix")
    assert site.changed("--tags", "postfix", "-e", "{postfix_main_overrides: {smtp_helo_timeout: 77s}}") == 1
    assert timeout() == "77s"
    wrong = "{smtp_hello_timeout: 1s, smtpd_sender_restrictions: permitt_mynetworks}"
    status, output = site.run("--tags", "postfix", "-e", f"{{postfix_main_overrides: {wrong}}}")
    assert status != 0
    assert "smtp_hello_timeout" in output, output[-3000:]
    assert "permitt_mynetworks" in output, output[-3000:]
    assert timeout() == "77s", "what worked is live"
    assert answer(mail, "alice@oak.test") == 250
    assert site.changed("--tags", "postfix") == 1
    assert timeout() == "300s"
    assert main_pid(host, "postfix") == pid


def test_what_does_not_answer_is_rolled_back(mail: MailHost, host: Host, site: Site) -> None:
    before = host.check_output("sha256sum /etc/nginx/nginx.conf")
    # nginx takes it, and then has no connection left for the probe.
    status, output = site.run("--tags", "nginx", "-e", "{nginx_overrides: {events: {worker_connections: 5}}}")
    assert status != 0, output[-3000:]
    assert "The previous configuration is back" in output, output[-3000:]
    assert host.check_output("sha256sum /etc/nginx/nginx.conf") == before
    assert host.service("nginx").is_running


def test_mail_to_a_name_with_an_umlaut_arrives(mail: MailHost, accounts: dict[str, str]) -> None:
    address = "joerg@xn--bcher-kva.test"
    assert answer(mail, address) == 250
    with submission(mail, 465, address, accounts[address]) as session:
        assert session.code(f"MAIL FROM:<{address}>") == 250


def test_a_catch_all_takes_what_nobody_else_does(mail: MailHost) -> None:
    assert answer(mail, "whoever@elm.test") == 250
    assert answer(mail, "erin@elm.test") == 250
    assert answer(mail, "whoever@oak.test") == 550
