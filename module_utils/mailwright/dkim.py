# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""DKIM private keys on the host: made once, never changed under a published selector, archived rather than removed.

`<domain>.<selector>.key` holds an RSA key as PEM (PKCS#8 where we made it), or an Ed25519 key in the form that Rspamd reads on both
releases: base64 of seed and public key, 64 octets, as `rspamadm dkim_keygen -t ed25519` writes it. See RFC 6376, RFC 8463.
`index.json` remembers what is public of each text, by its SHA-256: to read a thousand RSA keys takes a minute.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import grp
import hashlib
import json
import multiprocessing
import os
import pwd
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from .errors import Invalid, show
from .files import TEMPORARY_PREFIX, fsync_directory, host_lock, make_directory, write_atomic
from .maps import check_domain
from .plan import Plan, keyed, make_plan

__all__ = ["Key", "Wanted", "apply", "generate", "load", "record", "record_name", "store_text", "zone_line"]

PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
_SELECTOR: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# RFC 8301: verifiers must know 1024 to 4096 bits; below 2048 is too weak to sign with.
_BITS: Final = range(2048, 4097)
ARCHIVE: Final = "archive"
INDEX: Final = "index.json"
# Keys that are made without other processes.
FEW: Final = 4


class Public(NamedTuple):
    """What of a key everybody may know: such as `rsa 2048`, and the value of its TXT record."""

    kind: str
    record: str


@dataclass(frozen=True)
class Wanted:
    """One key of the inventory; `given` is the key from the vault."""

    domain: str
    selector: str
    algorithm: str
    bits: int | None
    given: PrivateKey | None
    given_text: str | None

    @property
    def file(self) -> str:
        return f"{self.domain}.{self.selector}.key"


@dataclass(frozen=True)
class Key:
    """What apply found or did: the plan by record name, and the records of all keys that exist."""

    plan: Plan
    records: list[dict[str, str]]
    changed: bool


def load(text: str) -> PrivateKey:
    """A key from PEM or from Rspamd's form of Ed25519. Raises Invalid, without any part of the text."""
    if "-----BEGIN" not in text:
        try:
            raw = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise Invalid("not a readable private key") from None
        if len(raw) not in (32, 64):
            raise Invalid("not a readable private key")
        return ed25519.Ed25519PrivateKey.from_private_bytes(raw[:32])
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid("not a readable private key in PEM, or an encrypted one") from None
    if not isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise Invalid("neither an RSA nor an Ed25519 key")
    return key


def generate(algorithm: str, bits: int | None) -> PrivateKey:
    """A fresh key."""
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, bits or 2048)


def generate_all(wanted: Mapping[str, tuple[str, int | None]]) -> dict[str, PrivateKey]:
    """A fresh key for each name: an RSA key takes a tenth of a second and more, so many are made on all cores at once."""
    if len(wanted) <= FEW:
        return {name: generate(*kind) for name, kind in wanted.items()}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        texts = pool.map(_generate_text, wanted.values(), chunksize=4)
        return {name: load(text) for name, text in zip(wanted, texts, strict=True)}


def _generate_text(kind: tuple[str, int | None]) -> str:
    # Keys themselves do not pass between processes.
    return store_text(generate(*kind))


def store_text(key: PrivateKey) -> str:
    """What is written for a key: see above."""
    if isinstance(key, rsa.RSAPrivateKey):
        form = serialization.PrivateFormat.PKCS8
        return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    raw = serialization.Encoding.Raw
    seed = key.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    return base64.b64encode(seed + key.public_key().public_bytes(raw, serialization.PublicFormat.Raw)).decode() + "\n"


def record(key: PrivateKey) -> str:
    """The value of the TXT record, one string of any length."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"v=DKIM1; k=ed25519; p={base64.b64encode(public).decode()}"


def zone_line(name: str, value: str) -> str:
    """The record as a line of a zone file (RFC 1035, 5.1); a character string has at most 255 octets, and verifiers join them.

    In parentheses, so that it may be wrapped on its way there.
    """
    strings = " ".join(f'"{value[start : start + 255]}"' for start in range(0, len(value), 255))
    return f"{name}. IN TXT ( {strings} )"


def record_name(wanted: Wanted) -> str:
    """Where the record belongs."""
    return f"{wanted.selector}._domainkey.{wanted.domain}"


def _kind(key: PrivateKey) -> str:
    return f"rsa {key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else "ed25519"


def _read(row: dict[str, Any]) -> Wanted:
    domain, selector, algorithm, bits, text = (row[key] for key in ("domain", "selector", "algorithm", "bits", "private_key"))
    check_domain(domain)
    if not isinstance(selector, str) or not _SELECTOR.fullmatch(selector):
        raise Invalid(f"{show(selector)} is not a selector")
    if algorithm not in ("rsa", "ed25519"):
        raise Invalid("algorithm: rsa or ed25519 is expected")
    if text is None and algorithm == "rsa" and (type(bits) is not int or bits not in _BITS):
        raise Invalid(f"bits: {_BITS[0]} to {_BITS[-1]} are possible")
    given = None
    if text is not None:
        if not isinstance(text, str):
            raise Invalid("private_key: a text is expected")
        given = load(text)
        if isinstance(given, rsa.RSAPrivateKey) != (algorithm == "rsa"):
            raise Invalid(f"private_key: {_kind(given)}, but the algorithm is {algorithm}")
        if isinstance(given, rsa.RSAPrivateKey) and given.key_size not in _BITS:
            raise Invalid(f"private_key: {given.key_size} bits; {_BITS[0]} to {_BITS[-1]} are possible")
    # An RSA key from the vault stays as it was written, an Ed25519 key gets Rspamd's form.
    given_text = None if given is None else f"{text.strip()}\n" if algorithm == "rsa" else store_text(given)
    return Wanted(domain, selector, algorithm, bits if algorithm == "rsa" else None, given, given_text)


def _rows(rows: Iterable[Any]) -> dict[str, Wanted]:
    """Rows by record name. Raises Invalid with all that is wrong, and both indexes of duplicates."""
    fields = ("domain", "selector", "algorithm", "bits", "private_key")
    named = [
        {**row, "name": f"{row.get('selector')}._domainkey.{row.get('domain')}"} if isinstance(row, dict) and "name" not in row else row
        for row in rows
    ]
    return keyed("keys", named, "name", (*fields, "name"), _read)


def public_of(key: PrivateKey) -> Public:
    """What of a key everybody may know."""
    return Public(_kind(key), record(key))


def _fits(wanted: Wanted, key: Public) -> bool:
    return key.kind.split()[0] == wanted.algorithm and (wanted.bits is None or wanted.given is not None or key.kind == f"rsa {wanted.bits}")


def _read_index(path: Path) -> dict[str, Public]:
    """{SHA-256 of a key's text: what is public of it}; empty where it cannot be read."""
    try:
        return {digest: Public(*known) for digest, known in json.loads((path / INDEX).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def apply(
    rows: Iterable[Any],
    path: Path,
    owner: str,
    group: str,
    *,
    check_mode: bool = False,
    lock: Callable[[], AbstractContextManager[None]] = host_lock,
) -> Key:
    """Make the keys under `path` those of the rows. Existing keys stay; others than these go to the archive below.

    Raises Invalid (nothing written), LockedError, OSError.
    """
    desired = _rows(rows)
    files = {wanted.file: name for name, wanted in desired.items()}
    if len(files) != len(desired):
        raise Invalid("two keys would share one file: choose selectors that no domain begins with")
    texts = {found.name: found.read_text() for found in sorted(path.glob("*.key"))} if path.is_dir() else {}
    wrong: list[str] = []
    known = _read_index(path)
    existing: dict[str, Public] = {}
    for file, text in texts.items():
        name = files.get(file)
        if name is None:
            continue
        wanted = desired[name]
        if wanted.given_text == text and wanted.given is not None:
            existing[name] = public_of(wanted.given)
            continue
        try:
            existing[name] = known.get(_sha256(text)) or public_of(load(text))
        except Invalid as error:
            # A key from the vault repairs it.
            if wanted.given is None:
                wrong.append(f"{path / file}: {error}")
            continue
        if wanted.given is None and not _fits(wanted, existing[name]):
            kind = wanted.algorithm if wanted.bits is None else f"rsa {wanted.bits}"
            wrong.append(f"{name} is {existing[name].kind}, not {kind}; a key does not change under its selector: choose another selector")
    if wrong:
        raise Invalid("; ".join(wrong))
    current = {name: key._asdict() for name, key in existing.items()}
    current.update({_strange(file): {"kind": ""} for file in texts if file not in files})
    # What is to be written; in check mode keys are not made.
    made = {name: wanted.given for name, wanted in desired.items() if wanted.given is not None}
    missing = {name: (wanted.algorithm, wanted.bits) for name, wanted in desired.items() if name not in existing and name not in made}
    if not check_mode:
        made.update(generate_all(missing))
    keys = existing | {name: public_of(key) for name, key in made.items()}
    unknown = {name: {"kind": f"{algorithm} {bits or ''}".strip(), "record": ""} for name, (algorithm, bits) in missing.items()}
    plan = make_plan(current, {name: keys[name]._asdict() if name in keys else unknown[name] for name in desired})
    stale = [file for file in texts if file not in files]
    write = {wanted.file: wanted.given_text or store_text(made[name]) for name, wanted in desired.items() if name in made}
    write = {file: text for file, text in write.items() if texts.get(file) != text}
    changed = bool(plan or write)
    if not check_mode:
        uid, gid = _ids(owner, group)
        index = {_sha256((texts | write)[wanted.file]): keys[name] for name, wanted in desired.items()}
        if changed or index != known or _attributes(path, [path / wanted.file for wanted in desired.values()], uid, gid):
            with lock():
                changed = make_directory(path, mode=0o750, uid=uid, gid=gid) or changed
                for left in path.glob(f"{TEMPORARY_PREFIX}*"):
                    left.unlink()
                for file in [*stale, *(file for file in write if file in texts)]:
                    _archive(path, file)
                for file, text in write.items():
                    write_atomic(path / file, text.encode(), mode=0o640, uid=uid, gid=gid)
                for wanted in desired.values():
                    changed = _own(path / wanted.file, uid, gid) or changed
                if index != known:
                    write_atomic(path / INDEX, json.dumps(index).encode(), mode=0o600)
    records = [{"name": name, "type": "TXT", "value": key.record} for name, key in sorted(keys.items())]
    return Key(plan, records, changed)


def _strange(file: str) -> str:
    return f"{file} (file)"


def _ids(owner: str, group: str) -> tuple[int, int]:
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise Invalid(f"{error.args[0]}: its package is not installed") from None


def _attributes(path: Path, files: Iterable[Path], uid: int, gid: int) -> bool:
    """Whether the directory or a file has another owner or mode than it should."""
    found = path.stat()
    if (found.st_uid, found.st_gid, found.st_mode & 0o7777) != (uid, gid, 0o750):
        return True
    return any((s.st_uid, s.st_gid, s.st_mode & 0o7777) != (uid, gid, 0o640) for s in (file.stat() for file in files))


def _own(path: Path, uid: int, gid: int) -> bool:
    found = path.stat()
    if (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (uid, gid, 0o640):
        return False
    os.chown(path, uid, gid)
    path.chmod(0o640)
    return True


def _archive(path: Path, file: str) -> None:
    """Out of Rspamd's sight, never destroyed: mail on its way may still have to be checked against it."""
    archive = path / ARCHIVE
    make_directory(archive, mode=0o700)
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%fZ")
    (path / file).rename(archive / f"{file}.{stamp}")
    fsync_directory(archive)
    fsync_directory(path)
