"""What was published is known to stand while keys and certificates are the same."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from ansible.module_utils.mailwright import dkim_state, host_dns


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """State, keys, certificates."""
    (tmp_path / "tls/default").mkdir(parents=True)
    (tmp_path / "tls/default/fullchain.pem").write_text("one")
    return tmp_path / "dns/published.json", tmp_path / "dkim", tmp_path / "tls"


def kept(places: tuple[Path, Path, Path], *, complete: bool = True) -> str:
    host_dns.remember("seal", ["oak.test"], complete=complete, state=places[0], dkim_path=places[1], tls_path=places[2])
    return host_dns.standing(*places)


def test_what_is_complete_stands_until_a_certificate_changes(places: tuple[Path, Path, Path]) -> None:
    assert host_dns.standing(*places) == ""
    assert kept(places) == "seal"
    assert host_dns.remembered(places[0])["zones"] == ["oak.test"]
    assert places[0].stat().st_mode & 0o777 == 0o600
    (places[2] / "default/fullchain.pem").write_text("two")
    assert host_dns.standing(*places) == ""


def test_what_failed_is_done_again(places: tuple[Path, Path, Path]) -> None:
    assert kept(places, complete=False) == ""


def test_a_state_without_keys_ends_nothing(places: tuple[Path, Path, Path]) -> None:
    assert kept(places) == "seal"
    places[1].mkdir()
    dkim_state.write(places[1], dkim_state.State([]))
    assert host_dns.standing(*places) == "seal"


def test_the_end_of_a_former_key_is_noticed(places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    end = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Later:
            return cls.fromisoformat((end + dt.timedelta(seconds=1)).astimezone(tz).isoformat())

    (places[2] / "retired.json").write_text(json.dumps({"until": end.isoformat()}))
    assert kept(places) == "seal"
    monkeypatch.setattr(dt, "datetime", Later)
    assert host_dns.standing(*places) == ""


def test_a_damaged_file_is_as_none(places: tuple[Path, Path, Path]) -> None:
    kept(places)
    places[0].write_text("[")
    assert host_dns.standing(*places) == ""
