"""Letters of known character for the tests of the filter, and a way to let Redis forget, or time pass, for greylisting.

The scores are those of Rspamd's own rules on both releases: SPAM_FLAG 5, SUBJ_ALL_CAPS 3, MISSING_TO 2, AUTH_NA, MISSING_DATE and
SUBJECT_HAS_CURRENCY 1 each. The lab's thresholds are 4, 6 and 15 for oak.test and 3, 5 and 12 for elm.test.
"""

from __future__ import annotations

import email.utils
import secrets

from correspondent import MailHost
from testinfra.host import Host
from wire import stranger

CLIENT, NAME = "198.51.100.112", "client112.world.test"
# A stranger of whom neither SPF nor DKIM nor DMARC says anything.
SENDER = f"someone@{NAME}"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
REDIS = "redis-cli -s /run/redis/redis-server.sock"

PLAIN = ""  # 1
DOUBTFUL = "$$$"  # 5: greylisted for oak.test, junk for elm.test
SUSPECT = "X-Spam: Yes\n"  # 8: junk for both
BAD = "X-Spam: Yes\n$$$ YOU HAVE WON A MILLION DOLLARS TODAY AND EVERY DAY"  # 13: junk for oak.test, refused for elm.test


def letter(kind: str = PLAIN, *, to: str = "alice@oak.test", sender: str = SENDER, headers: str = "", text: str = "") -> tuple[str, str]:
    """(Message-ID, message) of the kind given. Every letter has a text of its own: greylisting knows a text again."""
    message_id = email.utils.make_msgid(domain=NAME)
    flag, _, subject = kind.rpartition("\n")
    head = [
        *headers.splitlines(),
        *flag.splitlines(),
        f"From: {sender}",
        f"Message-ID: {message_id}",
        f"Subject: {subject or 'About Monday'}",
    ]
    if kind == PLAIN:
        head.append(f"To: {to}")
    if not subject:
        head.append(f"Date: {email.utils.formatdate()}")
    head += ["MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8"]
    words = " ".join(secrets.token_hex(4) for _ in range(12))
    return message_id, "\n".join(head) + f"\n\n{text or 'Good morning, here is what we spoke about.'}\n{words}\n"


def offer(mail: MailHost, message: str, *recipients: str, sender: str = SENDER, source: str = CLIENT) -> int:
    """Hand a message to port 25 as a stranger; returns the code after the final dot, or an earlier one that ends the attempt."""
    with stranger(mail, source=source, name=NAME) as session:
        refused = session.rcpt(sender, *recipients)[-1]
        return refused if refused >= 400 else session.data(message)


def forget_greylisting(host: Host) -> None:
    """As if nobody had ever been greylisted."""
    host.check_output(f"{REDIS} --scan --pattern 'rg*' | xargs -r {REDIS} DEL")


def let_an_hour_pass(host: Host) -> None:
    """As if whoever is greylisted had been so an hour ago."""
    host.check_output(
        f"for key in $({REDIS} --scan --pattern 'rg*'); do {REDIS} SET $key $(($({REDIS} GET $key) - 3600)) KEEPTTL; done",
    )
