"""Name servers are asked one by one over real sockets; what is wrong with one of them is its answer and no other's."""

from __future__ import annotations

import socket
import threading

import dns.flags
import dns.message
import dns.rcode
import pytest
from ansible.module_utils.mailwright.authority import Answer, Client
from nameservers import NameServer, Records, serving, zone

ONE, TWO, THREE, RESOLVER = "127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.10"
KEY = "v=DKIM1; k=rsa; p=" + "A" * 392
HERE = zone("oak.test", {"ns1.elm.test": [ONE], "ns2.elm.test": [TWO]})
OAK: Records = {
    **HERE,
    ("d._domainkey.oak.test", "TXT"): [f'"{KEY[:255]}" "{KEY[255:]}"'],
    ("oak.test", "MX"): ["10 Mail.Oak.test."],
    ("oak.test", "TXT"): ['"v=spf1 mx -all"', '"hello; \\"you\\""'],
    ("alias.oak.test", "CNAME"): ["there.elm.test."],
    ("inside.oak.test", "CNAME"): ["d._domainkey.oak.test."],
}
NAME = ("d._domainkey.oak.test", "TXT")


def client(port: int, **options: float) -> Client:
    # A busy computer, too, answers within that time, and is asked twice. Who is never answered waits for all of it.
    return Client([RESOLVER], port=port, **{"timeout": 10, **options})


def statuses(found: dict[str, Answer]) -> dict[str, str]:
    return {address: answer.status for address, answer in found.items()}


def truncate(_query: dns.message.Message, response: dns.message.Message, tcp: bool) -> dns.message.Message:
    if not tcp:
        response.answer.clear()
        response.flags |= dns.flags.TC
    return response


def foreign_first(query: dns.message.Message, response: dns.message.Message, _tcp: bool) -> dns.message.Message:
    response.id = (query.id + 1) % 65536
    return response


def code(rcode: dns.rcode.Rcode) -> object:
    def twist(query: dns.message.Message, _response: dns.message.Message, _tcp: bool) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.set_rcode(rcode)
        return answer

    return twist


def without_edns(query: dns.message.Message, response: dns.message.Message, _tcp: bool) -> dns.message.Message:
    return code(dns.rcode.FORMERR)(query, response, _tcp) if query.edns >= 0 else response


def without_authority(_query: dns.message.Message, response: dns.message.Message, _tcp: bool) -> dns.message.Message:
    response.flags &= ~dns.flags.AA
    return response


def test_every_server_is_asked_and_nothing_recursive() -> None:
    one, two = NameServer(OAK), NameServer({**OAK, NAME: ['"v=DKIM1; p=old"']})
    seen: list[int] = []
    one.twist = lambda query, response, _tcp: seen.append(int(query.flags)) or response
    with serving({RESOLVER: NameServer(OAK, recursive=True), ONE: one, TWO: two}) as port:
        asking = client(port)
        found = asking.ask(*NAME)
        assert asking.zone_of(NAME[0]) == "oak.test"
        assert [(server.name, server.address) for server in asking.servers_of("oak.test")] == [("ns1.elm.test", ONE), ("ns2.elm.test", TWO)]
        assert asking.ask("oak.test", "MX")[ONE].values == ("10 mail.oak.test",)
        assert asking.ask("oak.test", "TXT")[ONE].values == ('hello; "you"', "v=spf1 mx -all")
    assert {address: answer.values for address, answer in found.items()} == {ONE: (KEY,), TWO: ("v=DKIM1; p=old",)}
    assert (found[ONE].ttl, found[ONE].server.name, found[ONE].answered) == (60, "ns1.elm.test", True)
    assert one.asked[0] == (*NAME, False)
    assert not seen[0] & dns.flags.RD


def test_a_truncated_answer_is_fetched_by_tcp() -> None:
    long = {**OAK, ("oak.test", "TXT"): [f'"{index:03d}{"x" * 250}"' for index in range(8)]}
    one = NameServer(OAK, truncate)
    two = NameServer(long)
    with serving({RESOLVER: NameServer(OAK, recursive=True), ONE: one, TWO: two}) as port:
        asking = client(port)
        assert asking.ask(*NAME)[ONE].values == (KEY,)
        assert len(asking.ask("oak.test", "TXT")[TWO].values) == 8
    assert one.asked[:2] == [(*NAME, False), (*NAME, True)]


@pytest.mark.parametrize(
    ("twist", "status"),
    [
        (lambda *_: None, "timeout"),
        (foreign_first, "timeout"),
        (lambda *_: b"\0\1no DNS", "timeout"),
        (code(dns.rcode.SERVFAIL), "servfail"),
        (code(dns.rcode.REFUSED), "refused"),
        (code(dns.rcode.NOTIMP), "servfail"),
        (without_authority, "lame"),
        (without_edns, "ok"),
    ],
    ids=["silent", "wrong id", "garbage", "servfail", "refused", "not implemented", "lame", "without edns"],
)
def test_what_is_wrong_with_one_server_is_its_answer_alone(twist: object, status: str) -> None:
    with serving({RESOLVER: NameServer(OAK, recursive=True), ONE: NameServer(OAK, twist), TWO: NameServer(OAK)}) as port:
        found = client(port, timeout=2 if status == "timeout" else 10).ask(*NAME)
    assert statuses(found) == {ONE: status, TWO: "ok"}


def test_a_forged_answer_does_not_end_the_waiting_for_the_real_one() -> None:
    """The first datagram has another id; the second one is right."""
    with serving({RESOLVER: NameServer(OAK, recursive=True), TWO: NameServer(OAK)}) as port, socket.socket(type=socket.SOCK_DGRAM) as real:
        real.bind((ONE, port))
        real.settimeout(30)
        answering = NameServer(OAK)

        def answer() -> None:
            wire, sender = real.recvfrom(4096)
            query = dns.message.from_wire(wire)
            response = answering(query, False)
            response.id = (query.id + 1) % 65536
            real.sendto(response.to_wire(), sender)
            real.sendto(b"", sender)
            response.id = query.id
            real.sendto(response.to_wire(), sender)

        thread = threading.Thread(target=answer)
        thread.start()
        found = client(port).ask(*NAME)
        thread.join()
    assert statuses(found) == {ONE: "ok", TWO: "ok"}


def test_a_server_where_nothing_listens_is_told_at_once() -> None:
    with serving({RESOLVER: NameServer(OAK, recursive=True), ONE: NameServer(OAK)}) as port:
        assert statuses(client(port).ask(*NAME)) == {ONE: "ok", TWO: "closed"}


def test_names_that_are_not_there() -> None:
    with serving({RESOLVER: NameServer(OAK, recursive=True), ONE: NameServer(OAK), TWO: NameServer(OAK)}) as port:
        asking = client(port)
        assert statuses(asking.ask("nothing.oak.test", "TXT")) == {ONE: "nxdomain", TWO: "nxdomain"}
        assert statuses(asking.ask("oak.test", "AAAA")) == {ONE: "empty", TWO: "empty"}
        assert statuses(asking.ask("nothing.where", "A")) == {"": "no zone"}
        assert statuses(asking.ask(f"{'x' * 64}.oak.test", "A")) == {"": "no zone"}
        assert asking.lookup(f"{'x' * 64}.oak.test", "A").status == "nxdomain"


def test_an_alias_is_answered_by_the_servers_of_its_target() -> None:
    elm = {**zone("elm.test", {"ns3.elm.test": [THREE]}), ("there.elm.test", "TXT"): ['"here I am"']}
    every = {**OAK, **elm}
    with serving({RESOLVER: NameServer(every, recursive=True), ONE: NameServer(OAK), TWO: NameServer(OAK), THREE: NameServer(elm)}) as port:
        asking = client(port)
        found = asking.ask("alias.oak.test", "TXT")
        assert {address: (answer.values, answer.alias) for address, answer in found.items()} == {THREE: (("here I am",), "there.elm.test")}
        inside = asking.ask("inside.oak.test", "TXT")
        assert [(answer.values, answer.alias) for answer in inside.values()] == [((KEY,), NAME[0])] * 2
        assert asking.lookup("alias.oak.test", "TXT").values == ("here I am",)


def test_aliases_that_go_round_come_to_an_end() -> None:
    elm = {**zone("elm.test", {"ns3.elm.test": [THREE]}), ("there.elm.test", "CNAME"): ["alias.oak.test."]}
    servers = {RESOLVER: NameServer({**OAK, **zone("elm.test", {"ns3.elm.test": [THREE]})}, recursive=True)}
    with serving({**servers, ONE: NameServer(OAK), TWO: NameServer(OAK), THREE: NameServer(elm)}) as port:
        found = client(port).ask("alias.oak.test", "TXT")
    assert not any(answer.answered for answer in found.values())


def test_a_name_below_an_alias_or_a_cut_is_in_the_right_zone() -> None:
    cut = {**zone("_domainkey.oak.test", {"ns3.elm.test": [THREE]}), NAME: ['"v=DKIM1; p=there"']}
    resolver = NameServer({**OAK, **cut}, recursive=True)
    with serving({RESOLVER: resolver, ONE: NameServer(OAK), TWO: NameServer(OAK), THREE: NameServer(cut)}) as port:
        asking = client(port)
        assert asking.zone_of(NAME[0]) == "_domainkey.oak.test"
        assert asking.zone_of("alias.oak.test") == "oak.test"
        assert asking.zone_of("a.b.c.oak.test") == "oak.test"
        assert {address: answer.values for address, answer in asking.ask(*NAME).items()} == {THREE: ("v=DKIM1; p=there",)}


def test_addresses_of_both_families_are_asked() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this computer")
    records = {**OAK, **zone("oak.test", {"ns1.elm.test": [ONE, "::1"], "ns4.elm.test": []})}
    servers = {RESOLVER: NameServer(records, recursive=True), ONE: NameServer(records), "::1": NameServer(records)}
    with serving(servers) as port:
        assert statuses(client(port).ask(*NAME)) == {ONE: "ok", "::1": "ok", "ns4.elm.test": "no address"}


def test_an_address_family_that_this_host_lacks_is_no_dead_server(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.connect

    class WithoutIPv6(socket.socket):
        def connect(self, address: tuple[str, int]) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(101, "Network is unreachable")
            real(self, address)

    records = {**OAK, **zone("oak.test", {"ns1.elm.test": [ONE, "2001:db8::1"]})}
    with serving({RESOLVER: NameServer(records, recursive=True), ONE: NameServer(records)}) as port:
        monkeypatch.setattr(socket, "socket", WithoutIPv6)
        found = client(port).ask(*NAME)
        monkeypatch.undo()
    assert statuses(found) == {ONE: "ok", "2001:db8::1": "no route"}


def test_without_a_resolver_nothing_is_found_and_nothing_raised() -> None:
    with serving({ONE: NameServer(OAK)}) as port:
        asking = client(port)
        assert asking.zone_of("oak.test") is None
        assert statuses(asking.ask(*NAME)) == {"": "no zone"}
        assert asking.lookup("oak.test", "MX").status == "closed"
        assert Client([], port=port).lookup("oak.test", "MX").status == "no zone"


def test_the_second_resolver_answers_when_the_first_does_not() -> None:
    with serving({TWO: NameServer(OAK, recursive=True), ONE: NameServer(OAK)}) as port:
        assert Client([RESOLVER, TWO], port=port, timeout=10).ask(*NAME)[ONE].values == (KEY,)


def test_broken_signatures_are_told_from_a_broken_server() -> None:
    def validating(query: dns.message.Message, response: dns.message.Message, _tcp: bool) -> dns.message.Message:
        if query.question[0].name.to_text().startswith("d._domainkey") and not query.flags & dns.flags.CD:
            response = code(dns.rcode.SERVFAIL)(query, response, _tcp)
        elif query.flags & dns.flags.AD:
            response.flags |= dns.flags.AD
        return response

    with serving({RESOLVER: NameServer(OAK, validating, recursive=True), ONE: NameServer(OAK)}) as port:
        asking = client(port)
        assert asking.is_bogus(*NAME)
        assert not asking.is_bogus("oak.test", "MX")
        assert asking.lookup("oak.test", "MX").secure
        # Its servers are found all the same.
        assert asking.ask(*NAME)[ONE].values == (KEY,)


def test_a_dead_server_costs_one_wait_not_one_for_each_question() -> None:
    questions = [(f"n{index}.oak.test", "TXT") for index in range(100)]
    servers = {RESOLVER: NameServer(OAK, recursive=True), ONE: NameServer(OAK), TWO: NameServer(OAK, lambda *_: None)}
    with serving(servers) as port:
        asking = client(port, parallel=24, timeout=2)
        found = asking.ask_all(questions)
        assert {tuple(statuses(answers).values()) for answers in found.values()} == {("nxdomain", "timeout")}
        # Two tries each for those on their way when it was given up, not for all.
        assert len(servers[TWO].asked) < len(questions)
        # It is asked again in the next round.
        servers[TWO].twist = None
        assert statuses(asking.ask(*NAME)) == {ONE: "ok", TWO: "ok"}
