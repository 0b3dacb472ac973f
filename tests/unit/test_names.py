"""Names: what is normalised, what is refused and why."""

from __future__ import annotations

import re
import string
from collections.abc import Callable

import pytest
from ansible.module_utils.mailwright import names
from ansible.module_utils.mailwright.errors import Invalid, Problem, show
from hypothesis import example, given
from hypothesis import strategies as st

# Everything that Unicode has: controls, surrogates, bidi marks, all planes; and more of what is special to the daemons.
ANYTHING = st.text(st.characters()) | st.text(
    alphabet=st.sampled_from(string.ascii_letters + string.digits + "@.+-_=:;,/\\|<>()[]{}$%&#!?*\"'` \t\n\r\0äß\u0430\u200e\ud800")
)


def refusal(check: Callable[[str], object], text: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        check(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.test", "example.test"),
        ("Example.TEST", "example.test"),
        ("münchen.test", "xn--mnchen-3ya.test"),
        ("MÜNCHEN.test", "xn--mnchen-3ya.test"),
        ("mu\u0308nchen.test", "xn--mnchen-3ya.test"),
        ("XN--MNCHEN-3YA.test", "xn--mnchen-3ya.test"),
        ("faß.test", "xn--fa-hia.test"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("1and1.test", "1and1.test"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
    ],
)
def test_a_domain_gets_its_one_form(text: str, name: str) -> None:
    assert names.domain(text) == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("example.test\nevil: yes", "control character U+000A not allowed"),
        ("example.test\r", "control character U+000D"),
        ("example.test\0", "control character U+0000"),
        ("exa\tmple.test", "control character U+0009"),
        ("example\u2028.test", "control character U+2028"),
        ("example\u0085.test", "control character U+0085"),
        ("example\u202e.test", "control character U+202E"),
        ("example\ud800.test", "control character U+D800"),
        (" example.test ", "leading or trailing space"),
        ("example.test.", "trailing dot"),
        ("exa mple.test", "space not allowed"),
        ("a,b.test", "character ',' not allowed"),
        ("-a.test", "begins or ends with '-'"),
        ("a-.test", "begins or ends with '-'"),
        ("a..b", "empty label"),
        (".a.test", "empty label"),
        ("", "empty"),
        ("a" * 64 + ".test", "longer than 63"),
        (".".join(["a" * 50] * 5), "longer than 253"),
        ("localhost", "a dot is needed"),
        ("1.2.3.4", "an address, not a domain"),
        ("[1.2.3.4]", "an address, not a domain"),
        ("2001:db8::1", "an address, not a domain"),
        ("a.123", "a number"),
        ("xn--999999999.test", "invalid IDNA"),
        ("xn--a.test", "invalid IDNA"),
        ("ab--c.test", "reserved"),
        ("\u0440\u0430ypal.test", "mixes the scripts CYRILLIC and LATIN"),
        ("xn--ypal-43d9g.test", "mixes the scripts CYRILLIC and LATIN"),
        ("*.example.test", "wildcards"),
        ("../../etc", "character '/' not allowed"),
        ("a/b.test", "character '/' not allowed"),
        ("${mydomain}", "character '$' not allowed"),
        ("`id`.test", "character '`' not allowed"),
        ("%{env:PATH}", "character '%' not allowed"),
        ("{{ lookup('pipe', 'id') }}", "'{{' not allowed"),
        ("under_score.test", "character '_' not allowed"),
        ("someone@example.test", "character '@' not allowed"),
    ],
)
def test_a_domain_that_is_none_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert reason in refusal(names.domain, text).reason


def test_a_confusable_domain_is_taken_when_it_is_meant() -> None:
    assert names.domain("\u0440\u0430ypal.test", allow_confusable=True) == "xn--ypal-43d9g.test"


def test_people_are_shown_the_form_that_they_can_read() -> None:
    assert names.unicode_domain("xn--mnchen-3ya.test") == "münchen.test"


@pytest.mark.parametrize("text", ["a", "alice", "a.b", "_x", "a_b", "a-b", "a+b", "a=b", "x" * 64, "0"])
def test_a_local_part_is_taken(text: str) -> None:
    assert names.local_part(text) == text


def test_a_local_part_is_folded() -> None:
    assert names.local_part("Alice") == "alice"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (".", "dot"),
        ("..", "dot"),
        (".a", "begins or ends with a dot"),
        ("a.", "begins or ends with a dot"),
        ("a..b", "two dots"),
        ("../a", "dot"),
        ("-rf", "option"),
        ("#start", "'#'"),
        ('"a"', "quoted"),
        ("a b", "space not allowed"),
        ("a\nb", "U+000A"),
        ("x" * 65, "longer than 64"),
        ("ünïcode", "SMTPUTF8"),
        ("\u212a", "SMTPUTF8"),
        ("{{ x }}", "'{{' not allowed"),
        *((f"a{char}b", f"character {char!r} not allowed") for char in "/:@#$%{};\\'\"|<>(),[]!*?^`~&"),
    ],
)
def test_a_local_part_that_is_unsafe_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert reason in refusal(names.local_part, text).reason


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("Alice@Example.TEST", "Alice@example.test"),
        ("o'brien@example.test", "o'brien@example.test"),
        ("a@bücher.test", "a@xn--bcher-kva.test"),
    ],
)
def test_a_foreign_address_keeps_the_case_of_its_local_part(text: str, address: str) -> None:
    assert names.target(text) == address


@pytest.mark.parametrize(
    "text",
    ["|/bin/sh", '"|/bin/sh"', "/srv/file", "/dev/null", ":include:/etc/passwd", "|/bin/sh -c 'x@y.test'", "/srv/x@example.test"],
)
def test_commands_files_and_lists_are_no_targets(text: str) -> None:
    assert "not supported" in refusal(names.target, text).reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a b@example.test", "space"),
        ("a@b@example.test", "more than one '@'"),
        ("a@example.test,b@example.test", "','"),
        ("a", "no '@'"),
        ("@example.test", "nothing before"),
        ("$x@example.test", "'$'"),
        ("a%b@example.test", "'%'"),
        ("a!b@example.test", "'!'"),
        ("-a@example.test", "'-'"),
        (".*@example.test", "'.'"),
    ],
)
def test_a_target_that_is_no_address_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert reason in refusal(names.target, text).reason


@pytest.mark.parametrize("text", ["a.b/..", "_x", "a" * 64, "Upper", "", "a.b", "-a", "a-", "a b", "s\n"])
def test_a_selector_is_one_label(text: str) -> None:
    refusal(names.selector, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.0.0.0/0", "open relay"),
        ("::/0", "open relay"),
        ("10.0.0.1/8", "host bits"),
        ("11.0.0.0/8", "open relay"),
        ("2000::/3", "open relay"),
        ("example.test", "CIDR"),
        ("10.0.0.0/33", "CIDR"),
    ],
)
def test_a_network_that_lets_strangers_in_is_refused(text: str, reason: str) -> None:
    assert reason in refusal(names.network, text).reason


def test_private_and_small_networks_are_taken() -> None:
    assert [names.network(text) for text in ("10.0.0.0/8", "192.0.2.1", "2001:DB8::/64")] == [
        "10.0.0.0/8",
        "192.0.2.1/32",
        "2001:db8::/64",
    ]


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("Example.test", "example.test"),
        ("[Mail.example.test]", "[mail.example.test]"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("[ipv6:2001:db8::1]", "[2001:db8::1]"),
    ],
)
def test_a_next_hop_gets_its_one_form(text: str, hop: str) -> None:
    assert names.next_hop(text) == hop


@pytest.mark.parametrize("text", ["[a.test", "a.test]", "$(id)", "[a.test]:25", "[]", "a b", "host"])
def test_a_next_hop_with_bad_syntax_is_refused(text: str) -> None:
    refusal(names.next_hop, text)


@pytest.mark.parametrize(
    "text",
    ["^a", "a$", "a/b", "a b", "(?=a)", "(a+)+", "(a|b){9}", "\\1", "\\x", "a@b", "[a", "*", "[[a]", "a{,3}", "[a--b]", "ä", "", "(?i)a"],
)
def test_a_pattern_cannot_leave_its_place(text: str) -> None:
    refusal(names.address_pattern, text)


@pytest.mark.parametrize("text", ["ticket-[0-9]+", "a.*", "(a|b)-x", "\\d{2,4}", "list\\.x"])
def test_a_simple_pattern_is_taken(text: str) -> None:
    assert names.address_pattern(text) == text


# -- whatever is accepted is harmless, and is accepted again as itself


@given(ANYTHING)
@example("a.b\u3002c")
@example("\u0130.test")
def test_an_accepted_domain_is_ascii_and_stable(text: str) -> None:
    try:
        name = names.domain(text)
    except Invalid:
        return
    assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", name)
    assert len(name) <= 253
    assert names.domain(name) == name


@given(ANYTHING)
def test_an_accepted_local_part_is_one_safe_path_component(text: str) -> None:
    try:
        local = names.local_part(text)
    except Invalid:
        return
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._+=-]{0,63}", local)
    assert ".." not in local
    assert names.local_part(local) == local


@given(ANYTHING | st.builds("{}@{}".format, ANYTHING, st.just("example.test")))
def test_an_accepted_target_is_one_address_in_every_table(text: str) -> None:
    try:
        address = names.target(text)
    except Invalid:
        return
    assert address.isascii() and address.isprintable()
    assert not set(address) & set(' ,:;"\\/|<>()[]$%!`#{}')
    assert address.count("@") == 1
    assert names.target(address) == address


@given(ANYTHING)
def test_an_accepted_selector_is_a_label(text: str) -> None:
    try:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", names.selector(text))
    except Invalid:
        return


@given(ANYTHING)
def test_an_accepted_pattern_stays_between_its_slashes(text: str) -> None:
    try:
        pattern = names.address_pattern(text)
    except Invalid:
        return
    assert not set(pattern) & set("/@^$ \n#")
    re.compile(f"^(?:{pattern})@example\\.test$")


@given(ANYTHING)
def test_an_accepted_next_hop_is_one_word(text: str) -> None:
    try:
        hop = names.next_hop(text)
    except Invalid:
        return
    assert re.fullmatch(r"[a-z0-9.-]+|\[[a-z0-9.:-]+\]", hop)


@given(ANYTHING)
def test_a_shown_value_is_one_printable_line(text: str) -> None:
    shown = show(text)
    assert shown.isprintable() and "\n" not in shown
    assert len(shown) <= 80


def test_a_problem_reads_as_place_path_value_reason_and_cure() -> None:
    assert str(Problem("a.yml:3", "x.y", "5g", "not a size", "write 5G")) == "a.yml:3: x.y: 5g: not a size; write 5G"


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("Projects", ".Projects"),
        ("Projects/Secret", ".Projects.Secret"),
        ("Projekte für 2.0", r".Projekte f&APw-r 2\2e0"),
        ("R&D", ".R&-D"),
        ("会議", ".&TxqLcA-"),
        ("Bu\u0308ro", ".B&APw-ro"),
    ],
)
def test_a_folder_lies_where_dovecot_looks_for_it(name: str, directory: str) -> None:
    assert names.folder_directory(names.folder(name)) == directory


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/", "/a", "a//b", "..", "../a", ".a", "a.", " a", "a ", "a%b", "a:b", "a\\b", "a\nb", "a*b", "INBOX", "inbox/a", "\ud800"],
)
def test_a_folder_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        names.folder(name)


@pytest.mark.parametrize("name", ["x" * 200, "a/" * 100 + "a", "会" * 80])
def test_a_folder_too_long_for_a_directory_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="longer than 200 octets"):
        names.folder(name)
    assert names.folder(name[:59])
