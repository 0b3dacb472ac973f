"""DKIM keys change while mail flows: every message verifies in the moment it is received, whatever the name servers do meanwhile (K3)."""

from __future__ import annotations

import contextlib
import email
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import correspondent
import dkim
import dns.flags
import dns.message
import dns.query
import dns.rcode
import hosts
import pytest
from conftest import ROOT
from correspondent import MailHost, until
from edits import LAB_INVENTORY, Site, publish_lab_records
from filtering import letter
from testinfra.host import Host
from wire import submission

ALICE = "alice@oak.test"
FILES = "cd /var/lib/mailwright/dkim && find . -type f | sort | xargs sha256sum"
STATE = "/var/lib/mailwright/dkim/state.json"
# The second name server of oak.test is this process.
SECOND = "ns2.world.test"
SECOND_V4, SECOND_V6 = "198.51.100.118", "2001:db8:25::118"
ALGORITHMS = {"rsa-sha256", "ed25519-sha256"}


class NameServer:
    """A second name server of the lab: it passes on what the world's Knot says, in the way its `mode` tells.

    good; slow (1.2 s); short (UDP answers are cut, TCP ones whole); dead; old (knows nothing of selectors that are `new`)
    """

    def __init__(self) -> None:
        self.mode = "good"
        self.new: set[str] = set()
        self.by_tcp = 0
        self._sockets: list[socket.socket] = []
        for family, address in ((socket.AF_INET, SECOND_V4), (socket.AF_INET6, SECOND_V6)):
            for kind, serve in ((socket.SOCK_DGRAM, self._udp), (socket.SOCK_STREAM, self._tcp)):
                listener = socket.socket(family, kind)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, 53))
                if kind == socket.SOCK_STREAM:
                    listener.listen(64)
                self._sockets.append(listener)
                threading.Thread(target=self._forever, args=(serve, listener), daemon=True).start()

    def close(self) -> None:
        for listener in self._sockets:
            listener.close()

    def _forever(self, serve: Callable[[socket.socket], None], listener: socket.socket) -> None:
        while True:
            try:
                serve(listener)
            except OSError:
                if listener.fileno() < 0:
                    return

    def _udp(self, listener: socket.socket) -> None:
        wire, sender = listener.recvfrom(65535)
        threading.Thread(target=self._reply, args=(listener, wire, sender), daemon=True).start()

    def _reply(self, listener: socket.socket, wire: bytes, sender: tuple[Any, ...]) -> None:
        self._take_time()
        with contextlib.suppress(OSError):
            for answer in self._answers(wire, tcp=False):
                listener.sendto(answer, sender)

    def _tcp(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        # Whoever asks nothing more in five seconds, or goes, has had enough.
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            connection.settimeout(5)
            while length := stream.read(2):
                self.by_tcp += 1
                self._take_time()
                for answer in self._answers(stream.read(int.from_bytes(length)), tcp=True):
                    connection.sendall(len(answer).to_bytes(2) + answer)

    def _take_time(self) -> None:
        if self.mode == "slow":
            time.sleep(1.2)  # what the test is about

    def _answers(self, wire: bytes, *, tcp: bool) -> Iterator[bytes]:
        query = dns.message.from_wire(wire)
        if self.mode == "dead":
            return
        name = query.question[0].name.to_text().lower()
        if self.mode == "old" and any(name.startswith(f"{selector}._domainkey.") for selector in self.new):
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.AA
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif self.mode == "short" and not tcp:
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.TC | dns.flags.AA
        else:
            answer = dns.query.tcp(query, correspondent.WORLD, timeout=5)
        yield answer.to_wire()

    def txt(self, name: str) -> bytes | None:
        """What a verifier that asks this server reads, at once; None where it would ask the other one."""
        for wire in self._answers(dns.message.make_query(name, "TXT", use_edns=0, payload=4096).to_wire(), tcp=True):
            return strings(dns.message.from_wire(wire))
        return None


def strings(message: dns.message.Message) -> bytes:
    found = [b"".join(rdata.strings) for rrset in message.answer if rrset.rdtype == dns.rdatatype.TXT for rdata in rrset]
    return found[0] if len(found) == 1 else b""


def publish(*records: dict[str, Any]) -> None:
    hosts.run_on("world", "/usr/local/lib/world/publish.py", stdin=json.dumps(list(records)).encode())


@pytest.fixture(scope="module", autouse=True)
def published_by_the_inventory_again(model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What these tests published by hand goes, for the inventory would take it for somebody else's."""
    yield
    zones = [domain["name"] for domain in model["domains"]]
    read = "".join(hosts.run_on("world", "knotc", "zone-read", f"{zone}.").decode() for zone in zones)
    names = set(re.findall(r"(\S+\._domainkey\.\S+)\. \d+ TXT ", read))
    publish(*({"name": name, "type": "TXT", "value": None} for name in names))
    publish_lab_records(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def second(mail: MailHost, host: Host) -> Iterator[NameServer]:
    """oak.test has a second name server."""

    def change(verb: str) -> None:
        # The set as a whole cannot be replaced: a zone always has one (RFC 2136, 3.4.2.4).
        text = f"server 127.0.0.1\nzone oak.test.\n{verb} oak.test. 2 NS {SECOND}.\nsend\n"
        hosts.run_on("world", "knsupdate", "-k", "/etc/world/tsig.key", stdin=text.encode())
        host.check_output("unbound-control flush_zone oak.test")

    addresses = [{"name": SECOND, "type": kind, "value": value} for kind, value in (("A", SECOND_V4), ("AAAA", SECOND_V6))]
    publish(*addresses)
    server = NameServer()
    try:
        change("add")
        yield server
    finally:
        server.mode = "good"
        change("del")
        publish(*({**row, "value": None} for row in addresses))
        server.close()


class Traffic:
    """Somebody who writes all the time to somebody in the world, who checks every message as it comes in."""

    def __init__(self, mail: MailHost, password: str, second: NameServer) -> None:
        self.mail = mail
        self.password = password
        self.second = second
        self.name = f"rotation-{secrets.token_hex(4)}"
        self.sent: list[str] = []
        # Message-ID → selectors of its signatures, all of which verified.
        self.selectors: dict[str, set[str]] = {}
        self.raw: list[bytes] = []
        self.wrong: list[str] = []
        self._over, self._written = threading.Event(), threading.Event()
        self._writer, self._reader = (threading.Thread(target=work) for work in (self._write, self._read))

    def __enter__(self) -> Traffic:
        self._writer.start()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._writer.join()
        # Only now it is known what the last message was.
        self._written.set()
        self._reader.join()

    def settle(self) -> None:
        """Until a message that was sent from now on has been received."""
        last = len(self.sent) + 2
        until("traffic", lambda: len(self.sent) > last and self.sent[last] in self.selectors, 120)

    def _write(self) -> None:
        to = f"{self.name}@good.test"
        while not self._over.wait(0.25):
            message_id, text = letter(to=to, sender=ALICE)
            answers = self._send(to, text)
            if answers == [250, 250, 250]:
                self.sent.append(message_id)
            else:
                self.wrong.append(f"{message_id} was refused: {answers}")

    def _send(self, to: str, text: str) -> list[int]:
        with submission(self.mail, 465, ALICE, self.password) as session:
            answers = session.rcpt(ALICE, to)
            return [*answers, session.data(text)] if answers == [250, 250] else answers

    def _read(self) -> None:
        folder = f"/var/mail/world/good.test/{self.name}/new"
        fetch = f"cd {folder} 2>/dev/null && tar c --remove-files --transform 's,^./,,' $(ls) 2>/dev/null || true"
        end = None
        while end is None or (len(self.selectors) < len(self.sent) and time.monotonic() < end):
            if self._written.is_set() and end is None:
                end = time.monotonic() + 120
            data = hosts.run_on("world", "sh", "-c", fetch)
            if data:
                with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                    for member in archive:
                        if (file := archive.extractfile(member)) is not None:
                            self._check(file.read())

    def _check(self, raw: bytes) -> None:
        self.raw.append(raw)
        message = email.message_from_bytes(raw)
        message_id, selectors, algorithms = str(message["Message-ID"]), set(), set()
        for number, header in enumerate(message.get_all("DKIM-Signature", [])):
            tags = dict(tag.strip().split("=", 1) for tag in re.sub(r"[\r\n]", "", header).split(";") if tag.strip())
            selectors.add(tags["s"])
            algorithms.add(tags["a"])
            try:
                if not dkim.DKIM(raw).verify(idx=number, dnsfunc=self._txt):
                    self.wrong.append(f"{message_id}: {tags['s']} is not right")
            except dkim.DKIMException as error:
                self.wrong.append(f"{message_id}: {tags['s']}: {error}")
        if algorithms != ALGORITHMS:
            self.wrong.append(f"{message_id} is signed by {selectors or 'nobody'}")
        self.selectors[message_id] = selectors

    def _txt(self, name: bytes, timeout: int = 5) -> bytes:
        """As verifiers read the record, by either of the servers; they must not differ."""
        query = dns.message.make_query(name.decode(), "TXT", use_edns=0, payload=4096)
        first = strings(dns.query.tcp(query, correspondent.WORLD, timeout=timeout))
        other = self.second.txt(name.decode())
        if other not in (None, first):
            self.wrong.append(f"{name.decode()} is not on both name servers")
        return first


def rspamd_says(host: Host, messages: list[bytes]) -> list[set[str]]:
    """The selectors of oak.test that Rspamd, as one who receives these messages, takes for right."""
    host.check_output("rm -rf /run/mailwright-judge && mkdir -m 755 /run/mailwright-judge")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number, raw in enumerate(messages):
            member = tarfile.TarInfo(f"{number:04}")
            member.size, member.mode = len(raw), 0o644
            archive.addfile(member, io.BytesIO(raw))
    hosts.run_on("mail", "tar", "x", "-C", "/run/mailwright-judge", stdin=packed.getvalue())
    said = host.check_output("rspamc -h /run/rspamd/controller.sock -j -i 198.51.100.21 symbols /run/mailwright-judge/* | cat")
    host.check_output("rm -r /run/mailwright-judge")
    found, decoder = [], json.JSONDecoder()
    for part in re.split(r"(?m)^(?=\{)", said):
        if part.startswith("{"):
            options = decoder.raw_decode(part)[0]["symbols"].get("R_DKIM_ALLOW", {}).get("options", [])
            found.append({option.partition("s=")[2] for option in options if option.startswith("oak.test:")})
    return found


def by_hand(directory: Path) -> Site:
    """The lab's inventory, without name servers that the host itself could update: here the test does, at its own time."""
    site = Site(directory / "site")
    for file in (site.path / "group_vars").rglob("*.yml"):
        text = file.read_text()
        if text != (without := re.sub(r"^mail_dns_updates:.*\n([ -].*\n)*", "", text, flags=re.MULTILINE)):
            file.write_text(without)
    return site


class Lab:
    """The mail host's DKIM keys, from the controller and from inside."""

    def __init__(self, host: Host, site: Site) -> None:
        self.host = host
        self.site = site

    def rotate(self, *arguments: str) -> str:
        status, output = self.site.run(*arguments, playbook="playbooks/rotate-dkim.yml")
        assert status == 0, output[-4000:]
        return output

    def switch(self) -> str:
        """The step alone, as the playbooks run it."""
        argv = [Path(sys.executable).parent / "ansible", "mail", "-i", self.site.path, "-m", "dkim_signing", "-a", "queue_lifetime=432000"]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def of_oak(self) -> list[dict[str, Any]]:
        return [key for key in json.loads(self.host.check_output(f"cat {STATE}"))["keys"] if key["domain"] == "oak.test"]

    def selectors(self, state: str) -> set[str]:
        return {key["selector"] for key in self.of_oak() if key["state"] == state}

    def publish(self) -> None:
        """All records of oak.test that have to be there now."""
        publish(*({"name": f"{key['selector']}._domainkey.oak.test", "type": "TXT", "value": key["value"]} for key in self.of_oak()))

    def let_the_queue_life_pass(self) -> None:
        state = json.loads(self.host.check_output(f"cat {STATE}"))
        for key in state["keys"]:
            if key["state"] == "retired":
                key["until"] = 1
        hosts.run_on("mail", "tee", STATE, stdin=json.dumps(state, indent=1).encode())


def test_a_rotation_costs_no_message_its_signature(
    mail: MailHost, accounts: dict[str, str], host: Host, second: NameServer, tmp_path: Path
) -> None:
    lab = Lab(host, by_hand(tmp_path))
    old = lab.selectors("signing")
    assert len(old) == 2
    with Traffic(mail, accounts[ALICE], second) as traffic:
        said = lab.rotate("-e", "dkim_rotate=now", "-e", "dkim_domains=oak.test")
        new = second.new = lab.selectors("prepared")
        assert len(new) == 2
        assert all(f"{selector}._domainkey.oak.test. IN TXT" in said for selector in new)
        assert "ns.world.test (198.51.100.2) has no such record" in said

        # The step is taken again until it says so: a name server of a busy machine may answer too late once.
        second.mode = "old"
        lab.publish()
        until("one server has it not", lambda: f"{SECOND} ({SECOND_V6}) has no such record" in lab.switch())
        second.mode = "dead"
        until("one server is dead", lambda: f"{SECOND} ({SECOND_V4}) does not answer" in lab.switch())
        assert lab.selectors("signing") == old
        publish({"name": f"{sorted(new)[0]}._domainkey.oak.test", "type": "TXT", "value": "v=DKIM1; k=ed25519; p=YW5vdGhlcg=="})
        second.mode = "short"
        # RSA is proven and signs; Ed25519 waits until no cache has the other record.
        mixed = {name for name in old if "ed25519" in name} | {name for name in new if "rsa" in name}
        other = "has another record, with the key p=…YW5vdGhlcg=="
        until("RSA is proven", lambda: other in lab.switch() and lab.selectors("signing") == mixed, 120)
        assert second.by_tcp
        traffic.settle()
        assert lab.selectors("signing") == mixed
        lab.publish()
        second.mode = "slow"
        until("the new keys sign", lambda: lab.switch() and lab.selectors("signing") == new, 120)
        assert lab.selectors("retired") >= old
        traffic.settle()

        lab.let_the_queue_life_pass()
        second.mode = "good"
        lab.rotate()
        assert not old & {key["selector"] for key in lab.of_oak()}
        publish(*({"name": f"{selector}._domainkey.oak.test", "type": "TXT", "value": None} for selector in old))
        traffic.settle()
        assert lab.selectors("signing") == new
    assert traffic.wrong == []
    assert traffic.selectors.keys() == set(traffic.sent)
    used = list(traffic.selectors.values())
    assert old in used
    assert used[-1] == new
    # What is still published is right for the second judge too.
    last = [raw for raw, selectors in zip(traffic.raw, used, strict=True) if selectors == new][-20:]
    # A look-up that it gives up on is no verdict.
    until("Rspamd finds all of them right", lambda: rspamd_says(host, last) == [new] * len(last))


def test_a_key_that_was_called_back_signs_no_more(mail: MailHost, accounts: dict[str, str], host: Host, tmp_path: Path) -> None:
    lab = Lab(host, by_hand(tmp_path))
    bad = next(key["selector"] for key in lab.of_oak() if key["state"] == "signing" and key["kind"] == "ed25519")
    said = lab.rotate("-e", f"dkim_revoke={bad}", "-e", "dkim_domains=oak.test")
    assert f"{bad}._domainkey.oak.test (ed25519): revoked" in said
    assert bad not in lab.selectors("signing")
    (successor,) = lab.selectors("prepared")
    message_id, text = letter(to="grace@good.test", sender=ALICE)
    with submission(mail, 465, ALICE, accounts[ALICE]) as session:
        assert session.rcpt(ALICE, "grace@good.test") == [250, 250]
        assert session.data(text) == 250
    raw = hosts.world_mailbox("good.test", "grace", message_id)
    signatures = email.message_from_bytes(raw).get_all("DKIM-Signature", [])
    assert len(signatures) == 1
    assert bad not in signatures[0]
    assert f'{bad}._domainkey.oak.test. IN TXT ( "v=DKIM1; k=ed25519; p=" )' in lab.site.run(playbook="playbooks/dkim-records.yml")[1]
    lab.publish()
    until("the successor signs", lambda: lab.switch() and successor in lab.selectors("signing"))


def test_a_second_run_has_nothing_to_do_and_check_mode_tells_the_next_step(host: Host, tmp_path: Path) -> None:
    lab = Lab(host, by_hand(tmp_path))
    before = host.check_output(FILES)
    said = lab.rotate("--check", "-e", "dkim_rotate=now")
    assert "to be replaced on request" in said
    assert "_domainkey.elm.test" in said
    assert host.check_output(FILES) == before
    processes = "systemctl show -P MainPID rspamd; cat /proc/$(systemctl show -P MainPID rspamd)/task/*/children"
    running = set(host.check_output(processes).split())
    assert "changed=0" in lab.rotate()
    assert set(host.check_output(processes).split()) <= running, "a reload; those that an earlier one left behind may end at any time"


def test_a_domain_without_a_record_is_told_and_does_not_stop_the_run(host: Host, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    assert site.path != LAB_INVENTORY
    status, said = site.run("-e", "dkim_domains=nowhere.test", playbook="playbooks/rotate-dkim.yml")
    assert status != 0
    assert "dkim_domains has to name mail domains of this host" in said
