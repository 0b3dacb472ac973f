"""A mailbox that gets much and that nobody reads: deliveries stay as cheap as they were, because its index follows."""

from __future__ import annotations

from correspondent import MailHost
from mailstore import imap
from testinfra.host import Host

BOB = "bob@oak.test"
MAILDIR = "/var/vmail/oak.test/bob/Maildir"
MESSAGES = 1000
LMTP = "/var/spool/postfix/private/dovecot-lmtp"
TIMER, SERVICE = "mailwright-sync-indexes.timer", "mailwright-sync-indexes.service"


def test_the_index_of_a_folder_that_nobody_reads_follows_its_deliveries(mail: MailHost, host: Host, accounts: dict[str, str]) -> None:
    assert host.service(TIMER).is_running
    assert host.service(TIMER).is_enabled
    with imap(mail, BOB, accounts[BOB]) as session:
        held = int(session.select("INBOX")[1][0])
    # Its time may come just now: it comes when this test says so. What earlier tests have left is not its concern.
    host.check_output(f"systemctl stop {TIMER}; systemctl start {SERVICE}")
    began = host.check_output("date +%s.%N")
    host.check_output(f"rm -f {MAILDIR}/dovecot.index {MAILDIR}/dovecot.index.log*")
    try:
        # One after the other: those at the same moment are left for the next reader to find.
        host.check_output(f"smtp-source -L -d -s 1 -m {MESSAGES} -l 300 -f '' -t {BOB} unix:{LMTP}")
        log = host.file(f"{MAILDIR}/dovecot.index.log").size
        assert log > 128 * 1024
        assert not host.file(f"{MAILDIR}/dovecot.index").exists, "deliveries write it by themselves: the timer has no use any more"
        host.check_output(f"systemctl start {SERVICE}")
        assert host.file(f"{MAILDIR}/dovecot.index").exists
        # Once more, with nothing to do.
        host.check_output(f"systemctl start {SERVICE}; journalctl --sync")
        # That it was started and has ended is not worth a line every ten minutes.
        assert host.check_output(f"journalctl -q -o cat -u {SERVICE} --since @{began}") == f"1 mailboxes: {BOB}"
        with imap(mail, BOB, accounts[BOB]) as session:
            assert int(session.select("INBOX")[1][0]) == held + MESSAGES
    finally:
        host.check_output(f"systemctl start {TIMER}")
        with imap(mail, BOB, accounts[BOB]) as session:
            session.select("INBOX")
            session.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
            session.expunge()
    assert float(host.check_output(f"systemd-analyze security --no-pager {SERVICE} | tail -1").split(": ")[1].split()[0]) < 2.5
