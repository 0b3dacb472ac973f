# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""All certificates of a host: one of its own (`default`), further ones that clients get who ask for their names (SNI, RFC 6066).

One that cannot be had never keeps the others from going live: it is told, and tried again in the next run.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import acme as certbot
from . import rollover
from .acme import Acme
from .certificate import (
    CHAIN_FILE,
    KEY_FILE,
    PROVISIONAL_FILE,
    CertificateError,
    Pair,
    PrivateKey,
    expires_soon,
    judge,
    live_names,
    load_pair,
    put_live,
    read_pair,
    remove_live,
    same,
    self_signed,
    spki_digest,
)
from .commands import find_command, run
from .files import make_directory, remove_file, write_atomic

DEFAULT = "default"
# Postfix's table of names and pairs, which it holds itself; see postconf(5), tls_server_sni_maps.
SNI_TABLE = "sni"
# Until every service shows the new key.
RELOAD_TIME = 30
# Reloads Dovecot before Postfix; installed by the role certificates.
RELOAD = "/usr/local/lib/mailwright/reload-services"
NEW_KEY = "the next key can be used"


@dataclass(frozen=True)
class Certificate:
    """One that is wanted. `mail_names` are those of its names that mail services answer to."""

    name: str
    names: tuple[str, ...]
    mail_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is wanted; see the options of the module tls_certificate. `provided` is {name: (key, chain)} in PEM."""

    source: str
    certificates: Sequence[Certificate]
    path: Path
    provided: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    units: Sequence[str] = ()
    named_in: Sequence[Path] = ()
    acme: Acme | None = None
    # Of `default`: whether its key is to change, where its TLSA records are, and for how many seconds to wait for the next step.
    rotate: bool = False
    tlsa_names: Sequence[str] = ()
    wait: float = 0.0
    ask: Callable[[Sequence[str]], list[rollover.Heard]] | None = None

    def source_of(self, name: str) -> str:
        """Where one comes from: a provided one wins."""
        return "provided" if name in self.provided else "self_signed" if self.source == "provided" else self.source


@dataclass
class Outcome:
    """What was, or in check mode would be, done with one; `after` is None where only the ACME server can tell."""

    certificate: Certificate
    before: Pair | None
    after: Pair | None
    reason: str = ""

    @property
    def changed(self) -> bool:
        """Whether there is, or would be, another one."""
        return bool(self.reason)


@dataclass
class Result:
    """What was, or in check mode would be, done. `missing` are sentences, one for each certificate that is not as wanted."""

    outcomes: list[Outcome] = field(default_factory=list)
    changed: bool = False
    removed: list[str] = field(default_factory=list)
    reloaded: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    # What a change of the key waits for.
    next_key: str = ""


def check_provided(certificates: Iterable[Mapping[str, Any]], provided: Mapping[str, tuple[str, str]], now: dt.datetime) -> dict[str, str]:
    """What speaks against pairs that are at hand, {name: sentence}; `certificates` are rows, `provided` is {name: (key, chain)} in PEM."""
    wanted = {row["name"]: row["names"] for row in certificates}
    faults = {}
    for name, (key, chain) in provided.items():
        if name not in wanted:
            faults[name] = "there is no such certificate: a domain needs the key certificate with a name that the host's own lacks"
            continue
        try:
            found = judge(load_pair(key.encode(), chain.encode()), wanted[name], now)
        except CertificateError as error:
            found = [str(error)]
        if found:
            faults[name] = "; ".join(found)
    return faults


def install(request: Request, now: dt.datetime, *, check_mode: bool = False) -> Result:
    """Make sure that each name has a usable pair live; with the source acme a provisional one will do.

    A provided pair that is not good is refused, and then nothing is written. Raises CertificateError, OSError.
    """
    result = Result()
    faults = []
    for wanted in request.certificates:
        live = read_pair(request.path / wanted.name)
        try:
            pair, reason = _choose(request, wanted, live, now)
        except CertificateError as error:
            faults.append(f"{wanted.name}: {error}")
            continue
        result.outcomes.append(Outcome(wanted, live, pair, reason))
        if request.source_of(wanted.name) == "provided" and expires_soon(pair, now):
            result.warnings.append(f"the provided certificate {wanted.name} ends on {pair.not_after:%Y-%m-%d}; replace it before that")
    if faults:
        raise CertificateError("; ".join(faults))
    try:
        _finish(request, result, check_mode=check_mode)
    except ReloadError as error:
        # The run goes on to what may be the matter; at its end `obtain` tries again, as the mark is still there.
        result.warnings.append(str(error))
    return result


def _choose(request: Request, wanted: Certificate, live: Pair | None, now: dt.datetime) -> tuple[Pair, str]:
    """The pair to be live, and why it is another one than now (empty where it is not)."""
    source = request.source_of(wanted.name)
    if source == "provided":
        pair = load_pair(*request.provided[wanted.name])
        faults = judge(pair, wanted.names, now)
        if faults:
            raise CertificateError("; ".join(faults))
        return pair, "" if same(live, pair) else "another certificate is provided"
    if source == "acme" and request.acme:
        issued = certbot.issued(request.acme, wanted.name)
        if issued and not judge(issued, (), now):
            return issued, "" if same(live, issued) else "certbot has another one than the one in use"
        if live and not live.is_self_signed:
            return live, ""  # even an expired one: a self-signed one would be no better
    if live is None:
        return self_signed(wanted.names, now), "there is none"
    if not live.is_self_signed:
        return self_signed(wanted.names, now), "the one in use is not self-signed"
    if live.names != list(wanted.names):
        return self_signed(wanted.names, now, live.key), "the names are others"
    if expires_soon(live, now):
        return self_signed(wanted.names, now, live.key), f"it ends on {live.not_after:%Y-%m-%d}"
    return live, ""


def obtain(request: Request, now: dt.datetime, *, check_mode: bool = False) -> Result:
    """Make sure that certbot holds what is to come from the ACME server, that it is live, and that nothing else is kept.

    No process is started while all is well. What the server refuses is told in `missing`. Raises OSError.
    """
    result = Result()
    unavailable = ""
    key = _next_key(request, result, now, check_mode=check_mode)
    for wanted in request.certificates:
        live = read_pair(request.path / wanted.name)
        outcome = Outcome(wanted, live, live)
        result.outcomes.append(outcome)
        change = key if wanted.name == DEFAULT else None
        if change and request.source_of(wanted.name) == "self_signed":
            outcome.after, outcome.reason = self_signed(wanted.names, now, change), NEW_KEY
        if request.source_of(wanted.name) != "acme" or request.acme is None:
            continue
        names, lacking = _obtainable(request.acme, wanted, now)
        outcome.reason = NEW_KEY if change and names else _why(request.acme, wanted, names, now)
        if outcome.reason and check_mode:
            outcome.after = None
            continue
        failure = None
        if outcome.reason and unavailable:
            failure = certbot.Failure(f"not asked for, since the server refused the one before: {unavailable}", {})
        elif outcome.reason:
            before = certbot.change_key(request.acme, wanted.name, Pair(change, ()).key_pem) if change else None
            failure = _ask(request.acme, wanted.name, names, lacking, now)
            if failure and before:
                certbot.change_key(request.acme, wanted.name, before)
        if failure and failure.server:
            unavailable = failure.text.splitlines()[-1] if failure.text else "no answer"
        issued = certbot.issued(request.acme, wanted.name)
        # What is just made may begin later than this run did.
        fresh = bool(outcome.reason) and failure is None
        outcome.after = issued if issued and (fresh or not judge(issued, (), now)) else live
        if same(live, outcome.after):
            outcome.reason = ""
        elif not outcome.reason:
            outcome.reason = "certbot has another one than the one in use"
        if failure or lacking:
            result.missing.append(_told(request.acme, wanted, outcome.after, failure, lacking, now))
    kept = {*live_names(request.path), *(certbot.known(request.acme) if request.acme else ())} - _names(request)
    result.removed = sorted(name for name in kept if not _is_named(request, name))
    if key and not check_mode:
        _retire_key(request, result)
    _finish(request, result, check_mode=check_mode)
    if not check_mode:
        if key and result.next_key:
            rollover.finish(request.path)
        for name in result.removed:
            remove_live(request.path / name)
            if request.acme:
                certbot.forget(request.acme, name)
    return result


def _next_key(request: Request, result: Result, now: dt.datetime, *, check_mode: bool) -> PrivateKey | None:
    """The next key of `default`, when it can be used; `result` is told what it waits for."""
    path = request.path
    waiting, live = rollover.load(path), read_pair(path / DEFAULT)
    if waiting and live and spki_digest(live.key) == waiting.digest:
        # A run was cut short.
        waiting = None
        if not check_mode:
            rollover.finish(path)
    if waiting is None:
        if not request.rotate:
            return None
        if request.source_of(DEFAULT) == "provided":
            result.next_key = "The certificate is a provided one: publish the TLSA record of the new key beside the present one, wait for "
            result.next_key += "its TTL, and then provide the new pair."
            return None
        if request.source_of(DEFAULT) == "acme" and request.acme and certbot.issued(request.acme, DEFAULT) is None:
            result.next_key = "There is no certificate of the ACME server yet, whose key could change."
            return None
        if check_mode:
            result.changed, result.next_key = True, "A next key would be made, to be published beside the present one."
            return None
        waiting = rollover.prepare(path)
        result.changed = True
    until = time.monotonic() + request.wait
    while True:
        before = waiting
        waiting, reason = rollover.advance(waiting, request.ask(request.tlsa_names) if request.ask else [], dt.datetime.now(dt.UTC))
        if waiting != before and not check_mode:
            rollover.save(path, waiting)
        late = waiting.due and (waiting.due - dt.datetime.now(dt.UTC)).total_seconds() > until - time.monotonic()
        if not reason or late or check_mode or time.monotonic() >= until:
            break
        time.sleep(1)  # name servers tell nobody when they have a record, nor caches when they forget one
    if reason:
        names = ", ".join(request.tlsa_names)
        result.next_key = (
            f"The next key waits: {reason}. Its record, beside the present one: {names} TLSA {rollover.record(waiting.digest)}"
        )
        return None
    return rollover.load_key(path)


def _retire_key(request: Request, result: Result) -> None:
    """Before the next key is live: the record of the present one stays until no cache can have it alone."""
    outcome = next((outcome for outcome in result.outcomes if outcome.certificate.name == DEFAULT), None)
    waiting = rollover.load(request.path)
    if waiting and outcome and outcome.before and outcome.after and spki_digest(outcome.after.key) == waiting.digest:
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=waiting.ttl + RELOAD_TIME)
        rollover.retire(request.path, spki_digest(outcome.before.key), until)
        result.next_key = f"The new key is in use. The record of the former one can go from {until:%Y-%m-%d %H:%M:%S} UTC on."


def _is_named(request: Request, name: str) -> bool:
    """Whether a service's configuration still has it, as in a run of some tags only: without it that service could not reload."""
    text = f"{request.path / name}/"
    return any(text in file.read_text(errors="replace") for file in request.named_in if file.exists())


def _names(request: Request) -> set[str]:
    return {wanted.name for wanted in request.certificates}


def _obtainable(acme: Acme, wanted: Certificate, now: dt.datetime) -> tuple[list[str], dict[str, str]]:
    """The names worth asking for, and the others with a reason: without an address the server could not even try."""
    issued = certbot.issued(acme, wanted.name)
    if acme.challenge != "http-01" or (issued and set(issued.names) == set(wanted.names)):
        return list(wanted.names), {}
    doubtful = [name for name in wanted.names if name not in acme.announced]
    lacking = {name: "it has no address in the DNS" for name in doubtful if not certbot.has_address(name)}
    return [name for name in wanted.names if name not in lacking], lacking


def _why(acme: Acme, wanted: Certificate, names: Sequence[str], now: dt.datetime) -> str:
    issued = certbot.issued(acme, wanted.name)
    if not names:
        return ""
    if issued is None:
        return "there is none yet"
    # A name that cannot be had just now stays on it.
    if not set(names) <= set(issued.names) <= set(wanted.names):
        return f"the present one is for {', '.join(issued.names)}"
    if expires_soon(issued, now):
        return f"the present one ends on {issued.not_after:%Y-%m-%d} and was not renewed"
    return certbot.why_anew(acme, wanted.name)


def _ask(acme: Acme, name: str, names: Sequence[str], lacking: dict[str, str], now: dt.datetime) -> certbot.Failure | None:
    """Ask for the names; where the server blames some of them, for the others. `lacking` gets those it blames."""
    failure = certbot.ask(acme, name, names)
    if failure is None or not failure.names:
        return failure
    lacking.update({one: reason for one, reason in failure.names.items() if one in names})
    rest = [one for one in names if one not in lacking]
    if not rest or len(rest) == len(names):
        return failure
    issued = certbot.issued(acme, name)
    # Not again and again for the sake of one that is still missing.
    if issued and set(issued.names) >= set(rest) and not expires_soon(issued, now) and not certbot.why_anew(acme, name):
        return None
    return certbot.ask(acme, name, rest)


def _told(
    acme: Acme, wanted: Certificate, pair: Pair | None, failure: certbot.Failure | None, lacking: Mapping[str, str], now: dt.datetime
) -> str:
    """What is missing, why, what is served meanwhile, and the cure."""
    lines = [f"{name}: {reason}" for name, reason in lacking.items()]
    if failure and not failure.names:
        lines += failure.text.splitlines()[-6:]
    if pair is None or pair.is_self_signed:
        serves = "Until then clients get a self-signed certificate."
    elif judge(pair, wanted.names, now):
        serves = f"Meanwhile the certificate serves {', '.join(pair.names)}, until {pair.not_after:%Y-%m-%d}."
    else:
        serves = f"The present one is good until {pair.not_after:%Y-%m-%d}."
    way = (
        "publish its address records, let port 80 of this host be reached from everywhere"
        if acme.challenge == "http-01"
        else "let the key of mail_dns_updates change _acme-challenge TXT records"
    )
    names = ", ".join(lacking) or ", ".join(wanted.names)
    cure = f"Cure: {way}, or take the name out of the inventory. The next run tries again." if lacking else "The next run tries again."
    return "\n  ".join([f"no certificate for {names} from {acme.directory} (certificate {wanted.name}):", *lines, serves, cure])


# --- going live -------------------------------------------------------------------------------------------------------


def _finish(request: Request, result: Result, *, check_mode: bool) -> None:
    """Make the new pairs live, together with what names them, and let the services take them up once."""
    marker = request.path / "reload-pending"
    changed = [outcome for outcome in result.outcomes if outcome.changed]
    table = sni_table(request.path, request.certificates)
    source = request.path / SNI_TABLE
    tabled = (source.read_text() if source.exists() else "") == table
    exposed = [file for outcome in result.outcomes for file in _exposed(request.path / outcome.certificate.name)]
    pending = marker.exists()
    if pending and not changed and result.outcomes:
        result.outcomes[0].reason = "a run was interrupted before the services took it up"
    result.changed = bool(result.changed or changed or result.removed or exposed or pending or not tabled)
    if check_mode:
        return
    for file in exposed:
        file.chmod(0o600)
    _mark_provisional(request, result)
    new = [(request.path / outcome.certificate.name, outcome.after) for outcome in changed if outcome.after]
    if not new and not pending and tabled:
        return
    make_directory(request.path, mode=0o700)
    write_atomic(marker, b"", mode=0o600)
    for link, pair in new:
        put_live(link, pair)
    if table or not tabled:
        write_atomic(source, table.encode(), mode=0o600)
        build_sni_table(source)
    result.reloaded = reload(request.units)
    remove_file(marker)


def _mark_provisional(request: Request, result: Result) -> None:
    """Before a pair that only holds the place of another goes live, so that nobody publishes its key."""
    marker = request.path / PROVISIONAL_FILE
    pairs = [outcome.after for outcome in result.outcomes if outcome.certificate.name == DEFAULT and outcome.after]
    provisional = request.source_of(DEFAULT) == "acme" and any(pair.is_self_signed for pair in pairs)
    if provisional and not marker.exists():
        make_directory(request.path, mode=0o700)
        write_atomic(marker, b"", mode=0o600)
    elif not provisional:
        remove_file(marker)


def _exposed(live: Path) -> list[Path]:
    """Files of a pair that others than root can read."""
    return [file for name in (KEY_FILE, CHAIN_FILE) if (file := live / name).exists() and file.stat().st_mode & 0o077]


def sni_table(path: Path, certificates: Iterable[Certificate]) -> str:
    """Postfix's table: host name, then the files of its pair."""
    rows = {name: path / wanted.name for wanted in certificates for name in wanted.mail_names if wanted.name != DEFAULT}
    return "".join(f"{name} {pair / KEY_FILE}, {pair / CHAIN_FILE}\n" for name, pair in sorted(rows.items()))


def build_sni_table(source: Path) -> None:
    """Put the pairs themselves into the database beside `source`, in place: running daemons see it. Raises CertificateError."""
    if find_command("postmap") is None:
        return
    status, output = run(["postmap", "-F", f"lmdb:{source}"])
    if status:
        raise CertificateError(f"postmap -F {source} failed: {output}")


class ReloadError(CertificateError):
    """A service does not take its pair up."""


def reload(units: Iterable[str]) -> list[str]:
    """Reload those of the units that run; their names. Raises ReloadError."""
    running = [unit for unit in units if run(["systemctl", "is-active", "--quiet", unit])[0] == 0]
    if running:
        status, output = run([RELOAD, *running])
        if status:
            raise ReloadError(f"the certificates are in place, but {', '.join(running)} did not all reload: {output}")
    return running
