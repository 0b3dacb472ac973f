"""Comparison of rows: what is new, different and gone, and how it is shown."""

from __future__ import annotations

import pytest
from ansible.module_utils.mailwright.errors import Invalid
from ansible.module_utils.mailwright.plan import keyed, make_plan


def test_each_name_is_added_changed_removed_or_unchanged() -> None:
    plan = make_plan({"a": {"x": "1"}, "b": {"x": "1"}, "c": {"x": "1"}}, {"b": {"x": "2"}, "c": {"x": "1"}, "d": {"x": "1"}})
    assert (plan.added, plan.changed, plan.removed, plan.unchanged) == (("d",), ("b",), ("a",), 1)
    assert plan.names() == {"added": ["d"], "changed_names": ["b"], "removed": ["a"]}


def test_equal_rows_make_an_empty_plan() -> None:
    plan = make_plan({"a": {"x": "1"}}, {"a": {"x": "1"}})
    assert not plan
    assert plan.lines() == []


def test_lines_show_what_changes_and_mask_secrets() -> None:
    plan = make_plan({"a": {"password": "old", "quota": "1"}, "b": {}}, {"a": {"password": "new", "quota": "2"}, "c": {"password": "new"}})
    assert plan.lines(("password",)) == ["+ c: password: ***", "~ a: password: *** (changed), quota: 1 → 2", "- b"]


def test_duplicates_are_reported_with_both_indexes() -> None:
    rows = [{"name": "a"}, {"name": "b"}, {"name": "a"}]
    with pytest.raises(Invalid, match=r"domains\[0\] and domains\[2\] are both a"):
        keyed("domains", rows, "name", ("name",), dict)


def test_all_wrong_rows_are_reported_at_once_without_their_values() -> None:
    rows = [{"name": "a", "password": "geheim"}, {"nam": "b"}, "geheim", {"name": 3}]
    with pytest.raises(Invalid) as caught:
        keyed("rows", rows, "name", ("name",), dict)
    assert all(f"rows[{index}]" in str(caught.value) for index in range(4))
    assert "geheim" not in str(caught.value)
