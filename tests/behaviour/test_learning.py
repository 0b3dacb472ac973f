"""Teaching the filter by playbook from folders of mailboxes, what it has learned, and having it forget (F4)."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from correspondent import MailHost, until, write
from edits import Site
from filtering import BAD, REDIS, SUSPECT, letter
from mailstore import imap
from test_policy import offer
from testinfra.host import Host

OWNER, FOLDER, COUNT = "frieda@oak.test", "Collected/Spam.2026", 3


def test_a_folder_is_learned_counted_repeated_and_forgotten(mail: MailHost, host: Host, accounts: dict[str, str], tmp_path: Path) -> None:
    site, file = Site(tmp_path / "inventory"), tmp_path / "learned.json"

    def learn(*options: str) -> str:
        status, output = site.run(*options, playbook="playbooks/learn.yml")
        assert status == 0, output[-3000:]
        return " ".join(output.split())

    with imap(mail, OWNER, accounts[OWNER]) as session:
        session.create(f'"{FOLDER}"')
        for _ in range(COUNT):
            words = " ".join(secrets.token_hex(4) for _ in range(60))
            session.append(f'"{FOLDER}"', "", "", write("friend@good.test", OWNER, "offer", words).as_bytes())
    try:
        folder = ("-e", json.dumps({"learn_mailboxes": [OWNER], "learn_folder": FOLDER, "learn_json": str(file)}))
        before = int(host.check_output(f"{REDIS} HGET RS learns_spam") or 0)
        output = learn("-e", "learn_action=spam", *folder)
        assert f"{OWNER} {FOLDER}: {COUNT} of {COUNT} messages, {COUNT} learned, 0 known" in output
        found = json.loads(file.read_text())
        assert found["statistics"]["spam"] == before + COUNT
        assert found["statistics"]["tokens"] > COUNT * 50
        assert found["folders"][0] == {
            "mailbox": OWNER, "folder": FOLDER, "learned": COUNT, "known": 0, "short": 0, "failed": 0, "left": 0, "errors": []
        }  # fmt: skip
        # Rspamd 3.4 at times, and 3.12 right after its start, learn one again that they know; the next time they do not.
        known = f"{COUNT} messages, 0 learned, {COUNT} known"
        until("all are known", lambda: known in learn("-e", "learn_action=spam", *folder), 120)

        status, output = site.run("-e", "learn_action=reset", playbook="playbooks/learn.yml")
        assert status != 0
        assert "would be forgotten" in output
        assert "learned in all: 0 as spam, 0 as ham; 0 words" in learn("-e", "learn_action=reset", "-e", "learn_all=true")
        assert not [key for key in host.check_output(f"{REDIS} --scan").split() if key.startswith(("RS", "BAYES", "learned"))]
    finally:
        with imap(mail, OWNER, accounts[OWNER]) as session:
            session.delete(f'"{FOLDER}"')


def test_junk_beyond_the_limit_is_learned_without_being_told_to(mail: MailHost, host: Host, tmp_path: Path) -> None:
    reset = ("-e", "learn_action=reset", "-e", "learn_all=true")
    site = Site(tmp_path / "inventory")

    def learned() -> int:
        return int(host.check_output(f"{REDIS} HGET RS learns_spam") or 0)

    # As much of the one kind as of the other, or Rspamd learns none of the one.
    assert site.run(*reset, playbook="playbooks/learn.yml")[0] == 0
    try:
        for kind in (SUSPECT, BAD):
            assert learned() == 0
            assert offer(mail, letter(kind)[1], "alice@oak.test", source="198.51.100.116")[0] == 250
        until("it is learned", lambda: learned() == 1)
    finally:
        assert site.run(*reset, playbook="playbooks/learn.yml")[0] == 0
