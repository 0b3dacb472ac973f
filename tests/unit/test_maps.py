"""Sources of lookup tables: every entry read back as itself, nothing that could become another one."""

from __future__ import annotations

import re

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.maps import (
    check_address,
    check_key,
    check_targets,
    check_value,
    parse_map,
    parse_patterns,
    pcre_line,
    render_map,
    render_patterns,
)
from hypothesis import given
from hypothesis import strategies as st

BREAKERS = ["\n", "\r", "\t", "\x00", "\x85", "\u2028", " ", "\x0b"]


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=4))
def test_a_table_reads_back_as_itself_or_is_refused(entries: dict[str, str]) -> None:
    try:
        text = render_map(entries)
    except Invalid:
        return
    assert parse_map(text) == entries
    assert len(text.splitlines()) == len(entries)


@pytest.mark.parametrize("key", ["#a", '"a', "a b", "A@b.test", "a:", "", "ä", *(f"a{c}b" for c in BREAKERS), *(f"a{c}" for c in BREAKERS)])
def test_keys_that_postmap_reads_differently_are_refused(key: str) -> None:
    with pytest.raises(Invalid):
        check_key(key)


@pytest.mark.parametrize("value", ["", " a", "a ", "a  b", "a\nb c", "ä", "a\x00"])
def test_values_that_leave_their_line_are_refused(value: str) -> None:
    with pytest.raises(Invalid):
        check_value(value)


def test_values_with_colons_and_brackets_are_kept() -> None:
    entries = {"partner.example": "smtp:[2001:db8::1]:2525", ".oak.test": "REJECT 5.7.1 no"}
    assert parse_map(render_map(entries)) == entries


def test_continued_lines_and_comments_of_an_edited_source_are_understood() -> None:
    assert parse_map("# a\n\na@b.test  x,\n  y\nA@b.test z\nc\td\n") == {"a@b.test": "x,  y", "c": "d"}


@pytest.mark.parametrize(
    "address",
    ["a:b@oak.test", "a b@oak.test", "a@oak", "@oak.test", "a/../b@oak.test", "-rf@oak.test", "A@oak.test", "a@oak.test\n", ".a@oak.test"],
)
def test_addresses_that_break_a_passwd_file_or_a_path_are_refused(address: str) -> None:
    with pytest.raises(Invalid):
        check_address(address)


@pytest.mark.parametrize(
    "to", [[], "a@oak.test", None, ["|/bin/sh"], ["/dev/null"], [":include:/etc/passwd"], ["a b@oak.test"], ["a,b@oak.test"], [1]]
)
def test_targets_are_addresses(to: object) -> None:
    with pytest.raises(Invalid):
        check_targets(to)


@pytest.mark.parametrize("pattern", ["a)|(b", "(?x)a#", "(?i)a", r"\Qa", "a b", "a\n", "", "(", "a\\", "(*ACCEPT)a", "ä", None, 3])
def test_patterns_that_reach_beyond_their_place_are_refused(pattern: object) -> None:
    with pytest.raises(Invalid):
        pcre_line(pattern, "a@oak.test")


def test_a_pattern_matches_whole_addresses_only_and_keeps_its_slashes() -> None:
    line = pcre_line(r"a|b/c|d\/e", "x@oak.test")
    assert line == r"/^(?:a|b\/c|d\/e)$/ x@oak.test"


@given(st.text(alphabet=r"ab/\.()[]|?*+{}^$-,1", max_size=12))
def test_a_quoted_pattern_ends_where_postfix_looks_for_its_end(pattern: str) -> None:
    try:
        text = render_patterns([(pattern, "a@oak.test")])
    except Invalid:
        return
    (key, value), *rest = parse_patterns(text).items()
    assert not rest
    assert value == "a@oak.test"

    def tokens(text: str) -> list[str]:
        return [token.replace("\\/", "/") for token in re.findall(r"\\.|.", text)]

    assert tokens(key[5:-3]) == tokens(pattern)
