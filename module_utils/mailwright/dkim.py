# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""DKIM private keys on the host: made once, never changed under a published selector, archived rather than removed.

`<domain>.<selector>.key` holds an RSA key as PEM (PKCS#8 where we made it), or an Ed25519 key in the form that Rspamd reads on both
releases: base64 of seed and public key, 64 octets, as `rspamadm dkim_keygen -t ed25519` writes it. See RFC 6376, RFC 8463.
A key that domains share is in `shared.<selector>.key`. When each key signs is dkim_life.py's.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import grp
import hashlib
import multiprocessing
import os
import pwd
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from . import dkim_life, dkim_state
from .dkim_life import Want
from .dkim_state import State
from .errors import Invalid, show
from .files import TEMPORARY_PREFIX, fsync_directory, host_lock, make_directory, write_atomic
from .maps import check_domain
from .plan import Plan, make_plan

__all__ = ["Done", "Rotation", "apply", "generate", "load", "published", "record", "store_text"]

PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
# Algorithm and bits; (text, kind, record) of a key.
Kind = tuple[str, int | None]
Made = tuple[str, str, str]
_SELECTOR: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# RFC 8301: verifiers must know 1024 to 4096 bits; below 2048 is too weak to sign with.
_BITS: Final = range(2048, 4097)
ARCHIVE: Final = "archive"
# Of earlier versions.
INDEX: Final = "index.json"
# Keys that are made without other processes.
FEW: Final = 4
_FIELDS: Final = {"domain", "selector", "algorithm", "bits", "private_key", "shared"}


@dataclass(frozen=True)
class Rotation:
    """Which keys get a successor. `age` in s since a key began to sign; `now` does not wait for it. `domains`: only these."""

    age: int | None = None
    now: bool = False
    domains: frozenset[str] | None = None
    # A selector not to be trusted any more.
    revoke: str | None = None

    def is_due(self, key: dkim_life.Key, now: int) -> bool:
        """Whether it is time for the successor of a key that signs."""
        if self.domains is not None and key.domain not in self.domains:
            return False
        return self.now or (self.age is not None and now - key.since >= self.age)


@dataclass(frozen=True)
class Done:
    """What apply found or did: the plan by record name, and the keys there are now."""

    plan: Plan
    keys: list[dkim_life.Key]
    changed: bool
    # Files of the keys that were or would be made.
    missing: Mapping[str, Kind]


def published(path: Path) -> list[dict[str, str]]:
    """The records that must be in the DNS now: `{name, value, domain, selector, state}`. Raises Invalid, OSError."""
    state = dkim_state.read(path)
    return dkim_life.published(state.keys) if state is not None else []


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


@contextlib.contextmanager
def in_the_making(wanted: Mapping[str, Kind]) -> Iterator[Callable[[Mapping[str, Kind]], dict[str, Made]]]:
    """Begin to make fresh keys, by name; yields what waits for those that it is asked for, and makes others.

    An RSA key takes a twentieth of a second and more (OpenSSL 3.0 a third), so many are made on all cores.
    """
    pool = ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) if len(wanted) > FEW else None
    begun = {name: pool.submit(_generate, kind) for name, kind in wanted.items()} if pool else {}

    def make(asked: Mapping[str, Kind]) -> dict[str, Made]:
        ready = [name for name in asked if name in begun and wanted[name] == asked[name]]
        return {**{name: begun[name].result() for name in ready}, **{name: _generate(asked[name]) for name in asked.keys() - ready}}

    try:
        yield make
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _generate(kind: Kind) -> Made:
    # Keys themselves do not pass between processes.
    key = generate(*kind)
    return store_text(key), *public_of(key)


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


def _kind(key: PrivateKey) -> str:
    return f"rsa {key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else "ed25519"


def public_of(key: PrivateKey) -> tuple[str, str]:
    """What of a key everybody may know: such as `rsa 2048`, and the value of its TXT record."""
    return _kind(key), record(key)


def _want(row: object) -> tuple[Want, str | None]:
    """A row of the inventory, and the text of its file where the key is given."""
    if not isinstance(row, Mapping) or set(row) != _FIELDS:
        raise Invalid(f"a mapping of {', '.join(sorted(_FIELDS))} is expected")
    domain, selector, algorithm, bits, text = (row[key] for key in ("domain", "selector", "algorithm", "bits", "private_key"))
    check_domain(domain)
    if selector is not None and (not isinstance(selector, str) or not _SELECTOR.fullmatch(selector)):
        raise Invalid(f"{show(selector)} is not a selector")
    if algorithm not in ("rsa", "ed25519"):
        raise Invalid("algorithm: rsa or ed25519 is expected")
    if text is None and algorithm == "rsa" and (type(bits) is not int or bits not in _BITS):
        raise Invalid(f"bits: {_BITS[0]} to {_BITS[-1]} are possible")
    if type(row["shared"]) is not bool:
        raise Invalid("shared: true or false is expected")
    want = Want(domain, selector, algorithm, bits if algorithm == "rsa" else None, row["shared"])
    if text is None:
        return want, None
    if not isinstance(text, str):
        raise Invalid("private_key: a text is expected")
    if selector is None:
        raise Invalid("private_key: the selector of a given key has to be given too")
    given = load(text)
    if isinstance(given, rsa.RSAPrivateKey) != (algorithm == "rsa"):
        raise Invalid(f"private_key: {_kind(given)}, but the algorithm is {algorithm}")
    if isinstance(given, rsa.RSAPrivateKey) and given.key_size not in _BITS:
        raise Invalid(f"private_key: {given.key_size} bits; {_BITS[0]} to {_BITS[-1]} are possible")
    # An RSA key from the vault stays as it was written, an Ed25519 key gets Rspamd's form.
    return replace(want, given=record(given)), f"{text.strip()}\n" if algorithm == "rsa" else store_text(given)


def _wants(rows: Iterable[object]) -> tuple[list[Want], dict[str, str]]:
    """The rows, and {file: text} of given keys. Raises Invalid with all that is wrong, and both indexes of duplicates."""
    wants: list[Want] = []
    texts: dict[str, str] = {}
    places: dict[tuple[str, str], int] = {}
    wrong: list[str] = []
    for index, row in enumerate(rows):
        try:
            want, text = _want(row)
        except Invalid as error:
            wrong.append(f"keys[{index}]: {error}")
            continue
        first = places.setdefault((want.domain, want.slot), index)
        if first != index:
            wrong.append(f"keys[{first}] and keys[{index}] are both {want.slot.removeprefix('=')} of {want.domain}")
        if text is not None and texts.setdefault(want.file(str(want.selector)), text) != text:
            wrong.append(f"keys[{index}]: another key for {want.file(str(want.selector))}")
        wants.append(want)
    if wrong:
        raise Invalid("; ".join(wrong))
    return wants, texts


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _adopted(path: Path, texts: Mapping[str, str], wants: Collection[Want], given: Mapping[str, str]) -> State:
    """The keys of an earlier version: all of them were used to sign."""
    state = State()
    domains = {want.domain for want in wants}
    for file, text in texts.items():
        domain, _, selector = file.removesuffix(".key").rpartition(".")
        if domain in domains:
            try:
                kind, value = public_of(load(text))
            except Invalid as error:
                if file in given:
                    continue
                raise Invalid(f"{path / file}: {error}") from None
            made = int((path / file).stat().st_mtime)
            state.keys.append(dkim_life.Key(domain, selector, kind, value, file, None, "signing", made, made, None, has_signed=True))
            state.files[file] = _sha256(text)
    return state


def _examined(path: Path, state: State, texts: Mapping[str, str], given: Mapping[str, str], now: int) -> list[dkim_life.Key]:
    """The keys of the state as their files are: one that is lost is no key any more, one that is another one has another record."""
    public: dict[str, tuple[str, str]] = {}
    wrong: list[str] = []
    for file, text in texts.items():
        if file in state.files and _sha256(text) != state.files[file]:
            try:
                public[file] = public_of(load(text))
            except Invalid as error:
                # A key from the vault repairs it.
                if file not in given:
                    wrong.append(f"{path / file}: {error}")
    if wrong:
        raise Invalid("; ".join(wrong))
    keys = []
    for key in state.keys:
        kind, value = public.get(key.file, (key.kind, key.value))
        if key.state not in dkim_life.LIVE or (key.file in texts and value == key.value):
            keys.append(key)
        elif key.file in texts:
            keys.append(replace(key, kind=kind, value=value, state="prepared", since=now, until=None))
    return keys


def apply(
    rows: Iterable[object],
    path: Path,
    owner: str,
    group: str,
    *,
    rotation: Rotation | None = None,
    now: int | None = None,
    check_mode: bool = False,
    make: Callable[[Mapping[str, Kind]], dict[str, Made]] | None = None,
    lock: Callable[[], AbstractContextManager[None]] = host_lock,
) -> Done:
    """Have the keys under `path` that the rows ask for, and remove those whose time is over. Nothing new signs yet.

    `make` has keys in the making already, from the `missing` of a former call in check mode (see in_the_making).
    Raises Invalid (nothing written), LockedError, OSError.
    """
    now = int(time.time()) if now is None else now
    rotation = rotation or Rotation()
    wants, given = _wants(rows)
    if check_mode:
        return _apply(wants, given, path, rotation, now, None, make)
    ids = _ids(owner, group)
    with lock():
        return _apply(wants, given, path, rotation, now, ids, make)


def _apply(
    wants: list[Want],
    given: Mapping[str, str],
    path: Path,
    rotation: Rotation,
    now: int,
    ids: tuple[int, int] | None,
    make: Callable[[Mapping[str, Kind]], dict[str, Made]] | None,
) -> Done:
    texts = {found.name: found.read_text() for found in sorted(path.glob("*.key"))} if path.is_dir() else {}
    taken = {*texts, *(found.name.rpartition(".")[0] for found in (path / ARCHIVE).glob("*.key.*"))}
    known = dkim_state.read(path)
    state = known or _adopted(path, texts, wants, given)
    keys, _ = dkim_life.expire(_examined(path, state, texts, given, now), now)
    if rotation.revoke is not None:
        keys = dkim_life.revoke(keys, rotation.revoke, rotation.domains, now)
    keys, needs = dkim_life.reconcile(keys, wants, now, rotate=lambda key: rotation.is_due(key, now), taken=taken)
    # Before any key: one without a state would count as one of an earlier version, which signs.
    begun = ids is not None and known is None and _begin(path, state, ids)
    public = {key.file: (key.kind, key.value) for key in keys}
    made = {need.file: given[need.file] for need in needs if need.file in given}
    public |= {file: public_of(load(text)) for file, text in made.items()}
    missing = {need.file: (need.want.algorithm, need.want.bits) for need in needs if need.file not in public}
    if ids is None:
        # In check mode keys are not made.
        public |= {file: (f"{algorithm} {bits or ''}".strip(), "") for file, (algorithm, bits) in missing.items()}
    else:
        with in_the_making({} if make else missing) as making:
            for file, (text, kind, value) in (make or making)(missing).items():
                made[file], public[file] = text, (kind, value)
    # A given key may be written another way than it was.
    write = made | {key.file: given[key.file] for key in keys if key.state in dkim_life.LIVE and key.file in given}
    write = {file: text for file, text in write.items() if texts.get(file) != text}
    keys = dkim_life.add(keys, needs, public, now)
    stale = sorted(texts.keys() - {key.file for key in keys})
    plan = make_plan(_rows(state.keys, stale), _rows(keys))
    changed = bool(plan or write or begun)
    if ids is not None:
        after = texts | write
        state = State(keys, {file: _sha256(after[file]) for file in sorted({key.file for key in keys}) if file in after}, state.loaded)
        changed = _write(path, state, write, [*stale, *(file for file in write if file in texts)], ids) or changed
    return Done(plan, keys, changed, missing)


def _rows(keys: Iterable[dkim_life.Key], files: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """What a plan tells of keys; and files that are no key's."""
    rows = {key.name: {"kind": key.kind, "state": key.state, "record": key.record} for key in keys}
    names = {key.file for key in keys}
    return rows | {f"{file} (file)": {"kind": ""} for file in files if file not in names}


def _begin(path: Path, state: State, ids: tuple[int, int]) -> bool:
    make_directory(path, mode=0o750, uid=ids[0], gid=ids[1])
    return dkim_state.write(path, state)


def _write(path: Path, state: State, files: Mapping[str, str], archive: Iterable[str], ids: tuple[int, int]) -> bool:
    """Keys first, then the state that names them: what was killed in between is a file of no key, and goes to the archive."""
    uid, gid = ids
    changed = make_directory(path, mode=0o750, uid=uid, gid=gid)
    for left in path.glob(f"{TEMPORARY_PREFIX}*"):
        left.unlink()
    for file in archive:
        _archive(path, file)
    # Side by side: most of it is waiting for the disk.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: write_atomic(path / file, files[file].encode(), mode=0o640, uid=uid, gid=gid), files))
    for file in state.files:
        changed = _own(path / file, uid, gid) or changed
    changed = dkim_state.write(path, state) or changed
    (path / INDEX).unlink(missing_ok=True)
    return changed


def _ids(owner: str, group: str) -> tuple[int, int]:
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise Invalid(f"{error.args[0]}: its package is not installed") from None


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
