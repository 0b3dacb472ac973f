"""I8: what SPF, DKIM, DMARC and ARC say of incoming mail is written down, followed as declared, and reported to who asks for it.

The domains to send from are in molecule/shared/laboratory/world.py, the consequences in inventories/lab/group_vars/mail/mail.yml.
"""

from __future__ import annotations

import email
import email.policy
import email.utils
import gzip
import re
import time
from collections.abc import Iterator
from xml.etree import ElementTree

import correspondent
import dkim
import hosts
import pytest
from correspondent import MailHost, until
from filtering import CLIENT, NAME, REDIS, SENDER, forget_greylisting, let_an_hour_pass, letter
from testinfra.host import Host
from wire import stranger

ALICE = "alice@oak.test"
KEY = (hosts.HOME / "dkim/world.key").read_bytes()  # of all the world's mail servers


@pytest.fixture(autouse=True)
def nobody_is_greylisted(host: Host) -> Iterator[None]:
    forget_greylisting(host)
    yield
    forget_greylisting(host)


def offer(mail: MailHost, message: str, sender: str = SENDER) -> tuple[int, str]:
    """A stranger's attempt to deliver to alice: the reply to the whole message."""
    with stranger(mail, source=CLIENT, name=NAME) as session:
        assert session.rcpt(sender, ALICE) == [250, 250]
        assert session.code("DATA") == 354
        return session.command(message.replace("\n", "\r\n") + "\r\n.")


def results(mail: MailHost, accounts: dict[str, str], message_id: str, folder: str = "INBOX") -> str:
    """The one Authentication-Results header of a message that has come to alice."""
    message = email.message_from_bytes(mail.find(ALICE, accounts[ALICE], message_id, folder), policy=email.policy.default)
    (found,) = message.get_all("Authentication-Results", [])
    text = " ".join(str(found).split())
    assert text.startswith(f"{mail.hostname};"), text
    return text


def signed(message: str, domain: str) -> str:
    """With a DKIM signature of the domain."""
    octets = message.replace("\n", "\r\n").encode()
    signature = dkim.sign(octets, b"world", domain.encode(), KEY, include_headers=[b"from", b"subject", b"to"])
    return (signature + octets).decode().replace("\r\n", "\n")


# Consequences


def test_the_policy_reject_of_the_domain_in_from_is_followed(mail: MailHost) -> None:
    code, text = offer(mail, letter(sender="somebody@good.test")[1])
    assert code == 554
    assert text == "5.7.1 Not authenticated as the domain in From demands (DMARC)"


def test_the_policy_quarantine_of_the_domain_in_from_is_followed(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, message = letter(sender="somebody@quarantine.good.test")
    assert offer(mail, message)[0] == 250
    found = results(mail, accounts, message_id, "Junk")
    assert re.search(r"dmarc=fail .*header\.from=quarantine\.good\.test", found)


def test_a_domain_that_only_wants_reports_loses_no_mail(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, message = letter(sender="somebody@lenient.good.test")
    assert offer(mail, message)[0] == 250
    found = results(mail, accounts, message_id)
    assert re.search(r"dmarc=fail .*header\.from=lenient\.good\.test", found)


def test_an_spf_failure_counts_as_spam_where_nothing_else_is_declared(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    message_id, message = letter(sender="somebody@lenient.good.test")
    assert offer(mail, message, "somebody@lenient.good.test")[0] == 451, "greylisted"
    let_an_hour_pass(host)
    assert offer(mail, message, "somebody@lenient.good.test")[0] == 250
    assert "spf=fail" in results(mail, accounts, message_id)


def test_an_spf_softfail_is_filed_as_junk_where_that_is_declared(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, message = letter(sender="somebody@softfail.good.test")
    assert offer(mail, message, "somebody@softfail.good.test")[0] == 250
    assert "spf=softfail" in results(mail, accounts, message_id, "Junk")


def test_a_broken_spf_record_is_refused_where_that_is_declared(mail: MailHost) -> None:
    code, text = offer(mail, letter(sender="somebody@permerror.good.test")[1], "somebody@permerror.good.test")
    assert code == 554
    assert text == "5.7.1 This server may not send for the domain of the envelope sender (SPF)"


def test_mail_waits_for_spf_records_that_cannot_be_had_where_that_is_declared(mail: MailHost) -> None:
    code, text = offer(mail, letter(sender="somebody@temperror.good.test")[1], "somebody@temperror.good.test")
    assert code == 451
    assert text.endswith("(SPF), try again later")


def test_a_signature_that_does_not_fit_is_junk_where_that_is_declared(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, message = letter(sender="somebody@lenient.good.test")
    assert offer(mail, signed(message, "good.test").replace("Good morning", "Bad morning"))[0] == 250
    assert "dkim=fail" in results(mail, accounts, message_id, "Junk")


def test_mail_waits_for_a_key_that_cannot_be_had_where_that_is_declared(mail: MailHost) -> None:
    code, text = offer(mail, signed(letter()[1], "bogus.test"))
    assert code == 451
    assert text.endswith("(DKIM), try again later")


def test_a_bad_signature_does_no_harm_where_dmarc_passes(mail: MailHost, accounts: dict[str, str]) -> None:
    """Forwarders break signatures; one that fits is enough."""
    message_id, message = letter(sender="somebody@good.test")
    broken = signed(message, "bogus.test").partition("From: ")[0].replace("d=bogus.test", "d=good.test")
    assert offer(mail, broken + signed(message, "good.test"), "somebody@softfail.good.test")[0] == 250
    found = results(mail, accounts, message_id)
    assert {"dkim=fail", "dkim=pass", "dmarc=pass"} <= set(found.replace(";", " ").split())


# Results that others have written


@pytest.mark.parametrize(
    "forged",
    [
        "Authentication-Results: mail.oak.test; dkim=pass header.d=bank.test\n",
        "Authentication-Results: elsewhere.test; spf=pass\nAuthentication-Results: mail.oak.test; dkim=pass header.d=bank.test\n" * 3,
        "AUTHENTICATION-RESULTS: MAIL.OAK.TEST; dkim=pass header.d=bank.test\n",
        "authentication-results:\n (a comment)\n\tmail.oak.test\n 1; dkim=pass header.d=bank.test\n",
        'Authentication-Results: "mail.oak.test"; dkim=pass header.d=bank.test\n',
        "Authentication-Results : mail.oak.test; dkim=pass header.d=bank.test\n",
    ],
    ids=["one", "many", "capitals", "folded", "quoted", "space before the colon"],
)
def test_nobody_writes_results_in_our_name(mail: MailHost, accounts: dict[str, str], forged: str) -> None:
    """RFC 8601, 5."""
    message_id, message = letter(headers=forged.replace("\n ", "\n ").removesuffix("\n")) if "\n " not in forged else _folded(forged)
    assert offer(mail, message)[0] == 250
    raw = mail.find(ALICE, accounts[ALICE], message_id)
    assert b"bank.test" not in raw
    assert b"elsewhere.test" not in raw
    assert len(re.findall(rb"(?im)^authentication-results\s*:", raw)) == 1


def _folded(forged: str) -> tuple[str, str]:
    """letter() takes headers line by line."""
    message_id, message = letter()
    return message_id, forged + message


# Forwarded mail


def sealed(message: str, domain: str, said: str, chain: str = "none") -> str:
    """Forwarded by the domain's server, which notes what it has found out (ARC, RFC 8617)."""
    octets = f"Authentication-Results: mx.{domain}; arc={chain}; {said}\n{message}".replace("\n", "\r\n").encode()
    headers = dkim.arc_sign(
        octets,
        b"world",
        domain.encode(),
        KEY,
        f"mx.{domain}".encode(),
        include_headers=[b"from", b"subject", b"to"],
        timestamp=int(time.time()),
    )
    assert headers, "nothing sealed"
    return (b"".join(headers).decode().replace("\r\n", "\n")) + message


PASSED = "dmarc=pass header.from=expired.test"
OF_OTHERS = "somebody@expired.test"  # a domain with the policy reject, which does not name the forwarder


def test_a_trusted_forwarders_word_is_taken(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, message = letter(sender=OF_OTHERS)
    assert offer(mail, sealed(message, "good.test", PASSED))[0] == 250
    assert "arc=pass" in results(mail, accounts, message_id)


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ("plain.test", PASSED),
        ("good.test", "dmarc=fail header.from=expired.test"),
        ("good.test", "dmarc=pass header.from=good.test"),
        ("good.test", "dmarc=fail (but dmarc=pass header.from=expired.test) header.from=expired.test"),
        ("good.test", 'spf=none smtp.mailfrom="; dmarc=pass header.from=expired.test ;"'),
    ],
    ids=["another forwarder", "it failed there", "it passed for others", "a comment", "words of the sender"],
)
def test_no_other_word_is_taken(mail: MailHost, domain: str, said: str) -> None:
    code, text = offer(mail, sealed(letter(sender=OF_OTHERS)[1], domain, said))
    assert (code, "DMARC" in text) == (554, True)


def test_nobody_seals_over_a_trusted_forwarders_seal(mail: MailHost) -> None:
    """Whoever comes after may have written anything."""
    once = sealed(letter(sender=OF_OTHERS)[1], "good.test", PASSED)
    twice = sealed(once.replace("Good morning", "Bad morning"), "plain.test", "dmarc=pass header.from=expired.test", "pass")
    code, text = offer(mail, twice)
    assert (code, "DMARC" in text) == (554, True)


def test_a_message_changed_after_the_seal_is_what_it_was_without(mail: MailHost) -> None:
    message = sealed(letter(sender=OF_OTHERS)[1], "good.test", PASSED)
    assert offer(mail, message.replace("Good morning", "Bad morning"))[0] == 554


# Reports

REPORTED = "somebody@example.net"  # whose SPF names the client


def test_domains_that_ask_for_it_are_told_what_came_in_their_name(mail: MailHost, accounts: dict[str, str], host: Host) -> None:
    host.check_output(f"{REDIS} --scan --pattern 'dmarc_*' | xargs -r -d '\\n' {REDIS} DEL")
    assert offer(mail, letter(sender=REPORTED)[1], REPORTED)[0] == 250
    for _ in range(2):
        assert offer(mail, letter(sender=REPORTED)[1])[0] == 554
    # A day later.
    index = until("all are noted", lambda: host.check_output(f"{REDIS} --scan --pattern 'dmarc_idx;*'"))
    yesterday = host.check_output("date -d yesterday +%Y%m%d")
    host.check_output(f"{REDIS} RENAME '{index}' 'dmarc_idx;{yesterday}'")
    host.check_output("systemctl start mailwright-dmarc-reports.service")

    raw = until("the report", lambda: newest_report("example.net"))
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert str(message["From"]).endswith("<postmaster@oak.test>")
    assert "Report Domain: example.net" in str(message["Subject"])
    judgement = correspondent.judge(raw)
    assert (judgement.spf, judgement.dkim, judgement.dmarc) == ("pass", "pass", "pass")
    (attachment,) = [part for part in message.walk() if part.get_content_type() == "application/gzip"]
    assert attachment.get_filename().startswith("oak.test!example.net!")
    report = ElementTree.fromstring(gzip.decompress(attachment.get_payload(decode=True)).strip())  # noqa: S314 - our own host's report
    assert report.findtext("report_metadata/org_name") == "The lab & friends"
    assert report.findtext("report_metadata/email") == "postmaster@oak.test"
    assert report.findtext("policy_published/domain") == "example.net"
    assert report.findtext("policy_published/p") == "reject"
    rows = {
        (
            row.findtext("row/source_ip"),
            row.findtext("identifiers/header_from"),
            row.findtext("row/policy_evaluated/disposition"),
            row.findtext("row/policy_evaluated/dkim"),
            row.findtext("row/policy_evaluated/spf"),
        ): int(row.findtext("row/count") or 0)
        for row in report.iter("record")
    }
    assert rows == {(CLIENT, "example.net", "none", "fail", "pass"): 1, (CLIENT, "example.net", "reject", "fail", "fail"): 2}


def newest_report(domain: str) -> bytes:
    """What the domain's reports mailbox got last."""
    script = f'cd /var/mail/world/{domain}/reports/new 2>/dev/null && cat "$(ls -t | head -1)" || true'
    return hosts.run_on_world("sh", "-c", script)


def test_reports_are_sent_every_day(host: Host) -> None:
    timer = host.service("mailwright-dmarc-reports.timer")
    assert timer.is_running
    assert timer.is_enabled
