"""DKIM keys: made once, kept, archived rather than removed, and never shown."""

from __future__ import annotations

import base64
import contextlib
import grp
import os
import pwd
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.mailwright import dkim, dkim_state
from ansible.module_utils.mailwright.dkim_life import begin_hold, published, zone_line
from ansible.module_utils.mailwright.errors import Invalid
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

RSA = {"domain": "oak.test", "selector": "mw-rsa", "algorithm": "rsa", "bits": 2048, "private_key": None, "shared": False}
ED25519 = {"domain": "oak.test", "selector": "mw-ed25519", "algorithm": "ed25519", "bits": None, "private_key": None, "shared": False}
DATED = {**ED25519, "selector": None}
NOW = 1_795_262_400  # 2026-11-21T12:00:00Z
OWNER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


@contextlib.contextmanager
def unlocked() -> Iterator[None]:
    yield


def apply(path: Path, *rows: dict[str, Any], check_mode: bool = False, now: int = NOW, rotation: dkim.Rotation | None = None) -> dkim.Done:
    return dkim.apply(rows, path, OWNER, GROUP, rotation=rotation, now=now, check_mode=check_mode, lock=unlocked)


def records(done: dkim.Done) -> list[str]:
    return [row["value"] for row in published(done.keys)]


def states(done: dkim.Done) -> dict[str, str]:
    return {key.selector: key.state for key in done.keys}


def use(path: Path) -> None:
    """Every key of the state signs, as if it had been proven."""
    state = dkim_state.read(path)
    assert state
    state.keys = [replace(key, state="signing", has_signed=True) for key in state.keys]
    dkim_state.write(path, state)


def pem(key: Any, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> str:  # noqa: ANN401 - any kind of key
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def test_keys_are_made_once_with_the_records_to_publish(tmp_path: Path) -> None:
    path = tmp_path / "dkim"
    first = apply(path, RSA, ED25519)
    assert first.changed
    assert first.plan.added == ("mw-ed25519._domainkey.oak.test", "mw-rsa._domainkey.oak.test")
    assert [(row["name"], row["value"][:20], row["state"]) for row in dkim.published(path)] == [
        ("mw-ed25519._domainkey.oak.test", "v=DKIM1; k=ed25519; ", "prepared"),
        ("mw-rsa._domainkey.oak.test", "v=DKIM1; k=rsa; p=MI", "prepared"),
    ]
    texts = {file.name: file.read_text() for file in path.glob("*.key")}
    second = apply(path, RSA, ED25519)
    assert not second.changed
    assert second.keys == first.keys
    assert {file.name: file.read_text() for file in path.glob("*.key")} == texts
    assert sorted(texts) == ["oak.test.mw-ed25519.key", "oak.test.mw-rsa.key"]
    assert path.stat().st_mode & 0o777 == 0o750
    assert all(file.stat().st_mode & 0o777 == 0o640 for file in path.glob("*.key"))


def test_an_ed25519_key_is_stored_as_rspamd_reads_it(tmp_path: Path) -> None:
    done = apply(tmp_path / "dkim", ED25519)
    raw = base64.b64decode((tmp_path / "dkim/oak.test.mw-ed25519.key").read_text())
    assert len(raw) == 64
    assert records(done)[0].endswith(f"p={base64.b64encode(raw[32:]).decode()}")


def test_check_mode_tells_the_same_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "dkim"
    done = apply(path, RSA, check_mode=True)
    assert (done.changed, done.plan.added, records(done)) == (True, ("mw-rsa._domainkey.oak.test",), [""])
    assert not path.exists()
    made = apply(path, RSA)
    again = apply(path, RSA, check_mode=True)
    assert (again.changed, again.keys) == (False, made.keys)


def test_given_keys_are_written_as_they_are(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    text = pem(rsa_key, serialization.PrivateFormat.TraditionalOpenSSL)
    done = apply(tmp_path / "dkim", {**RSA, "private_key": text})
    assert (tmp_path / "dkim/oak.test.mw-rsa.key").read_text() == text
    assert records(done)[0] == dkim.record(rsa_key)
    assert not apply(tmp_path / "dkim", {**RSA, "private_key": f"\n{text}\n"}).changed


def test_a_given_ed25519_key_gets_rspamds_form(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    rows = {**ED25519, "private_key": pem(key)}
    done = apply(tmp_path / "dkim", rows)
    assert records(done)[0] == dkim.record(key)
    assert dkim.record(dkim.load((tmp_path / "dkim/oak.test.mw-ed25519.key").read_text())) == dkim.record(key)
    assert not apply(tmp_path / "dkim", rows).changed


def test_a_key_replaced_by_a_given_one_goes_to_the_archive(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    path = tmp_path / "dkim"
    apply(path, RSA)
    old = (path / "oak.test.mw-rsa.key").read_text()
    done = apply(path, {**RSA, "private_key": pem(rsa_key)})
    assert done.plan.changed == ("mw-rsa._domainkey.oak.test",)
    (archived,) = (path / "archive").iterdir()
    assert archived.read_text() == old
    assert (path / "archive").stat().st_mode & 0o777 == 0o700


def test_keys_that_never_signed_and_are_not_wanted_any_more_go_to_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "dkim"
    apply(path, RSA, ED25519)
    assert apply(path, ED25519, check_mode=True).changed
    done = apply(path, ED25519)
    assert done.plan.removed == ("mw-rsa._domainkey.oak.test",)
    assert [file.name for file in path.glob("*.key")] == ["oak.test.mw-ed25519.key"]
    assert len(list((path / "archive").iterdir())) == 1
    assert not apply(path, ED25519).changed


def test_keys_of_a_domain_that_is_gone_are_removed_when_their_mail_has_arrived(tmp_path: Path) -> None:
    path = tmp_path / "dkim"
    apply(path, RSA)
    use(path)
    done = apply(path)
    assert (states(done), done.plan.changed) == ({"mw-rsa": "retired"}, ("mw-rsa._domainkey.oak.test",))
    state = dkim_state.read(path)
    assert state
    state.keys = begin_hold(state.keys, NOW, 3600)
    dkim_state.write(path, state)
    assert dkim_state.seal_digest(path, NOW + 3599) != ""
    assert not apply(path, now=NOW + 3599).changed
    assert dkim_state.seal_digest(path, NOW + 3600) == ""
    assert apply(path, now=NOW + 3600).plan.removed == ("mw-rsa._domainkey.oak.test",)
    assert list(path.glob("*.key")) == []
    assert len(list((path / "archive").iterdir())) == 1


def test_keys_of_an_earlier_version_go_on_signing(tmp_path: Path) -> None:
    made = apply(tmp_path, {**ED25519}, {**ED25519, "domain": "elm.test"})
    (tmp_path / "state.json").unlink()
    done = apply(tmp_path, DATED)
    assert [(key.name, key.state, key.value) for key in done.keys] == [(made.keys[1].name, "signing", made.keys[1].value)]
    assert done.plan.removed == ("elm.test.mw-ed25519.key (file)",)
    assert dkim_state.is_pending(tmp_path, NOW)


def test_a_key_without_a_selector_is_named_by_date_and_has_successors(tmp_path: Path) -> None:
    assert states(apply(tmp_path, DATED)) == {"ed25519-20261121": "prepared"}
    use(tmp_path)
    age = dkim.Rotation(age=86400)
    assert not apply(tmp_path, DATED, now=NOW + 86399, rotation=age).changed
    assert not apply(tmp_path, DATED, rotation=dkim.Rotation(now=True, domains=frozenset({"elm.test"}))).changed
    assert states(apply(tmp_path, DATED, now=NOW + 86400, rotation=age)) == {"ed25519-20261121": "signing", "ed25519-20261122": "prepared"}
    assert not apply(tmp_path, DATED, now=NOW + 86400, rotation=dkim.Rotation(now=True)).changed
    done = apply(tmp_path, DATED, now=NOW + 86400, rotation=dkim.Rotation(revoke="ed25519-20261121"))
    assert states(done) == {"ed25519-20261121": "revoked", "ed25519-20261122": "prepared"}


def test_a_key_without_its_state_does_not_sign(tmp_path: Path) -> None:
    # As if it had been killed between the two.
    apply(tmp_path, ED25519)
    (tmp_path / "oak.test.mw-rsa.key").write_text(dkim.store_text(dkim.generate("rsa", 2048)))
    done = apply(tmp_path, ED25519, RSA)
    assert states(done) == {"mw-ed25519": "prepared", "mw-rsa": "prepared"}
    assert len(list((tmp_path / "archive").iterdir())) == 1


def test_domains_share_one_file(tmp_path: Path) -> None:
    done = apply(tmp_path, *({**DATED, "domain": domain, "shared": True} for domain in ("oak.test", "elm.test")))
    assert [file.name for file in tmp_path.glob("*.key")] == ["shared.ed25519-20261121.key"]
    assert len(set(records(done))) == 1
    assert [key.name for key in done.keys] == ["ed25519-20261121._domainkey.elm.test", "ed25519-20261121._domainkey.oak.test"]


def test_a_lost_file_is_another_key(tmp_path: Path) -> None:
    first = apply(tmp_path, ED25519)
    use(tmp_path)
    (tmp_path / "oak.test.mw-ed25519.key").unlink()
    done = apply(tmp_path, ED25519)
    assert states(done) == {"mw-ed25519": "prepared"}
    assert records(done) != records(first)


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    apply(tmp_path, ED25519)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(Invalid, match=r"state\.json is damaged"):
        apply(tmp_path, ED25519)


@pytest.mark.parametrize("row", [{**RSA, "bits": 3072}, {**RSA, "algorithm": "ed25519"}])
def test_a_key_does_not_change_under_its_selector(tmp_path: Path, row: dict[str, Any]) -> None:
    apply(tmp_path, RSA)
    text = (tmp_path / "oak.test.mw-rsa.key").read_text()
    with pytest.raises(Invalid, match="choose another selector"):
        apply(tmp_path, row)
    assert (tmp_path / "oak.test.mw-rsa.key").read_text() == text


def test_a_damaged_key_is_reported_and_a_given_one_repairs_it(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    (tmp_path / "oak.test.mw-rsa.key").write_text("geheim")
    with pytest.raises(Invalid, match=r"oak\.test\.mw-rsa\.key: not a readable private key") as caught:
        apply(tmp_path, RSA)
    assert "geheim" not in str(caught.value)
    assert apply(tmp_path, {**RSA, "private_key": pem(rsa_key)}).changed


def test_a_wrong_mode_is_put_right(tmp_path: Path) -> None:
    apply(tmp_path, ED25519)
    file = tmp_path / "oak.test.mw-ed25519.key"
    file.chmod(0o644)
    assert apply(tmp_path, ED25519).changed
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**RSA, "selector": "a/../b"}, "is not a selector"),
        ({**RSA, "selector": "A"}, "is not a selector"),
        ({**RSA, "domain": "../etc"}, "is not a domain"),
        ({**RSA, "bits": 1024}, "bits"),
        ({**RSA, "algorithm": "dsa"}, "algorithm"),
        ({**RSA, "private_key": "geheim"}, "not a readable private key"),
        ({**RSA, "private_key": pem(ed25519.Ed25519PrivateKey.generate())}, "but the algorithm is rsa"),
        ({**RSA, "private_key": pem(ec.generate_private_key(ec.SECP256R1()))}, "neither"),
        ({**RSA, "mode": "0644"}, "is expected"),
    ],
)
def test_rows_are_checked_once_more_on_the_host(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        apply(tmp_path / "dkim", row)
    assert "geheim" not in str(caught.value)
    assert "BEGIN" not in str(caught.value)
    assert not (tmp_path / "dkim").exists()


def test_duplicates_are_reported_with_both_indexes(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"keys\[0\] and keys\[2\] are both mw-rsa of oak.test"):
        apply(tmp_path, RSA, ED25519, RSA)


def test_no_output_holds_a_private_key(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    text = pem(rsa_key)
    done = apply(tmp_path, {**RSA, "private_key": text}, ED25519)
    shown = repr(done.plan.lines()) + repr(done.keys) + repr(done.plan.names())
    assert not any(line in shown for line in text.splitlines()[1:-1])
    assert (tmp_path / "oak.test.mw-ed25519.key").read_text().strip()[:40] not in shown


def test_a_key_is_read_only_when_its_text_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(tmp_path, RSA, ED25519)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    use(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(dkim, "load", None)
        assert not apply(tmp_path, RSA, ED25519).changed
    (tmp_path / "oak.test.mw-rsa.key").write_text(text := dkim.store_text(dkim.generate("rsa", 2048)))
    done = apply(tmp_path, RSA, ED25519)
    assert states(done) == {"mw-rsa": "prepared", "mw-ed25519": "signing"}
    assert dkim.record(dkim.load(text)) in records(done)


def test_many_keys_are_made_at_once_and_each_is_another(tmp_path: Path) -> None:
    rows = [{**ED25519, "domain": f"d{n}.test"} for n in range(dkim.FEW + 2)]
    done = apply(tmp_path / "dkim", *rows)
    assert len(set(records(done))) == len(rows)
    assert apply(tmp_path / "dkim", *rows).keys == done.keys


def test_a_record_becomes_a_line_of_a_zone_file() -> None:
    value = "v=DKIM1; k=rsa; p=" + "A" * 300
    line = zone_line("mw-rsa._domainkey.oak.test", value)
    before, after = 'mw-rsa._domainkey.oak.test. IN TXT ( "', '" )'
    assert line.startswith(before)
    assert line.endswith(after)
    found = line.removeprefix(before).removesuffix(after).split('" "')
    assert [len(string) for string in found] == [255, 63]
    assert "".join(found) == value
