"""The declaration of the inventory: complete, and usable as it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from ansible.module_utils.mailwright.builder import check
from ansible.module_utils.mailwright.reader import BROKEN, At, Reader
from ansible.module_utils.mailwright.schema import DOMAIN, SHARED, SPAM_PRESETS, TYPES, Key


def every(keys: Mapping[str, Key], prefix: str = "") -> Iterator[tuple[str, Key]]:
    for name, key in keys.items():
        yield prefix + name, key
        yield from every(key.keys or {}, f"{prefix}{name}.")


KEYS = dict(every({**SHARED, **DOMAIN}))


@pytest.mark.parametrize("path", KEYS)
def test_every_key_has_a_known_type_a_meaning_and_a_default_that_passes_its_own_check(path: str) -> None:
    key = KEYS[path]
    assert key.type in TYPES
    assert not key.of or key.of in TYPES
    assert key.help
    assert (key.type == "choice") == bool(key.choices)
    if key.default is not None:
        reader = Reader()
        assert reader.value(key, key.default, At(key.default)) is not BROKEN
        assert reader.report.problems == []


def test_presets_rise_from_greylisting_to_refusal() -> None:
    for scores in SPAM_PRESETS.values():
        assert scores["greylist"] < scores["junk"] < scores["reject"]
    presets = list(SPAM_PRESETS.values())
    for key in ("greylist", "junk", "reject"):
        assert [scores[key] for scores in presets] == sorted((scores[key] for scores in presets), reverse=True)


def test_settings_are_the_shared_variables_without_their_prefix() -> None:
    model = check(Reader(), {"mail_hostname": "mail.oak.test", "mail_postmaster": "root@good.test"})
    assert model is not None
    elsewhere = {"mail_domains", "mail_aliases", "mail_dns_updates", "mail_relays", "mail_ldap"}
    assert {f"mail_{name}" for name in model.settings} == set(SHARED) - elsewhere
