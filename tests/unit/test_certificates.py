"""All certificates of a host: which are chosen, what goes live together, and that one that cannot be had blocks no other."""

from __future__ import annotations

import datetime as dt
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.mailwright import acme as a
from ansible.module_utils.mailwright import certificate as c
from ansible.module_utils.mailwright import certificates as m
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from test_certificate import DAY, NAMES, NOW, Authority

ELM = ["mail.elm.test", "imap.elm.test"]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("Intermediate", Authority("Root"))


@pytest.fixture(autouse=True)
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is reloaded; this computer's own services are left alone."""
    found: list[list[str]] = []
    monkeypatch.setattr(m, "reload", lambda units: found.append(list(units)) or list(units))
    monkeypatch.setattr(m, "build_sni_table", lambda source: None)
    return found


@pytest.fixture
def request_(tmp_path: Path) -> m.Request:
    return m.Request(
        source="self_signed",
        certificates=[m.Certificate("default", tuple(NAMES)), m.Certificate("elm.test", tuple(ELM), tuple(ELM))],
        path=tmp_path / "tls",
        units=["postfix.service"],
    )


def live(request: m.Request, name: str = "default") -> c.Pair:
    found = c.read_pair(request.path / name)
    assert found
    return found


def provided(request: m.Request, name: str, pair: c.Pair) -> m.Request:
    return replace(request, provided={**request.provided, name: (pair.key_pem, pair.chain_pem)})


def tree(path: Path) -> list[tuple[str, bytes]]:
    return sorted((str(file), file.read_bytes() if file.is_file() else b"") for file in path.rglob("*"))


# --- something to start with ------------------------------------------------------------------------------------------


def test_the_first_run_makes_pairs_that_only_root_can_read(request_: m.Request, reloads: list[list[str]]) -> None:
    result = m.install(request_, NOW)
    assert result.changed
    assert [outcome.reason for outcome in result.outcomes] == ["there is none"] * 2
    assert live(request_).names == NAMES
    assert live(request_, "elm.test").names == ELM
    for path in request_.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert reloads == [["postfix.service"]], "once, for both"


def test_the_second_run_changes_nothing(request_: m.Request, reloads: list[list[str]]) -> None:
    m.install(request_, NOW)
    before = tree(request_.path)
    assert not m.install(request_, NOW).changed
    assert tree(request_.path) == before
    assert len(reloads) == 1


def test_check_mode_says_the_same_and_writes_nothing(request_: m.Request) -> None:
    result = m.install(request_, NOW, check_mode=True)
    assert result.changed
    assert not request_.path.exists()


def test_another_name_makes_a_new_certificate_for_the_same_key(request_: m.Request) -> None:
    m.install(request_, NOW)
    first, other = live(request_), live(request_, "elm.test")
    more = m.Certificate("default", (*NAMES, "pop.oak.test"))
    m.install(replace(request_, certificates=[more, *request_.certificates[1:]]), NOW)
    assert live(request_).names[-1] == "pop.oak.test"
    assert live(request_).key_pem == first.key_pem
    assert c.same(live(request_, "elm.test"), other)


def test_a_self_signed_certificate_is_renewed_before_it_ends(request_: m.Request) -> None:
    m.install(request_, NOW)
    assert not m.install(request_, NOW + (c.SELF_SIGNED_DAYS - 15) * DAY).changed
    assert m.install(request_, NOW + (c.SELF_SIGNED_DAYS - 13) * DAY).changed


def test_readable_copies_of_a_key_are_corrected(request_: m.Request) -> None:
    m.install(request_, NOW)
    key = request_.path / "elm.test" / c.KEY_FILE
    key.chmod(0o644)
    assert m.install(request_, NOW).changed
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_run_that_died_before_the_reload_is_made_good(request_: m.Request, reloads: list[list[str]]) -> None:
    m.install(request_, NOW)
    (request_.path / "reload-pending").touch()
    result = m.install(request_, NOW)
    assert result.changed
    assert "interrupted" in result.outcomes[0].reason
    assert len(reloads) == 2
    assert not m.install(request_, NOW).changed


def test_a_service_that_does_not_reload_keeps_no_run_from_putting_it_right(
    request_: m.Request, reloads: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = m.reload

    def fails(units: Sequence[str]) -> list[str]:
        raise m.ReloadError("nginx.service does not reload")

    monkeypatch.setattr(m, "reload", fails)
    assert m.install(request_, NOW).warnings == ["nginx.service does not reload"]
    with pytest.raises(c.CertificateError, match="does not reload"):
        m.obtain(request_, NOW)
    monkeypatch.setattr(m, "reload", works)
    m.obtain(request_, NOW)
    assert len(reloads) == 1
    assert not m.obtain(request_, NOW).changed


def test_postfix_gets_a_table_of_the_further_names_alone(request_: m.Request) -> None:
    m.install(request_, NOW)
    rows = (request_.path / "sni").read_text().splitlines()
    assert rows == [f"{name} {request_.path}/elm.test/privkey.pem, {request_.path}/elm.test/fullchain.pem" for name in sorted(ELM)]
    # What is wanted no more is taken away last, when no service names it.
    fewer = replace(request_, certificates=request_.certificates[:1])
    m.install(fewer, NOW)
    assert (request_.path / "sni").read_text() == ""
    assert live(request_, "elm.test")
    # In a run of some tags only, one may still do so.
    conf = request_.path.parent / "nginx.conf"
    conf.write_text(f"ssl_certificate {request_.path}/elm.test/fullchain.pem;")
    assert m.obtain(replace(fewer, named_in=[conf]), NOW).removed == []
    assert live(request_, "elm.test")
    conf.write_text(f"ssl_certificate {request_.path}/default/fullchain.pem;")
    fewer = replace(fewer, named_in=[conf, conf.with_name("missing.conf")])
    assert m.obtain(fewer, NOW).removed == ["elm.test"]
    assert not (request_.path / "elm.test").exists()
    assert not m.obtain(fewer, NOW).changed


# --- provided ---------------------------------------------------------------------------------------------------------


def test_one_bad_pair_and_nothing_is_written(request_: m.Request, authority: Authority) -> None:
    m.install(request_, NOW)
    good, mine, stranger = authority.issue(NAMES), authority.issue(ELM), authority.issue(ELM)
    faulty = replace(provided(request_, "default", good), provided={"default": (good.key_pem, good.chain_pem)})
    before = tree(request_.path)
    for pair, reason in (
        (c.Pair(mine.key, stranger.chain), "elm.test: the private key belongs to none"),
        (authority.issue(ELM, start=NOW - 100 * DAY), "elm.test: the certificate expired on 2026-11-11"),
        (authority.issue(ELM[:1]), "elm.test: the certificate lacks imap.elm.test"),
        (c.Pair(mine.key, (mine.leaf, Authority("Intermediate").certificate)), "elm.test: the chain holds a certificate that did not sign"),
    ):
        with pytest.raises(c.CertificateError, match=reason):
            m.install(provided(faulty, "elm.test", pair), NOW)
        assert tree(request_.path) == before


def test_a_provided_pair_replaces_another_at_once_and_leaves_no_copy(request_: m.Request, authority: Authority) -> None:
    m.install(request_, NOW)
    own, pair = live(request_), authority.issue(ELM)
    assert m.install(provided(request_, "elm.test", pair), NOW).changed
    assert c.same(live(request_, "elm.test"), pair)
    assert c.same(live(request_), own)
    assert len([p for p in request_.path.iterdir() if p.is_dir() and not p.is_symlink()]) == 2


def test_a_provided_pair_that_ends_soon_is_served_with_a_warning(request_: m.Request, authority: Authority) -> None:
    result = m.install(provided(request_, "elm.test", authority.issue(ELM, start=NOW - 80 * DAY)), NOW)
    assert result.changed
    assert "elm.test ends on 2026-12-01" in result.warnings[0]


# --- ACME -------------------------------------------------------------------------------------------------------------


class Server:
    """What the ACME server would say, in the place of certbot: names it gives and names it does not."""

    def __init__(self, acme: a.Acme, authority: Authority) -> None:
        self.acme, self.authority = acme, authority
        self.refused: dict[str, str] = {}
        self.down = ""
        self.asked: list[tuple[str, list[str]]] = []

    def ask(self, acme: a.Acme, name: str, names: Sequence[str]) -> a.Failure | None:
        self.asked.append((name, list(names)))
        if self.down:
            return a.Failure(self.down, {}, server=True)
        if bad := {one: self.refused[one] for one in names if one in self.refused}:
            return a.Failure("some failed", bad)
        # As of now, which is later than the run's beginning.
        self.issue(name, names, start_days=-0.001)
        return None

    def issue(self, name: str, names: Sequence[str], start_days: float = 1, server: str = "") -> c.Pair:
        """The files certbot leaves; it keeps the key that is there (--reuse-key)."""
        lineage = self.acme.letsencrypt / "live" / a.lineage(name)
        lineage.mkdir(parents=True, exist_ok=True)
        file = lineage / c.KEY_FILE
        key = serialization.load_pem_private_key(file.read_bytes(), None) if file.exists() else None
        assert key is None or isinstance(key, ec.EllipticCurvePrivateKey)
        pair = self.authority.issue(names, key, start=NOW - start_days * DAY)
        (lineage / c.KEY_FILE).write_bytes(pair.key_pem)
        (lineage / c.CHAIN_FILE).write_bytes(pair.chain_pem.replace(b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n\n"))
        (self.acme.letsencrypt / "renewal").mkdir(exist_ok=True)
        text = f"[renewalparams]\nauthenticator = webroot\nserver = {server or self.acme.directory}\n"
        (self.acme.letsencrypt / "renewal" / f"{a.lineage(name)}.conf").write_text(text)
        return pair


@pytest.fixture
def acme(request_: m.Request, tmp_path: Path) -> m.Request:
    return replace(request_, source="acme", acme=a.Acme("https://acme/dir", letsencrypt=tmp_path / "letsencrypt"))


@pytest.fixture
def server(acme: m.Request, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    assert acme.acme
    server = Server(acme.acme, authority)
    monkeypatch.setattr(a, "ask", server.ask)
    monkeypatch.setattr(a, "has_address", lambda name: not name.startswith("nowhere."))
    yield server


def test_a_provisional_pair_is_made_only_where_there_is_none(acme: m.Request, authority: Authority) -> None:
    assert m.install(acme, NOW).changed
    assert not m.install(acme, NOW).changed
    m.install(provided(acme, "default", authority.issue(NAMES)), NOW)
    assert not m.install(acme, NOW).changed
    # Nor for an expired one: a self-signed one would be no better.
    assert not m.install(replace(acme, certificates=acme.certificates[:1]), NOW + 200 * DAY).outcomes[0].changed


def test_what_certbot_holds_goes_live_when_the_hook_did_not_get_to_it(acme: m.Request, server: Server) -> None:
    m.install(acme, NOW)
    pair = server.issue("elm.test", ELM)
    assert m.install(acme, NOW).changed
    assert c.same(live(acme, "elm.test"), pair)


def test_nothing_is_asked_of_the_server_while_all_is_well(acme: m.Request, server: Server) -> None:
    m.install(acme, NOW)
    assert m.obtain(acme, NOW).changed
    assert server.asked == [("default", NAMES), ("elm.test", ELM)]
    assert not live(acme).is_self_signed
    assert not m.obtain(acme, NOW).changed
    assert len(server.asked) == 2


def test_a_certificate_that_cannot_be_had_blocks_no_other(acme: m.Request, server: Server) -> None:
    m.install(acme, NOW)
    server.refused = dict.fromkeys(NAMES, "no such host (dns)")
    result = m.obtain(acme, NOW)
    assert live(acme).is_self_signed
    assert not live(acme, "elm.test").is_self_signed
    (told,) = result.missing
    for part in ("mail.oak.test: no such host (dns)", "self-signed", "https://acme/dir", "Cure:", "next run"):
        assert part in told
    # Not for good: the next run asks for it, and only for it.
    server.refused = {}
    assert m.obtain(acme, NOW).missing == []
    assert server.asked[-1] == ("default", NAMES)
    assert not live(acme).is_self_signed


def test_one_name_that_fails_leaves_the_certificate_to_the_others(acme: m.Request, server: Server) -> None:
    m.install(acme, NOW)
    server.refused = {"imap.elm.test": "no valid AAAA records (dns)"}
    result = m.obtain(acme, NOW)
    assert live(acme, "elm.test").names == ["mail.elm.test"]
    assert "Meanwhile the certificate serves mail.elm.test" in result.missing[0]
    assert "imap.elm.test: no valid AAAA records (dns)" in result.missing[0]
    # Asked for anew, but what is there is not issued again.
    asked = len(server.asked)
    again = m.obtain(acme, NOW)
    assert server.asked[asked:] == [("elm.test", ELM)]
    assert again.missing == result.missing
    assert not again.changed
    server.refused = {}
    assert m.obtain(acme, NOW).changed
    assert live(acme, "elm.test").names == ELM


def test_a_name_without_an_address_is_not_even_asked_for(acme: m.Request, server: Server) -> None:
    first = m.Certificate("elm.test", ("mail.elm.test", "nowhere.elm.test"))
    acme = replace(acme, certificates=[m.Certificate("default", ("nowhere.oak.test",)), first])
    m.install(acme, NOW)
    result = m.obtain(acme, NOW)
    assert server.asked == [("elm.test", ["mail.elm.test"])]
    assert ["nowhere.oak.test: it has no address in the DNS" in result.missing[0], "nowhere.elm.test" in result.missing[1]] == [True, True]
    assert not m.obtain(acme, NOW).changed
    assert len(server.asked) == 1


def test_a_name_that_lost_its_address_stays_on_the_certificate(acme: m.Request, server: Server) -> None:
    acme = replace(acme, certificates=[m.Certificate("default", ("mail.oak.test", "nowhere.oak.test", "new.oak.test"))])
    server.issue("default", ["mail.oak.test", "nowhere.oak.test"])
    server.refused = {"new.oak.test": "refused"}
    m.obtain(acme, NOW)
    assert live(acme).names == ["mail.oak.test", "nowhere.oak.test"]


def test_a_server_that_is_down_is_asked_once_and_the_old_pair_stays(acme: m.Request, server: Server) -> None:
    pair = server.issue("default", NAMES, start_days=80)
    m.install(acme, NOW)
    server.down = "Connection refused"
    result = m.obtain(acme, NOW)
    assert server.asked == [("default", NAMES)]
    assert c.same(live(acme), pair)
    assert live(acme, "elm.test").is_self_signed
    assert "The present one is good until 2026-12-01" in result.missing[0]
    assert "not asked for" in result.missing[1]
    assert not result.changed


def test_check_mode_tells_why_the_server_would_be_asked(acme: m.Request, server: Server) -> None:
    acme = replace(acme, certificates=acme.certificates[:1])
    assert acme.acme

    def reason(**changes: object) -> str:
        result = m.obtain(replace(acme, **changes), changes.pop("now", NOW), check_mode=True)  # type: ignore[arg-type]
        assert result.changed
        return result.outcomes[0].reason

    assert reason() == "there is none yet"
    server.issue("default", NAMES)
    m.install(acme, NOW)
    assert reason(certificates=[m.Certificate("default", tuple(NAMES[:1]))]) == "the present one is for mail.oak.test, imap.oak.test"
    assert reason(acme=replace(acme.acme, directory="https://other/dir")) == "the present one is from https://acme/dir"
    assert reason(acme=replace(acme.acme, challenge="dns-01")) == "names are now proved by dns-01"
    later = m.obtain(acme, NOW + 80 * DAY, check_mode=True)
    assert "ends on 2027-02-18" in later.outcomes[0].reason
    (acme.acme.letsencrypt / "renewal" / "mailwright.conf").unlink()
    assert "how to renew" in reason()
    assert server.asked == []


# --- certbot ----------------------------------------------------------------------------------------------------------

REFUSAL = """Saving debug log to /var/log/letsencrypt/letsencrypt.log
Requesting a certificate for mail.elm.test and gone.elm.test

Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
  Domain: gone.elm.test
  Type:   dns
  Detail: no valid A records found for gone.elm.test; no valid AAAA records found for gone.elm.test

Hint: The Certificate Authority failed to download the temporary challenge files created by Certbot.

Some challenges have failed.
Ask for help or search for solutions at https://community.letsencrypt.org.
"""


def test_certbot_is_understood() -> None:
    failure = a.understand(REFUSAL)
    assert list(failure.names) == ["gone.elm.test"]
    assert failure.names["gone.elm.test"].startswith("no valid A records found")
    assert not failure.server
    assert "Ask for help" not in failure.text
    assert a.understand("An unexpected error occurred:\nrequests.exceptions.ConnectionError: Max retries exceeded").server
    assert a.understand("There were too many requests of a given type :: urn:ietf:params:acme:error:rateLimited").server
    other = a.understand('An unexpected error occurred:\nError creating new order :: Cannot issue for "x.test"')
    assert not other.server
    assert not other.names


UPDATES = a.DnsUpdates(["elm.test"], "192.0.2.53", 53, "acme.", "hmac-sha256", "c2VjcmV0")


def test_dns_01_takes_the_server_that_has_all_the_zones(acme: m.Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert acme.acme
    commands: list[Sequence[str]] = []
    run: Callable[..., tuple[int, str]] = lambda command, *rest, **named: commands.append(command) or (0, "")  # noqa: E731
    monkeypatch.setattr(a, "run", run)
    server = replace(acme.acme, challenge="dns-01", dns_updates=[UPDATES], credentials=tmp_path / "dns")
    assert a.ask(server, "elm.test", ELM) is None
    file = tmp_path / "dns/acme.ini"
    assert commands[0][commands[0].index("--dns-rfc2136-credentials") + 1] == str(file)
    assert "c2VjcmV0" not in " ".join(commands[0])
    assert 'dns_rfc2136_secret = "c2VjcmV0"\n' in file.read_text()
    assert 'dns_rfc2136_algorithm = "HMAC-SHA256"\n' in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    failure = a.ask(server, "default", ["mail.oak.test"])
    assert failure
    assert "mail_dns_updates" in failure.text
    assert not a.DnsUpdates(["elm.test"], "", 53, "", "", "").serves("helm.test")


def test_provided_pairs_are_judged_before_any_host_is_contacted(authority: Authority) -> None:
    rows = [{"name": "default", "names": NAMES}, {"name": "elm.test", "names": ELM}]

    def fault(name: str, pair: c.Pair, now: dt.datetime = NOW) -> dict[str, str]:
        return m.check_provided(rows, {name: (pair.key_pem.decode(), pair.chain_pem.decode())}, now)

    pair = authority.issue(ELM)
    assert fault("elm.test", pair) == {}
    assert "expired on 2027-02-18" in fault("elm.test", pair, NOW + 100 * DAY)["elm.test"]
    assert "lacks mail.oak.test" in fault("default", pair)["default"]
    assert "belongs to none" in fault("elm.test", c.Pair(authority.issue(ELM).key, pair.chain))["elm.test"]
    assert "no such certificate" in fault("fir.test", pair)["fir.test"]
