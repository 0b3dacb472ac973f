"""The legal note of a domain: below mail that leaves, in every part that is read, before it is signed; nowhere else (D7)."""

from __future__ import annotations

import base64
import email
import email.policy
import email.utils
import quopri
from email.message import EmailMessage

import hosts
import pytest
from correspondent import MailHost, judge
from testinfra.host import Host
from wire import submission

DAVE, ERIN, ALICE, GRACE = "dave@elm.test", "erin@elm.test", "alice@oak.test", "grace@good.test"
NOTE = """Elm & Söhne GmbH · Köln · HRB 12345
> This message is for "its" <b>recipient</b> only; who has got it by mistake
is asked to tell us, and to delete it."""
FLOWED = NOTE.replace("\n> This", "\n > This")
HTML = """<div style="margin-top: 1em">
Elm &amp; S&#246;hne GmbH &#183; K&#246;ln &#183; HRB 12345<br>
&gt; This message is for &quot;its&quot; &lt;b&gt;recipient&lt;/b&gt; only; who has got it by mistake
is asked to tell us, and to delete it.<br>
</div>"""
TEXT = "Good morning,\n\nhere is what we spoke about: =3D & co.\n" + "long " * 40 + "\n"
UMLAUTS = "Grüße aus Köln: 1 ≠ 2.\n"
PAGE = "<html><body><p>Gr&uuml;&szlig;e</p></body></html>\n"
PDF = base64.encodebytes(bytes(range(256)) * 8).decode()


def compose(body: str | bytes, *headers: str, sender: str = DAVE, to: str = GRACE) -> tuple[str, bytes]:
    """(Message-ID, message) with these headers, `Name: value`, in front of this body."""
    message_id = email.utils.make_msgid(domain="elm.test")
    head = [
        f"From: {sender}",
        f"To: {to}",
        "Subject: About Monday",
        f"Date: {email.utils.formatdate()}",
        f"Message-ID: {message_id}",
        *headers,
    ]
    raw = body.encode() if isinstance(body, str) else body
    return message_id, ("\n".join(head) + "\n\n").encode() + raw


def leaf(content: str, *headers: str) -> str:
    return "\n".join(headers) + "\n\n" + content


def multipart(kind: str, boundary: str, *parts: str) -> str:
    """A whole part; the lines before and after the boundaries are nobody's business either."""
    body = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return leaf(f"prologue\n{body}--{boundary}--\nepilogue\n", f'Content-Type: multipart/{kind}; boundary="{boundary}"')


def whole(part: str) -> tuple[str, bytes]:
    """The message that this part is."""
    headers, _, body = part.partition("\n\n")
    return compose(body, "MIME-Version: 1.0", *headers.split("\n"))


def submit(mail: MailHost, password: str, raw: bytes, *recipients: str, login: str = DAVE) -> None:
    with submission(mail, 465, login, password) as session:
        assert session.rcpt(login, *recipients) == [250] * (len(recipients) + 1)
        assert session.code("DATA") == 354
        lines = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n").replace(b"\r\n.", b"\r\n..")
        session.send(lines + (b"" if lines.endswith(b"\r\n") else b"\r\n") + b".\r\n")
        assert session.reply()[0] == 250


def outside(message_id: str) -> bytes:
    return hosts.world_mailbox("good.test", "grace", message_id)


def read(raw: bytes) -> list[str]:
    """Text of every text part that is no attachment."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    found = []
    for part in message.walk():
        if part.get_content_maintype() == "text" and part.get_content_disposition() != "attachment" and not part.defects:
            octets = part.get_payload(decode=True)
            assert isinstance(octets, bytes)
            found.append(octets.decode(part.get_content_charset() or "ascii").replace("\r\n", "\n"))
    return found


def qp(text: str, charset: str = "utf-8") -> str:
    return quopri.encodestring(text.encode(charset)).decode()


def b64(text: str, charset: str = "utf-8") -> str:
    return base64.encodebytes(text.encode(charset)).decode()


ALTERNATIVE = multipart(
    "alternative",
    "inner",
    leaf(qp(UMLAUTS), "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: quoted-printable"),
    leaf(b64(PAGE), "Content-Type: text/html; charset=iso-8859-1", "Content-Transfer-Encoding: base64"),
)
ATTACHMENTS = (
    leaf(PDF, "Content-Type: application/pdf", "Content-Transfer-Encoding: base64", "Content-Disposition: attachment; filename=a.pdf"),
    leaf("not to be read\n", "Content-Type: text/plain; charset=us-ascii", "Content-Disposition: attachment; filename=a.txt"),
)
PICTURE = leaf(PDF, "Content-Type: image/png", "Content-Transfer-Encoding: base64", "Content-Id: <x@elm.test>")
FORWARDED = leaf("From: a@elm.test\nSubject: x\n\nnot ours\n", "Content-Type: message/rfc822")

MESSAGES = {
    "a message without MIME": (compose(TEXT), [TEXT.rstrip("\n") + "\n\n" + NOTE]),
    "7bit": (compose(TEXT, "MIME-Version: 1.0", "Content-Type: text/plain; charset=us-ascii"), [TEXT.rstrip("\n") + "\n\n" + NOTE]),
    "8bit": (
        compose(UMLAUTS, "MIME-Version: 1.0", 'Content-Type: text/plain; charset="UTF-8"', "Content-Transfer-Encoding: 8bit"),
        [UMLAUTS.rstrip("\n") + "\n\n" + NOTE],
    ),
    "another charset": (
        whole(
            leaf(
                qp("Grüße\n", "iso-8859-15"),
                "Content-Type: text/plain;\n\tcharset=iso-8859-15",
                "Content-Transfer-Encoding: quoted-printable",
            )
        ),
        ["Grüße\n\n" + NOTE],
    ),
    "a charset without ASCII": (
        whole(leaf(b64("Grüße\n", "utf-16"), "Content-Type: text/plain; charset=utf-16", "Content-Transfer-Encoding: base64")),
        ["Grüße\n\n" + NOTE],
    ),
    "quoted-printable": (
        whole(leaf(qp(UMLAUTS * 30 + TEXT), "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: quoted-printable")),
        [(UMLAUTS * 30 + TEXT).rstrip("\n") + "\n\n" + NOTE],
    ),
    "base64": (
        whole(leaf(b64(UMLAUTS), "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: base64")),
        [UMLAUTS.rstrip("\n") + "\n\n" + NOTE],
    ),
    "format=flowed": (
        whole(leaf("It flows \non.\n", "Content-Type: text/plain; charset=utf-8; format=flowed")),
        ["It flows \non.\n\n" + FLOWED],
    ),
    "HTML alone": (whole(leaf(PAGE, "Content-Type: text/html")), [PAGE.replace("</body>", HTML + "\n</body>")]),
    "both kinds": (whole(ALTERNATIVE), [UMLAUTS.rstrip("\n") + "\n\n" + NOTE, PAGE.replace("</body>", HTML + "\n</body>")]),
    "attachments": (
        whole(multipart("mixed", "outer", ALTERNATIVE, *ATTACHMENTS)),
        [UMLAUTS.rstrip("\n") + "\n\n" + NOTE, PAGE.replace("</body>", HTML + "\n</body>")],
    ),
    "pictures in the text": (
        whole(multipart("mixed", "outer", multipart("related", "middle", ALTERNATIVE, PICTURE), FORWARDED, *ATTACHMENTS)),
        [UMLAUTS.rstrip("\n") + "\n\n" + NOTE, PAGE.replace("</body>", HTML + "\n</body>"), "not ours\n"],
    ),
    "text between pictures": (
        whole(multipart("mixed", "outer", leaf("one\n", "Content-Type: text/plain"), PICTURE, leaf("two\n", "Content-Type: text/plain"))),
        ["one\n", "two\n\n" + NOTE],
    ),
}
SIGNATURE = leaf("x\n", "Content-Type: application/pgp-signature")
CLEARSIGNED = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nHello\n-----BEGIN PGP SIGNATURE-----\nx\n-----END PGP SIGNATURE-----\n"
SEALED_DATA = "Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m"
UNTOUCHED = {
    "S/MIME signed": multipart("signed; micalg=sha-256", "outer", leaf(TEXT), leaf(PDF, "Content-Type: application/pkcs7-signature")),
    "PGP signed": multipart('signed; protocol="application/pgp-signature"; micalg=pgp-sha256', "outer", ALTERNATIVE, SIGNATURE),
    "signed below a list's footer": multipart("mixed", "list", multipart("signed", "outer", leaf(TEXT), SIGNATURE), leaf("footer\n")),
    "PGP encrypted": multipart(
        'encrypted; protocol="application/pgp-encrypted"',
        "outer",
        leaf("Version: 1\n", "Content-Type: application/pgp-encrypted"),
        leaf("x\n", "Content-Type: application/octet-stream"),
    ),
    "S/MIME encrypted": leaf(PDF, SEALED_DATA, "Content-Transfer-Encoding: base64"),
    "PGP in the text": leaf(CLEARSIGNED, "Content-Type: text/plain"),
    "a reply with the note": leaf(
        "Thanks.\n\n" + "".join(f"> {line}\n" for line in NOTE.split("\n")),
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    ),
    "no text": leaf(PDF, "Content-Type: application/pdf", "Content-Transfer-Encoding: base64"),
    "a report": multipart(
        "report; report-type=disposition-notification",
        "outer",
        leaf(TEXT),
        leaf("Disposition: x\n", "Content-Type: message/disposition-notification"),
    ),
}


def body(raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n").partition(b"\n\n")[2].rstrip(b"\n")


@pytest.fixture(scope="module")
def began(host: Host) -> str:
    """When the first message was sent, in seconds."""
    return host.check_output("date +%s.%N")


@pytest.fixture(scope="module")
def received(mail: MailHost, accounts: dict[str, str], began: str) -> dict[str, tuple[bytes, bytes]]:
    """What was sent and what Grace got, by the name of the message."""
    sent = {name: message for name, (message, _) in MESSAGES.items()} | {name: whole(part) for name, part in UNTOUCHED.items()}
    for _, raw in sent.values():
        submit(mail, accounts[DAVE], raw, GRACE)
    return {name: (raw, outside(message_id)) for name, (message_id, raw) in sent.items()}


@pytest.mark.parametrize("name", MESSAGES)
def test_mail_that_leaves_has_the_note_below_every_text_and_is_signed_with_it(received: dict[str, tuple[bytes, bytes]], name: str) -> None:
    sent, raw = received[name]
    assert [text.rstrip("\n") for text in read(raw)] == [text.rstrip("\n") for text in MESSAGES[name][1]]
    assert max(map(len, raw.splitlines())) <= 998
    for part in (PDF.encode(), b"not to be read", b"prologue", b"epilogue", b"filename=a.txt"):
        assert raw.replace(b"\r\n", b"\n").count(part) == sent.count(part)
    verdict = judge(raw)
    assert (verdict.dkim, verdict.dmarc) == ("pass", "pass")


@pytest.mark.parametrize("name", UNTOUCHED)
def test_signed_and_encrypted_mail_and_what_has_no_text_stays_as_it_is(received: dict[str, tuple[bytes, bytes]], name: str) -> None:
    sent, raw = received[name]
    assert body(raw) == body(sent)
    assert judge(raw).dkim == "pass"


def test_internal_mail_has_no_note(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, raw = compose(TEXT, to=ALICE)
    submit(mail, accounts[DAVE], raw, ALICE, ERIN)
    assert body(mail.find(ALICE, accounts[ALICE], message_id)) == body(raw)


def test_one_recipient_outside_is_enough_also_behind_an_alias(mail: MailHost, accounts: dict[str, str]) -> None:
    for recipients in ((ALICE, GRACE), (ALICE, "partner@oak.test")):
        message_id, raw = compose(TEXT)
        submit(mail, accounts[DAVE], raw, *recipients)
        assert "HRB 12345" in read(mail.find(ALICE, accounts[ALICE], message_id))[0]


def test_other_domains_have_no_note(mail: MailHost, accounts: dict[str, str]) -> None:
    message_id, raw = compose(TEXT, sender=ALICE)
    submit(mail, accounts[ALICE], raw, GRACE, login=ALICE)
    assert body(outside(message_id)) == body(raw)


def test_a_large_attachment_arrives_as_it_was(mail: MailHost, accounts: dict[str, str]) -> None:
    large = PDF * 1600
    message_id, raw = whole(
        multipart("mixed", "outer", ALTERNATIVE, leaf(large, "Content-Type: application/pdf", "Content-Transfer-Encoding: base64"))
    )
    assert len(raw) > 4 * 2**20
    submit(mail, accounts[DAVE], raw, GRACE)
    got = outside(message_id).replace(b"\r\n", b"\n")
    assert large.encode() in got
    assert NOTE in read(got)[0]


def test_mail_of_the_host_itself_has_the_note_of_its_author(host: Host) -> None:
    message_id, raw = compose(TEXT)
    host.check_output("echo %s | base64 -d | sendmail -f %s %s", base64.b64encode(raw).decode(), DAVE, GRACE)
    got = outside(message_id)
    assert NOTE in read(got)[0]
    assert judge(got).dkim == "pass"


def test_the_log_tells_what_was_done(received: dict[str, tuple[bytes, bytes]], began: str, host: Host) -> None:
    host.check_output("journalctl --sync")
    log = host.check_output(f"journalctl --quiet --unit rspamd --output cat --since @{began} --grep 'legal note'")
    for what in ("added to 1", "added to 2", "signed or encrypted", "is there", "no text"):
        assert f"legal note: {what}" in log
    assert "not found again" not in log
