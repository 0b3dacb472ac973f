"""What the filter does to mail from outside: refuse, defer, mark, leave alone; and who may talk to it."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage

import correspondent
import hosts
import pytest
from correspondent import MailHost, until
from filtering import BAD, CLIENT, DOUBTFUL, GTUBE, REDIS, SUSPECT, forget_greylisting, let_an_hour_pass, letter, offer
from mailstore import imap
from testinfra.host import Host

ALICE, BOB, DAVE = "alice@oak.test", "bob@oak.test", "dave@elm.test"
CONTROLLER = "/run/rspamd/controller.sock"


@pytest.fixture(autouse=True)
def nobody_is_greylisted(host: Host) -> Iterator[None]:
    forget_greylisting(host)
    yield
    forget_greylisting(host)


def received(mail: MailHost, accounts: dict[str, str], address: str, message_id: str, folder: str = "INBOX") -> EmailMessage:
    """The delivered message."""
    raw = mail.find(address, accounts[address], message_id, folder)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_spam_is_refused_before_it_is_accepted(mail: MailHost) -> None:
    _, message = letter(text=GTUBE)
    assert offer(mail, message, ALICE) == 554


def test_junk_is_marked_and_filed_into_junk(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    message_id, message = letter(SUSPECT)
    assert offer(mail, message, ALICE) == 451
    let_an_hour_pass(host)
    assert offer(mail, message, ALICE) == 250
    assert received(mail, accounts, ALICE, message_id, "Junk").get_all("X-Spam") == ["Yes"]


def test_a_doubtful_message_is_taken_when_its_sender_tries_again(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    message_id, message = letter(DOUBTFUL)
    assert offer(mail, message, ALICE) == 451
    assert offer(mail, message, ALICE) == 451
    let_an_hour_pass(host)
    assert offer(mail, message, ALICE) == 250
    assert "X-Spam" not in received(mail, accounts, ALICE, message_id)


def test_an_ordinary_message_waits_for_nothing(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, message = letter()
    assert offer(mail, message, ALICE) == 250
    assert received(mail, accounts, ALICE, message_id)


@pytest.mark.parametrize("recipient", [DAVE, "DAVE@ELM.TEST", "dave+tag@elm.test", "catch-all@elm.test"])
def test_a_stricter_domain_refuses_what_another_files_as_junk(mail: MailHost, host: Host, recipient: str) -> None:
    assert offer(mail, letter(BAD)[1], recipient) == 554
    forget_greylisting(host)
    assert offer(mail, letter(BAD)[1], ALICE) == 451


def test_the_most_patient_recipient_decides_for_all(mail: MailHost) -> None:
    assert offer(mail, letter(BAD)[1], DAVE, ALICE) == 451


def test_a_sender_whose_domain_asks_for_it_is_refused(mail: MailHost) -> None:
    _, message = letter(sender="somebody@good.test")
    assert offer(mail, message, ALICE) == 554


def test_results_and_marks_of_strangers_do_not_get_in(mail: MailHost, accounts: dict[str, str]) -> None:
    forged = "Authentication-Results: mail.oak.test; dkim=pass header.d=bank.test\nX-Spam: No\nX-Spamd-Result: forged\n"
    message_id, message = letter(headers=forged)
    assert offer(mail, message, ALICE) == 250
    found = received(mail, accounts, ALICE, message_id)
    assert len(found.get_all("Authentication-Results", [])) == 1
    assert "bank.test" not in str(found["Authentication-Results"])
    assert "X-Spam" not in found


def test_the_results_of_spf_dkim_and_dmarc_are_written_down(mail: MailHost, accounts: dict[str, str]) -> None:
    message = correspondent.write("grace@good.test", ALICE)
    correspondent.send_from_world(message, "grace@good.test", ALICE)
    results = str(received(mail, accounts, ALICE, str(message["Message-ID"]))["Authentication-Results"])
    assert results.startswith(mail.hostname)
    assert {"dkim=pass", "spf=pass", "dmarc=pass"} <= set(results.replace(";", " ").split())


def test_a_user_cannot_pass_forged_results_to_another(mail: MailHost, accounts: dict[str, str]) -> None:
    message = correspondent.write(BOB, ALICE, Authentication_Results=f"{mail.hostname}; dkim=pass header.d=bank.test")
    mail.submit(BOB, accounts[BOB], message)
    assert "Authentication-Results" not in received(mail, accounts, ALICE, str(message["Message-ID"]))


def test_what_the_filter_thinks_stays_here(mail: MailHost, accounts: dict[str, str]) -> None:
    message = correspondent.write(ALICE, "grace@good.test", subject="$$$ BUY NOW $$$")
    mail.submit(ALICE, accounts[ALICE], message)
    raw = hosts.world_mailbox("good.test", "grace", str(message["Message-ID"]))
    assert not [name for name in email.message_from_bytes(raw) if name.lower().startswith(("x-spam", "x-rspamd"))]


def test_moving_a_message_into_junk_and_out_again_teaches_bayes(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    def learned(kind: str) -> int:
        return int(host.check_output(f"{REDIS} HGET RS learns_{kind}") or 0)

    message_id, message = letter(text="Words that nobody has ever written before, enough of them to be learned from.\n" * 3)
    assert offer(mail, message, BOB) == 250
    received(mail, accounts, BOB, message_id)
    for source, target, kind in [("INBOX", "Junk", "spam"), ("Junk", "INBOX", "ham")]:
        before = learned(kind)
        with imap(mail, BOB, accounts[BOB]) as session:
            session.select(source)
            number = session.search(None, "HEADER", "Message-ID", message_id)[1][0].decode()
            assert session._simple_command("MOVE", number, target)[0] == "OK"
        assert until(f"{kind} learned", lambda: learned(kind) > before)  # noqa: B023 (used within the iteration)


@pytest.mark.parametrize("user", ["nobody", "vmail", "www-data", "postfix"])
def test_only_the_filter_itself_may_command_the_filter(host: Host, user: str) -> None:
    assert host.run(f"runuser -u {user} -- rspamc --connect {CONTROLLER} stat").rc != 0
    assert host.run(f"runuser -u _rspamd -- rspamc --connect {CONTROLLER} stat").rc == 0


@pytest.mark.parametrize("user", ["nobody", "vmail", "www-data", "postfix"])
def test_only_the_filter_may_enter_redis(host: Host, user: str) -> None:
    assert "Permission denied" in host.run(f"runuser -u {user} -- {REDIS} PING 2>&1").stdout
    assert host.check_output(f"{REDIS} PING") == "PONG"


@pytest.mark.parametrize("command", ["CONFIG GET dir", "DEBUG SLEEP 0"])
def test_redis_takes_no_dangerous_commands(host: Host, command: str) -> None:
    assert "unknown command" in host.run(f"{REDIS} {command}").stdout


def test_filter_and_redis_have_no_port_on_the_network(host: Host) -> None:
    listening = {line.split()[3] for line in host.check_output("ss -Hlnt").splitlines()}
    assert not {address for address in listening if address.endswith((":11333", ":6379"))}
    assert {address for address in listening if address.endswith(":11334")} <= {"127.0.0.1:11334"}, "for the web interface"
    assert {address for address in listening if address.endswith(":11332")} == {"127.0.0.1:11332"}


def test_the_filter_is_a_user_without_rights(host: Host) -> None:
    main = host.check_output("systemctl show -P MainPID rspamd")
    status = dict(line.split(":", 1) for line in host.file(f"/proc/{main}/status").content_string.splitlines())
    assert status["CapEff"].strip() == "0" * 16
    assert status["NoNewPrivs"].strip() == "1"
    assert host.file("/var/lib/mailwright/dkim").mode == 0o750


def test_the_client_was_one_nobody_knows(mail: MailHost) -> None:
    """The other tests here mean nothing if the stranger's letters are refused for where they come from."""
    assert offer(mail, letter()[1], ALICE, source=CLIENT) == 250
