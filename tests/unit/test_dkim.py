"""DKIM keys: made once, kept, archived rather than removed, and never shown."""

from __future__ import annotations

import base64
import contextlib
import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.mailwright import dkim
from ansible.module_utils.mailwright.errors import Invalid
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

RSA = {"domain": "oak.test", "selector": "mw-rsa", "algorithm": "rsa", "bits": 2048, "private_key": None}
ED25519 = {"domain": "oak.test", "selector": "mw-ed25519", "algorithm": "ed25519", "bits": None, "private_key": None}
OWNER, GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


@contextlib.contextmanager
def unlocked() -> Iterator[None]:
    yield


def apply(path: Path, *rows: dict[str, Any], check_mode: bool = False) -> dkim.Key:
    return dkim.apply(rows, path, OWNER, GROUP, check_mode=check_mode, lock=unlocked)


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
    assert [(r["name"], r["type"], r["value"][:20]) for r in first.records] == [
        ("mw-ed25519._domainkey.oak.test", "TXT", "v=DKIM1; k=ed25519; "),
        ("mw-rsa._domainkey.oak.test", "TXT", "v=DKIM1; k=rsa; p=MI"),
    ]
    texts = {file.name: file.read_text() for file in path.glob("*.key")}
    second = apply(path, RSA, ED25519)
    assert not second.changed
    assert second.records == first.records
    assert {file.name: file.read_text() for file in path.glob("*.key")} == texts
    assert sorted(texts) == ["oak.test.mw-ed25519.key", "oak.test.mw-rsa.key"]
    assert path.stat().st_mode & 0o777 == 0o750
    assert all(file.stat().st_mode & 0o777 == 0o640 for file in path.glob("*.key"))


def test_an_ed25519_key_is_stored_as_rspamd_reads_it(tmp_path: Path) -> None:
    done = apply(tmp_path / "dkim", ED25519)
    raw = base64.b64decode((tmp_path / "dkim/oak.test.mw-ed25519.key").read_text())
    assert len(raw) == 64
    assert done.records[0]["value"].endswith(f"p={base64.b64encode(raw[32:]).decode()}")


def test_check_mode_tells_the_same_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "dkim"
    done = apply(path, RSA, check_mode=True)
    assert (done.changed, done.plan.added, done.records) == (True, ("mw-rsa._domainkey.oak.test",), [])
    assert not path.exists()
    made = apply(path, RSA)
    again = apply(path, RSA, check_mode=True)
    assert (again.changed, again.records) == (False, made.records)


def test_given_keys_are_written_as_they_are(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    text = pem(rsa_key, serialization.PrivateFormat.TraditionalOpenSSL)
    done = apply(tmp_path / "dkim", {**RSA, "private_key": text})
    assert (tmp_path / "dkim/oak.test.mw-rsa.key").read_text() == text
    assert done.records[0]["value"] == dkim.record(rsa_key)
    assert not apply(tmp_path / "dkim", {**RSA, "private_key": f"\n{text}\n"}).changed


def test_a_given_ed25519_key_gets_rspamds_form(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    rows = {**ED25519, "private_key": pem(key)}
    done = apply(tmp_path / "dkim", rows)
    assert done.records[0]["value"] == dkim.record(key)
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


def test_keys_that_are_not_wanted_any_more_go_to_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "dkim"
    apply(path, RSA, ED25519)
    assert apply(path, ED25519, check_mode=True).changed
    done = apply(path, ED25519)
    assert done.plan.removed == ("oak.test.mw-rsa.key (file)",)
    assert [file.name for file in path.glob("*.key")] == ["oak.test.mw-ed25519.key"]
    assert len(list((path / "archive").iterdir())) == 1
    assert not apply(path, ED25519).changed


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
    with pytest.raises(Invalid, match=r"keys\[0\] and keys\[2\] are both mw-rsa._domainkey.oak.test"):
        apply(tmp_path, RSA, ED25519, RSA)


def test_no_output_holds_a_private_key(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    text = pem(rsa_key)
    done = apply(tmp_path, {**RSA, "private_key": text}, ED25519)
    shown = repr(done.plan.lines()) + repr(done.records) + repr(done.plan.names())
    assert not any(line in shown for line in text.splitlines()[1:-1])
    assert (tmp_path / "oak.test.mw-ed25519.key").read_text().strip()[:40] not in shown


def test_what_is_public_of_a_key_is_remembered_by_its_text_only(tmp_path: Path) -> None:
    path = tmp_path / "dkim"
    first = apply(path, RSA, ED25519)
    index = path / "index.json"
    assert index.stat().st_mode & 0o777 == 0o600
    remembered = index.read_text()
    # Not read again: the record comes from the index.
    index.write_text(remembered.replace("v=DKIM1; k=rsa;", "v=DKIM1; k=rsa; remembered;"))
    assert "remembered" in str(apply(path, RSA, ED25519).records)
    for damage in ("{", "[]", "{}"):
        index.write_text(damage)
        assert apply(path, RSA, ED25519).records == first.records
        assert index.read_text() == remembered
    # Another text under the same name is another key.
    (path / "oak.test.mw-rsa.key").write_text(dkim.store_text(dkim.generate("rsa", 2048)))
    assert apply(path, RSA, ED25519).records[1] != first.records[1]


def test_many_keys_are_made_at_once_and_each_is_another(tmp_path: Path) -> None:
    rows = [{**ED25519, "domain": f"d{n}.test"} for n in range(dkim.FEW + 2)]
    done = apply(tmp_path / "dkim", *rows)
    assert len({record["value"] for record in done.records}) == len(rows)
    assert apply(tmp_path / "dkim", *rows).records == done.records


def test_a_record_becomes_a_line_of_a_zone_file() -> None:
    value = "v=DKIM1; k=rsa; p=" + "A" * 300
    line = dkim.zone_line("mw-rsa._domainkey.oak.test", value)
    before, after = 'mw-rsa._domainkey.oak.test. IN TXT ( "', '" )'
    assert line.startswith(before)
    assert line.endswith(after)
    found = line.removeprefix(before).removesuffix(after).split('" "')
    assert [len(string) for string in found] == [255, 63]
    assert "".join(found) == value
