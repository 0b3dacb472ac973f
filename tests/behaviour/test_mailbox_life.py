"""What is off unless declared, all of it on at once: retention, deleted mail in Trash, master users, the log of IMAP, search, scripts
of the inventory, public and shared folders (M8 to M13, M15, M17); and the one key for sessions at once (M12).
"""

from __future__ import annotations

import contextlib
import imaplib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from correspondent import MailHost, send_from_world, until, write
from edits import Site, edited_lab
from mailstore import deliver, imap, search, sieve
from test_imap import attempt, folders, logs_in
from testinfra.host import Host

OVERSEER = "overseer-opens-the-lab"
HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$WOyWk0wkwA0PtOUz2ZoAFw$mITQ/0RaXrRzKf4JPwM++TgebF1dDrzlzE2IGWGdu4M"  # of OVERSEER
HOST = f"""
mail_deleted_to_trash: true
mail_trash_retention: 30d
dovecot_imap_log_enabled: true
dovecot_search_enabled: true
dovecot_sessions_per_user_and_address: 6
mail_sharing: true
mail_sieve_before: |
  require ["fileinto", "mailbox"];
  if header :is "X-Case" "all" {{ fileinto :create "Cases"; stop; }}
mail_sieve_after: |
  require ["fileinto", "mailbox"];
  if header :is "X-Case" "late" {{ fileinto :create "Late"; }}
mail_master_users:
  - {{name: overseer, password_hash: "{HASH}"}}
  - {{name: secretary, password_hash: "{HASH}", submission: true}}
"""
DOMAIN = """domain: oak.test
public_quota: 1M
public_folders:
  - name: Projects
    address: projects
    access:
      - {who: staff, rights: read}
      - {who: carol, rights: add}
      - {who: alice, rights: write}
  - name: Projekte für 2.0
    everyone: read
  - name: Projects/Secret
    access: [{who: alice, rights: write}]
sieve_before: |
  require ["fileinto", "mailbox"];
  if header :is "X-Case" "domain" { fileinto :create "Of the domain"; stop; }
"""
MAILBOX = """
    sieve_before: |
      require ["fileinto", "mailbox"];
      if header :is "X-Case" ["mailbox", "domain"] { fileinto :create "Of the mailbox"; stop; }
    junk_retention: 1s
    trash_retention: 1s
    deleted_to_trash: false
"""
# A mailbox with everything as the host has it, and one with settings of its own.
PLAIN, OWN = "bob@oak.test", "nofiling@oak.test"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The host with every option of this file on; a second run has nothing to do."""
    directory = tmp_path_factory.mktemp("site")
    tags = ("--tags", "packages,directory,dovecot")
    with edited_lab(directory, *tags) as site:
        site.edit("domains/oak.test.yml", "    description: Its junk stays in the inbox\n", MAILBOX)
        site.edit("domains/oak.test.yml", "domain: oak.test\n", DOMAIN)
        with (site.path / "group_vars/mail/mail.yml").open("a") as file:
            file.write(HOST)
        assert site.changed(*tags) > 0
        assert site.changed(*tags) == 0
        yield


@pytest.fixture
def plain(mail: MailHost, accounts: dict[str, str], everything: None) -> Iterator[imaplib.IMAP4_SSL]:
    with imap(mail, PLAIN, accounts[PLAIN]) as session:
        yield session


@pytest.fixture
def own(mail: MailHost, accounts: dict[str, str], everything: None) -> Iterator[imaplib.IMAP4_SSL]:
    with imap(mail, OWN, accounts[OWN]) as session:
        yield session


def put(session: imaplib.IMAP4, folder: str) -> str:
    """The subject of a message that was put into a folder."""
    subject = secrets.token_hex(8)
    kind, answer = session.append(f'"{folder}"', None, None, f"Subject: {subject}\r\n\r\nHello\r\n".encode())
    assert kind == "OK", answer
    return subject


def expunge(session: imaplib.IMAP4, folder: str, subject: str) -> None:
    (number,) = search(session, folder, "Subject", subject)
    session.store(number.decode(), "+FLAGS", r"(\Deleted)")
    session.expunge()


def logged(host: Host, grep: str, *patterns: str) -> None:
    """Wait until Dovecot's log, which a process of its own writes, has lines with `grep`, and among them what fits each pattern."""

    def look() -> bool:
        log = host.run("journalctl --sync; journalctl --quiet --unit dovecot --output cat --since -5min --grep %s", grep).stdout
        return all(re.search(pattern, log) for pattern in patterns)

    until(f"the log has {patterns}", look)


def holds(session: imaplib.IMAP4, subject: str, *folders: str) -> list[str]:
    return [folder for folder in folders if search(session, folder, "Subject", subject)]


# -- as it is without being declared; these come first, before anything is on


def test_nobody_is_a_master_user_unless_declared(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    assert "AUTHENTICATIONFAILED" in attempt(mail, f"{PLAIN}*overseer", OVERSEER)
    assert "AUTHENTICATIONFAILED" in attempt(mail, f"{PLAIN}*overseer", accounts[PLAIN])
    assert not logs_in(mail, "smtp", f"{PLAIN}*overseer", OVERSEER)
    assert host.run("doveconf -h auth_master_user_separator").stdout.strip() == ""
    assert host.run("ls /etc/dovecot/masters-imap").rc != 0


def test_what_is_deleted_is_gone_unless_declared(mail: MailHost, accounts: dict[str, str]) -> None:
    with imap(mail, PLAIN, accounts[PLAIN]) as session:
        subject = put(session, "INBOX")
        expunge(session, "INBOX", subject)
        assert holds(session, subject, "INBOX", "Trash") == []


def test_seven_sessions_at_once_are_no_matter_unless_declared(mail: MailHost, accounts: dict[str, str]) -> None:
    with contextlib.ExitStack() as stack:
        assert [login(stack, mail, "imap", PLAIN, accounts[PLAIN]).split()[1] for _ in range(7)] == ["OK"] * 7


# -- sessions of one user at one address (M12)


def login(stack: contextlib.ExitStack, mail: MailHost, protocol: str, user: str, password: str, source: str = "198.51.100.104") -> str:
    """The answer to a login from this address; the session stays open until the stack ends."""
    port, commands = {"imap": (993, [f"a LOGIN {user} {password}"]), "pop3": (995, [f"USER {user}", f"PASS {password}"])}[protocol]
    plain = stack.enter_context(mail.socket(port, source=source))
    session = stack.enter_context(mail.tls.wrap_socket(plain, server_hostname=mail.hostname))
    file = stack.enter_context(session.makefile("rb"))
    file.readline()
    for command in commands:
        session.sendall(command.encode() + b"\r\n")
        answer = file.readline().decode().strip()
        while answer.startswith("* "):
            answer = file.readline().decode().strip()
    return answer


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_user_has_as_many_sessions_from_one_address_as_declared_and_no_more(
    mail: MailHost, accounts: dict[str, str], host: Host, everything: None, protocol: str
) -> None:
    yes = {"imap": "a OK", "pop3": "+OK"}[protocol]
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            assert login(stack, mail, protocol, PLAIN, accounts[PLAIN]).startswith(yes)
        refused = login(stack, mail, protocol, PLAIN, accounts[PLAIN])
        assert refused.startswith({"imap": "a NO [LIMIT] ", "pop3": "-ERR "}[protocol]), refused
        assert "Maximum number of connections from user+IP exceeded (mail_max_userip_connections=6)" in refused
        assert login(stack, mail, protocol, OWN, accounts[OWN]).startswith(yes), "another user"
        assert login(stack, mail, protocol, PLAIN, accounts[PLAIN], "198.51.100.105").startswith(yes), "another address"
    assert until("a session that ended to be free again", lambda: again(mail, protocol, accounts[PLAIN]).startswith(yes))
    logged(host, "user\\+IP", rf"{protocol}-login: .*[Mm]aximum number of connections from user\+IP.*user=<{PLAIN}>.*rip=198\.51\.100\.104")


def again(mail: MailHost, protocol: str, password: str) -> str:
    with contextlib.ExitStack() as stack:
        return login(stack, mail, protocol, PLAIN, password)


# -- deleted mail (M11)


def test_what_a_client_deletes_goes_to_trash_and_from_there_nowhere(plain: imaplib.IMAP4_SSL) -> None:
    subject = put(plain, "Archive")
    expunge(plain, "Archive", subject)
    assert holds(plain, subject, "Archive", "Trash") == ["Trash"]
    expunge(plain, "Trash", subject)
    assert holds(plain, subject, "Archive", "Trash") == []


@pytest.mark.parametrize("folder", ["Junk", "Drafts"])
def test_deleted_junk_and_drafts_do_not_fill_trash(plain: imaplib.IMAP4_SSL, folder: str) -> None:
    subject = put(plain, folder)
    expunge(plain, folder, subject)
    assert holds(plain, subject, folder, "Trash") == []


@pytest.mark.parametrize("target", ["Archive", "Trash"])
def test_what_is_moved_is_there_once(plain: imaplib.IMAP4_SSL, target: str) -> None:
    subject = put(plain, "INBOX")
    (number,) = search(plain, "INBOX", "Subject", subject)
    assert plain._simple_command("MOVE", number.decode(), target)[0] == "OK"  # type: ignore[attr-defined]
    assert holds(plain, subject, "INBOX", "Archive", "Trash") == [target]
    assert len(search(plain, target, "Subject", subject)) == 1
    expunge(plain, target, subject)


def test_a_mailbox_can_have_its_mail_deleted_at_once(own: imaplib.IMAP4_SSL) -> None:
    subject = put(own, "INBOX")
    expunge(own, "INBOX", subject)
    assert holds(own, subject, "INBOX", "Trash") == []


# -- retention (M10)


def test_junk_and_trash_past_their_time_are_deleted_and_nothing_else(
    mail: MailHost, accounts: dict[str, str], own: imaplib.IMAP4_SSL
) -> None:
    subjects = {folder: put(own, folder) for folder in ("INBOX", "Archive", "Junk", "Trash")}

    def left() -> list[str]:
        # It happens when a session ends.
        with imap(mail, OWN, accounts[OWN]):
            pass
        return [folder for folder, subject in subjects.items() if holds(own, subject, folder)]

    assert until("old mail to be deleted", lambda: left() == ["INBOX", "Archive"])
    for folder in ("INBOX", "Archive"):
        expunge(own, folder, subjects[folder])


def test_mail_within_its_time_stays(mail: MailHost, accounts: dict[str, str], plain: imaplib.IMAP4_SSL) -> None:
    subjects = {folder: put(plain, folder) for folder in ("Junk", "Trash")}
    with imap(mail, PLAIN, accounts[PLAIN]):
        pass
    for folder, subject in subjects.items():
        assert holds(plain, subject, folder) == [folder]
        expunge(plain, folder, subject)


def test_a_delivery_deletes_old_junk_of_a_mailbox_that_nobody_opens(host: Host, own: imaplib.IMAP4_SSL) -> None:
    subject = put(own, "Junk")

    def gone() -> bool:
        deliver(host, OWN, b"Subject: a later one\r\n\r\nHello\r\n")
        return not holds(own, subject, "Junk")

    assert until("old junk to be deleted", gone)


# -- the log of IMAP (M13)


def test_what_is_done_over_imap_is_logged(plain: imaplib.IMAP4_SSL, host: Host) -> None:
    name = f"log-{secrets.token_hex(4)}"
    plain.create(name)
    kind, answer = plain.append(name, None, None, f"Subject: x\r\nMessage-ID: <{name}@oak.test>\r\n\r\nHello\r\n".encode())
    assert kind == "OK", answer
    plain.select(name)
    plain.store("1", "+FLAGS", r"(\Deleted)")
    plain.expunge()
    plain.close()
    plain.delete(name)
    for action in ("save", "delete", "expunge"):
        logged(host, name, rf"imap\({re.escape(PLAIN)}\).* {action}: box={name}, uid=1, msgid=<{name}@oak\.test>, size=\d+")
    logged(host, name, "[Mm]ailbox deleted")


# -- master users (M9)


def test_a_master_user_reads_every_mailbox_with_a_password_of_its_own_and_is_logged(
    mail: MailHost, host: Host, plain: imaplib.IMAP4_SSL
) -> None:
    subject = put(plain, "INBOX")
    with imap(mail, f"{PLAIN}*overseer", OVERSEER) as session:
        assert holds(session, subject, "INBOX") == ["INBOX"]
        expunge(session, "INBOX", subject)
    for protocol in ("pop3", "sieve"):
        assert logs_in(mail, protocol, f"{PLAIN}*overseer", OVERSEER), protocol
    logged(host, "master=<overseer>", f"imap-login: Log(ged )?in: user=<{PLAIN}>, master=<overseer>")


@pytest.mark.parametrize(
    ("login", "password"),
    [
        (f"{PLAIN}*overseer", "wrong"),
        (f"{PLAIN}*nobody", OVERSEER),
        ("overseer", OVERSEER),
        ("nobody-at-all@oak.test*overseer", OVERSEER),
        ("disabled@oak.test*overseer", OVERSEER),
    ],
)
def test_a_master_user_needs_its_own_password_and_a_mailbox_that_may_log_in(
    mail: MailHost, everything: None, login: str, password: str
) -> None:
    assert attempt(mail, login, password) != ""


def test_a_master_user_sends_only_where_that_is_declared(mail: MailHost, host: Host, everything: None) -> None:
    # A process of Postfix's asks the login service that it first met, for up to 100 s.
    host.check_output("postfix reload")
    until("the new processes answer", lambda: logs_in(mail, "smtp", f"{PLAIN}*secretary", OVERSEER))
    assert not logs_in(mail, "smtp", f"{PLAIN}*overseer", OVERSEER)


def test_hashes_of_master_users_are_for_the_login_service_alone(host: Host, everything: None) -> None:
    file = host.file("/etc/dovecot/masters-imap")
    assert (file.user, file.group, file.mode) == ("root", "dovecot", 0o640)


# -- search (M17)


def test_search_finds_text_in_bodies_by_an_index(mail: MailHost, accounts: dict[str, str], host: Host, plain: imaplib.IMAP4_SSL) -> None:
    word = f"needle{secrets.token_hex(6)}"
    folder = f"Haystack-{word}"
    plain.create(folder)
    for number in range(200):
        text = f"Subject: straw {number}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + f"{secrets.token_hex(4)} " * 50
        plain.append(folder, None, None, (text + (f"\r\nein {word} im Büro\r\n" if number == 77 else "")).encode())
    plain.select(folder)
    assert plain.search(None, "BODY", word)[1] == [b"78"]
    assert plain.search(None, "TEXT", word.upper()[3:-3])[1] == [b"78"]
    assert plain.search(None, "BODY", word + "x")[1] == [b""]
    index = host.check_output("find /var/vmail/oak.test/bob -name fts-flatcurve -o -name xapian-indexes")
    assert index
    plain.close()
    plain.delete(folder)


def test_delivered_mail_is_found_at_once(host: Host, plain: imaplib.IMAP4_SSL) -> None:
    word = secrets.token_hex(8)
    deliver(host, PLAIN, f"Subject: x\r\n\r\nfind {word} here\r\n".encode())
    plain.select("INBOX")
    found = plain.search(None, "BODY", word)[1][0].split()
    assert len(found) == 1
    plain.store(found[0].decode(), "+FLAGS", r"(\Deleted)")
    plain.expunge()


def test_a_broken_index_does_not_end_the_session(mail: MailHost, accounts: dict[str, str], host: Host, plain: imaplib.IMAP4_SSL) -> None:
    subject = put(plain, "Archive")
    plain.select("Archive")
    plain.search(None, "BODY", "Hello")
    assert host.check_output("find /var/vmail/oak.test/bob -name iamglass -printf x -exec truncate -s 0 {} +")
    try:
        with imap(mail, PLAIN, accounts[PLAIN]) as session:
            session.select("Archive")
            with contextlib.suppress(imaplib.IMAP4.error):
                session.search(None, "BODY", "Hello")
            assert session.noop()[0] == "OK"
    finally:
        host.check_output(r"find /var/vmail/oak.test/bob \( -name fts-flatcurve -o -name xapian-indexes \) -prune -exec rm -r {} +")
    expunge(plain, "Archive", subject)


# -- scripts of the inventory (M15)


@pytest.mark.parametrize(
    ("address", "case", "folder"),
    [
        (PLAIN, "all", "Cases"),
        (PLAIN, "late", "Late"),
        (PLAIN, "domain", "Of the domain"),
        (PLAIN, "mailbox", "INBOX"),
        (OWN, "mailbox", "Of the mailbox"),
        (OWN, "domain", "Of the domain"),
        ("erin@elm.test", "domain", "INBOX"),
        ("erin@elm.test", "all", "Cases"),
    ],
)
def test_scripts_of_host_domain_and_mailbox_come_in_their_order(
    mail: MailHost, host: Host, accounts: dict[str, str], everything: None, address: str, case: str, folder: str
) -> None:
    subject = secrets.token_hex(8)
    deliver(host, address, f"Subject: {subject}\r\nX-Case: {case}\r\n\r\nHello\r\n".encode())
    with imap(mail, address, accounts[address]) as session:
        assert len(search(session, folder, "Subject", subject)) == 1
        if folder != "INBOX":
            assert not search(session, "INBOX", "Subject", subject)
        expunge(session, folder, subject)


def test_a_users_own_script_comes_between_before_and_after(
    mail: MailHost, host: Host, accounts: dict[str, str], plain: imaplib.IMAP4_SSL
) -> None:
    subject = secrets.token_hex(8)
    with sieve(mail, PLAIN, accounts[PLAIN]) as filters:
        filters.use('require ["fileinto", "mailbox"]; fileinto :create "Own"; stop;')
        for case in ("all", "late"):
            deliver(host, PLAIN, f"Subject: {subject}\r\nX-Case: {case}\r\n\r\nHello\r\n".encode())
    assert holds(plain, subject, "INBOX", "Cases", "Own", "Late") == ["Cases", "Own"]


def test_a_wrong_script_stops_the_run_before_dovecot_is_touched(tmp_path: Path, host: Host, everything: None) -> None:
    before = host.check_output("sha256sum /etc/dovecot/dovecot.conf; find /etc/dovecot/sieve | sort")
    site = Site(tmp_path / "wrong")
    site.edit("domains/oak.test.yml", "domain: oak.test\n", 'domain: oak.test\nsieve_before: |\n  require "fileinto";\n  fileinto "x"\n')
    status, output = site.run("--tags", "dovecot")
    assert status != 0
    assert "before/oak.test.sieve" in output
    assert "line 3" in output or "line 2" in output
    assert host.check_output("sha256sum /etc/dovecot/dovecot.conf; find /etc/dovecot/sieve | sort") == before


# -- public folders and folders of others (M8)

ALICE, CAROL, DAVE = "alice@oak.test", "carol@oak.test", "dave@elm.test"


class People:
    """Sessions of several people."""

    def __init__(self, mail: MailHost, accounts: dict[str, str], stack: contextlib.ExitStack) -> None:
        self.alice, self.bob, self.carol, self.dave = (
            stack.enter_context(imap(mail, name, accounts[name])) for name in (ALICE, PLAIN, CAROL, DAVE)
        )


@pytest.fixture
def people(mail: MailHost, accounts: dict[str, str], everything: None) -> Iterator[People]:
    with contextlib.ExitStack() as stack:
        yield People(mail, accounts, stack)


def below(session: imaplib.IMAP4, prefix: str) -> set[str]:
    return {name for name in folders(session) if name.startswith(prefix + "/")}


def seen(session: imaplib.IMAP4, folder: str, subject: str) -> bool:
    (number,) = search(session, folder, "Subject", subject)
    return rb"\Seen" in session.fetch(number.decode(), "(FLAGS)")[1][0]


def test_public_folders_are_seen_by_whom_they_are_for(people: People) -> None:
    common = {"Public/Projekte f&APw-r 2.0"}
    assert below(people.alice, "Public") == {"Public/Projects", "Public/Projects/Secret"} | common
    assert below(people.bob, "Public") == {"Public/Projects"} | common, "by the group staff"
    assert below(people.carol, "Public") == {"Public/Projects"} | common
    assert below(people.dave, "Public") == set(), "of another domain"
    assert people.bob.select('"Public/Projects/Secret"')[0] == "NO"
    assert people.dave.select('"Public/Projects"')[0] == "NO"


def test_rights_in_a_public_folder_are_those_declared(people: People) -> None:
    folder = '"Public/Projects"'
    rights = {name: session.myrights(folder)[1][0].split()[-1] for name, session in vars(people).items() if name != "dave"}
    assert {name: set(value.decode()) - set("cd") for name, value in rights.items()} == {
        "alice": set("lrswipte"),
        "bob": set("lrs"),
        "carol": set("lrsip"),
    }
    assert people.bob.append(folder, None, None, b"Subject: x\r\n\r\nx\r\n")[0] == "NO"
    subject = put(people.carol, "Public/Projects")
    assert holds(people.bob, subject, "Public/Projects") == ["Public/Projects"]
    for session in (people.bob, people.carol):
        (number,) = search(session, "Public/Projects", "Subject", subject)
        session.store(number.decode(), "+FLAGS", r"(\Deleted)")
        session.expunge()
        assert holds(session, subject, "Public/Projects") == ["Public/Projects"]
    assert people.alice.setacl(folder, PLAIN, "lrswipte")[0] == "NO", "only the inventory says who may what"
    assert people.alice.create('"Public/Projects/new"')[0] == "NO"
    assert people.alice.delete(folder)[0] == "NO"
    expunge(people.alice, "Public/Projects", subject)
    assert not holds(people.bob, subject, "Public/Projects")


def test_mail_to_its_address_comes_into_a_public_folder(people: People, host: Host) -> None:
    message = write("stranger@good.test", "projects@oak.test")
    send_from_world(message, "stranger@good.test", "projects@oak.test")
    number = until("mail in the public folder", lambda: search(people.bob, "Public/Projects", "Message-ID", str(message["Message-ID"])))
    assert len(number) == 1
    people.alice.select('"Public/Projects"')
    people.alice.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
    people.alice.expunge()


def test_what_one_has_read_in_a_public_folder_is_unread_for_others(people: People) -> None:
    subject = put(people.alice, "Public/Projects")
    (number,) = search(people.bob, "Public/Projects", "Subject", subject)
    people.bob.store(number.decode(), "+FLAGS", r"(\Seen)")
    assert seen(people.bob, "Public/Projects", subject)
    assert not seen(people.alice, "Public/Projects", subject)
    expunge(people.alice, "Public/Projects", subject)


def test_public_folders_have_a_quota_of_their_own_and_full_ones_refuse_mail(people: People, mail: MailHost) -> None:
    size = 2**20
    kind, reply = people.alice.append('"Public/Projects"', None, None, b"Subject: big\r\n\r\n" + b"x" * (size - 2000))
    assert kind == "OK", reply
    kind, reply = people.carol.append('"Public/Projects"', None, None, b"Subject: too much\r\n\r\n" + b"x" * 4000)
    assert (kind, b"OVERQUOTA" in reply[0]) == ("NO", True)
    assert put(people.alice, "INBOX"), "a mailbox's own quota is another"
    people.alice.select('"Public/Projects"')
    people.alice.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
    people.alice.expunge()
    assert put(people.carol, "Public/Projects")


def test_nobody_logs_in_as_a_public_folder(mail: MailHost, everything: None) -> None:
    for login, password in (("projects@oak.test", "!"), ("projects@oak.test", ""), ("projects@oak.test*overseer", OVERSEER)):
        assert attempt(mail, login, password) != ""


def test_a_user_shares_a_folder_with_another_and_takes_it_back(mail: MailHost, accounts: dict[str, str], people: People) -> None:
    name = f"Shared-{secrets.token_hex(4)}"
    shared = f"Shared/{ALICE}/{name}"
    people.alice.create(name)
    subject = put(people.alice, name)
    assert people.alice.setacl(name, PLAIN, "lrs")[0] == "OK"
    # New sessions: one that is open already may learn of it later.
    with imap(mail, PLAIN, accounts[PLAIN]) as session:
        assert shared in below(session, "Shared")
        assert holds(session, subject, shared) == [shared]
        assert session.append(f'"{shared}"', None, None, b"Subject: x\r\n\r\nx\r\n")[0] == "NO"
    assert people.carol.select(f'"{shared}"')[0] == "NO"
    with pytest.raises(imaplib.IMAP4.error):
        people.alice.setacl(name, "anyone", "lr")
    people.alice.deleteacl(name, PLAIN)
    with imap(mail, PLAIN, accounts[PLAIN]) as session:
        assert session.select(f'"{shared}"')[0] == "NO"
    people.alice.select("INBOX")
    people.alice.delete(name)


def test_a_script_cannot_file_into_folders_that_its_user_may_not_write(
    mail: MailHost, host: Host, accounts: dict[str, str], people: People
) -> None:
    subject = secrets.token_hex(8)
    with sieve(mail, PLAIN, accounts[PLAIN]) as filters:
        filters.use(f'require "fileinto"; fileinto "Public/Projects/Secret"; fileinto "Shared/{ALICE}/INBOX";')
        deliver(host, PLAIN, f"Subject: {subject}\r\n\r\nHello\r\n".encode())
    assert holds(people.alice, subject, "Public/Projects/Secret", "INBOX") == []
    assert holds(people.bob, subject, "INBOX") == ["INBOX"]
    expunge(people.bob, "INBOX", subject)
