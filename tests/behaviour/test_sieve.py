"""Filters of users: ManageSieve, what a script may do and what it may not (M15; S6, S18, S29 to S32 of the targets)."""

from __future__ import annotations

import email
import secrets
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from correspondent import MailHost, until, write
from mailstore import ManageSieve, deliver, imap, mailbox, plain_mailboxes, search, sieve
from test_addresses import delivered
from testinfra.host import Host

REQUIRE = 'require ["fileinto", "mailbox", "envelope", "subaddress", "variables", "vacation", "copy"];\n'


@pytest.fixture
def owner(model: dict[str, Any]) -> str:
    """Whose script is tested."""
    return plain_mailboxes(model)[0]


@pytest.fixture
def other(model: dict[str, Any]) -> str:
    """Another mailbox of the host."""
    return plain_mailboxes(model)[1]


@pytest.fixture
def session(mail: MailHost, accounts: dict[str, str], owner: str) -> Iterator[ManageSieve]:
    """The owner's ManageSieve session."""
    with sieve(mail, owner, accounts[owner]) as session:
        yield session


@pytest.fixture
def message(owner: str) -> bytes:
    """A message with a subject of its own."""
    return write("friend@good.test", owner, secrets.token_hex(8)).as_bytes()


def subject(message: bytes) -> str:
    return message.decode().partition("Subject: ")[2].partition("\r\n")[0]


def count(mail: MailHost, address: str, password: str, text: str, folder: str = "INBOX") -> int:
    """How many messages in `folder` have `text` in their subject; they are deleted."""
    with imap(mail, address, password) as box:
        if box.select(f'"{folder}"', readonly=True)[0] != "OK":
            return 0
        found = search(box, folder, "Subject", text)
        for number in found:
            box.store(number.decode(), "+FLAGS", r"(\Deleted)")
        box.expunge()
        return len(found)


def test_managesieve_takes_no_password_before_starttls(mail: MailHost, accounts: dict[str, str], owner: str) -> None:
    with ManageSieve(mail, starttls=False) as clear:
        assert '"STARTTLS"' in clear.capabilities
        assert '"SASL" ""' in clear.capabilities
        assert clear.login(owner, accounts[owner]).startswith("NO (ENCRYPT-NEEDED)")


def test_commands_sent_before_the_handshake_are_not_obeyed_after_it(mail: MailHost) -> None:
    with mail.socket(4190) as plain:
        while not plain.recv(4096).endswith(b'ready."\r\n'):
            pass
        plain.sendall(b"STARTTLS\r\nNOOP\r\n")
        assert plain.recv(4096).startswith(b"OK")
        # They are taken for the handshake, which fails.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            mail.tls.wrap_socket(plain, server_hostname=mail.hostname)


def test_a_script_files_into_a_new_folder_with_a_dot(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, session: ManageSieve, message: bytes
) -> None:
    session.use(f'{REQUIRE}if header :is "subject" "{subject(message)}" {{ fileinto :create "lists/a.b"; }}')
    deliver(host, owner, message)
    with imap(mail, owner, accounts[owner]) as box:
        assert len(search(box, "lists/a.b", "Subject", subject(message))) == 1
        box.close()
        assert box.delete('"lists/a.b"')[0] == "OK"
    assert count(mail, owner, accounts[owner], subject(message)) == 0


def test_a_script_sees_the_tag_of_the_address(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, session: ManageSieve, message: bytes
) -> None:
    session.use(f'{REQUIRE}if envelope :detail :matches "to" "*" {{ fileinto :create "tag-${{1}}"; }}')
    local, _, domain = owner.partition("@")
    deliver(host, f"{local}+Lists@{domain}", message)
    with imap(mail, owner, accounts[owner]) as box:
        assert len(search(box, "tag-Lists", "Subject", subject(message))) == 1
        box.close()
        box.delete("tag-Lists")


def test_without_a_script_the_tag_chooses_no_folder(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, message: bytes
) -> None:
    local, _, domain = owner.partition("@")
    deliver(host, f"{local}+Drafts@{domain}", message)
    assert count(mail, owner, accounts[owner], subject(message)) == 1


def test_a_vacation_answers_a_person_once(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, other: str, session: ManageSieve
) -> None:
    token = secrets.token_hex(8)
    session.use(f'{REQUIRE}vacation :days 1 :subject "away {token}" "I am on holiday.";')
    for _ in range(2):
        deliver(host, owner, write(other, owner, f"question {token}").as_bytes(), sender=other)
    deliver(host, owner, write(other, owner, f"question {token}", Precedence="bulk").as_bytes(), sender="")
    assert until("the answer", lambda: count(mail, other, accounts[other], f"away {token}")) == 1
    assert count(mail, owner, accounts[owner], f"question {token}") == 3
    assert count(mail, other, accounts[other], f"away {token}") == 0


def test_a_redirect_arrives_at_another_mailbox(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, other: str, session: ManageSieve, message: bytes
) -> None:
    session.use(f'{REQUIRE}redirect :copy "{other}";')
    deliver(host, owner, message)
    assert until("the redirected message", lambda: count(mail, other, accounts[other], subject(message))) == 1
    assert count(mail, owner, accounts[owner], subject(message)) == 1


def test_two_mailboxes_that_redirect_to_each_other_do_not_loop(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, other: str, session: ManageSieve, message: bytes
) -> None:
    session.use(f'{REQUIRE}redirect :copy "{other}";')
    with sieve(mail, other, accounts[other]) as second:
        second.use(f'{REQUIRE}redirect :copy "{owner}";')
        deliver(host, owner, message)
        copies = until("the redirected message", lambda: count(mail, other, accounts[other], subject(message)))
        delivered(host, str(email.message_from_bytes(message)["Message-ID"]))
        copies += count(mail, other, accounts[other], subject(message))
        assert copies == 1
        assert count(mail, owner, accounts[owner], subject(message)) <= 2


def test_a_script_with_many_redirects_is_cut(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, session: ManageSieve, message: bytes
) -> None:
    local, _, domain = owner.partition("@")
    session.use("".join(f'redirect "{local}+{number}@{domain}";\n' for number in range(6)))
    deliver(host, owner, message)
    # The script fails as a whole, and the message stays in the inbox.
    assert count(mail, owner, accounts[owner], subject(message)) == 1


@pytest.mark.parametrize(
    "script",
    [
        'require "vnd.dovecot.pipe"; pipe "learn-spam";',
        'require "vnd.dovecot.execute"; execute "learn-spam";',
        'require "vnd.dovecot.filter"; filter "learn-spam";',
        'require "vnd.dovecot.environment";',
        'require "editheader"; addheader "X-A" "b";',
        'require "include"; include :global "../../../etc/passwd";',
    ],
)
def test_a_script_of_a_user_starts_no_program(session: ManageSieve, script: str) -> None:
    answer = session.put("test", script)
    if answer.startswith("OK"):  # `include` is looked up when the script runs
        assert "include" in script
    else:
        assert "restricted to global scripts" in answer or "unknown Sieve capability" in answer or "include" in answer


@pytest.mark.parametrize("name", ["a/b", "../x", "/etc/x", "x" * 1000, "..", "a\u0001b"])
def test_names_of_scripts_cannot_leave_their_directory(session: ManageSieve, host: Host, owner: str, name: str) -> None:
    local, _, domain = owner.partition("@")
    outside = f"find /var/vmail /etc/dovecot -newermt @%s -name '*.sieve' -not -path /var/vmail/{domain}/{local}/sieve/*"
    start = host.check_output("date +%s")
    session.put(name, "keep;")
    session.command(f'DELETESCRIPT "{name}"')
    assert host.check_output(outside, start) == ""


def test_a_script_larger_than_256_kib_is_refused(session: ManageSieve) -> None:
    assert session.put("test", "#" + "x" * 200_000 + "\nkeep;").startswith("OK")
    assert session.put("test", ("#" + "x" * 1000 + "\n") * 300 + "keep;").startswith("NO")


def test_a_mailbox_holds_at_most_20_scripts(session: ManageSieve) -> None:
    names = [f"s{number}" for number in range(21)]
    try:
        answers = [session.put(name, "keep;")[:2] for name in names]
        assert answers == ["OK"] * 20 + ["NO"]
    finally:
        for name in names:
            session.command(f'DELETESCRIPT "{name}"')


def test_a_script_cannot_keep_a_delivery_busy(
    mail: MailHost, host: Host, accounts: dict[str, str], owner: str, session: ManageSieve, message: bytes
) -> None:
    value = f'require "variables";\nset "a" "{"a" * 3000}";\n'
    # One such back reference runs for hours, and sieve_max_cpu_time cannot interrupt it.
    answer = session.put("test", f"""require "regex";\n{value}if string :regex "${{a}}" "(a*)(a*)\\1\\2b" {{ stop; }}""")
    assert "unknown Sieve capability" in answer
    session.use(value + f'if string :matches "${{a}}" "{"*a" * 40}b" {{ discard; }}\n' * 20)
    start = time.monotonic()
    deliver(host, owner, message)
    # Dovecot ends it after 10 s of the processor's time; by itself it would take hours.
    assert time.monotonic() - start < 120
    assert count(mail, owner, accounts[owner], subject(message)) == 1


def test_a_mailbox_without_sieve_cannot_change_filters(mail: MailHost, accounts: dict[str, str], model: dict[str, Any]) -> None:
    address = mailbox(model, denied_protocols="sieve")
    with ManageSieve(mail) as session:
        assert session.login(address, accounts[address]).startswith("NO")
