"""The mail part of `make demo`: a message in from the world, read over IMAPS, and the answer out through submission.

Runs inside the lab's network namespace; its one argument is the compiled inventory (model.json).
"""

from __future__ import annotations

import email
import email.policy
import json
import re
import sys
from email.message import EmailMessage
from pathlib import Path

import correspondent
import hosts


def field(message: EmailMessage, name: str) -> str:
    """A header on one line."""
    return " ".join(str(message[name] or "(none)").split())


def main() -> None:
    model = json.loads(Path(sys.argv[1]).read_text())
    correspondent.use_world_dns()
    reader = next((box for box in model["mailboxes"] if box["enabled"] and "imap" not in box["denied_protocols"]), None)
    if reader is None:
        raise SystemExit("   the inventory has no enabled mailbox with IMAP, so there is nobody to write to")
    address, password = reader["address"], reader["password"]
    host = hosts.mail_host(model["hostname"])

    letter = correspondent.write("grace@good.test", address, "Greetings from the world", "Dear all,\n\nwelcome to the internet.\n\nGrace\n")
    print(
        f"   grace@good.test writes to {address}; her server mx.good.test finds the MX and delivers over port 25",
        flush=True,
    )
    correspondent.send_from_world(letter, "grace@good.test", address)
    if not password:
        received = hosts.read_on_host(address, letter["Message-ID"])
        print("   (read with doveadm: the inventory holds only a hash of this password)")
    else:
        received = host.find(address, password, letter["Message-ID"], seconds=90)
        print(f"   {address} reads it over IMAPS:")
    message = email.message_from_bytes(received, policy=email.policy.default)
    print(f"     From: {field(message, 'From')}\n     Subject: {field(message, 'Subject')}")
    results = field(message, "Authentication-Results")
    for method in ("spf", "dkim", "dmarc"):
        found = re.search(rf"\b{method}=(\w+)", results)
        print(f"     {method.upper():5} {found[1] if found else 'not checked'}")
    tls = re.search(r"using (TLSv[\d.]+) with cipher (\S+)", " ".join(message.get_all("Received", [])))
    print(f"     TLS   {tls[1] + ' ' + tls[2] if tls else 'none'}")
    if not password:
        print("   no answer is sent: submission needs the clear-text password")
        return

    answer = correspondent.write(
        address, "grace@good.test", "Re: Greetings from the world", "Thank you!\n", In_Reply_To=letter["Message-ID"]
    )
    print("   the answer goes out through submissions (465) with AUTH", flush=True)
    host.submit(address, password, answer)
    raw = hosts.world_mailbox("good.test", "grace", answer["Message-ID"])
    judgement = correspondent.judge(raw)
    print("   grace@good.test has it; an independent judge (dkimpy, pyspf, authheaders) says:")
    for method in ("spf", "dkim", "dmarc", "tls"):
        print(f"     {method.upper():5} {getattr(judgement, method)}")


if __name__ == "__main__":
    main()
