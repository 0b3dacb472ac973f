# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""Asks the world what dns_check.py judges: name servers, the host's own port 25, policies over HTTPS. Changes nothing."""

from __future__ import annotations

import datetime as dt
import http.client
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import commands
from .authority import Answer, Client, Question
from .dns_check import Certificate, Policy, Probed, Smtp, check_domain, check_host, check_records, check_zones, digests, merged
from .findings import Finding
from .records import Known, Record, expected

__all__ = ["DnsView", "check", "fetch_policy", "meet"]

TIMEOUT: Final = 10.0
PARALLEL: Final = 32
POLICY_LIMIT: Final = 65536
POLICY_PATH: Final = "/.well-known/mta-sts.txt"


class DnsView:
    """Answers, asked for once each."""

    def __init__(self, client: Client, questions: Iterable[Question] = ()) -> None:
        self._client = client
        self._live = client.ask_all(questions)
        self._lookups: dict[Question, Answer] = {}

    def live(self, name: str, rdtype: str) -> Mapping[str, Answer]:
        if (name, rdtype) not in self._live:
            self._live[name, rdtype] = self._client.ask(name, rdtype)
        return self._live[name, rdtype]

    def lookup(self, name: str, rdtype: str) -> Answer:
        if (name, rdtype) not in self._lookups:
            self._lookups[name, rdtype] = self._client.lookup(name, rdtype)
        return self._lookups[name, rdtype]

    def zone_of(self, name: str) -> str | None:
        return self._client.zone_of(name)

    def is_bogus(self, name: str, rdtype: str) -> bool:
        return self._client.is_bogus(name, rdtype)


def check(dns: Mapping[str, Any], known: Known, client: Client, trust: str = "") -> list[Finding]:
    """Everything. `dns`: see docs/architecture.md. `trust`: further authorities, PEM."""
    records = expected(dns, known)
    hosts = [dns["hostname"], *dns["hostnames"]]
    domains = {domain["name"]: domain for domain in dns["domains"]}
    context, nameless = trusting(trust), trusting(trust)
    # Its names are judged by dns_check.py.
    nameless.check_hostname = False
    addresses = list(dns["addresses"] or known.addresses or ())
    names = [*hosts, *(name for name, domain in domains.items() if domain["kind"] != "relayed")]
    view = DnsView(client, [*_questions(records), *((zone, "SOA") for zone in _zones(client, names))])
    policies = [name for name, domain in domains.items() if domain.get("mta_sts", "disabled") != "disabled"]
    with ThreadPoolExecutor(PARALLEL) as pool:
        fetched = dict(zip(policies, pool.map(lambda name: fetch_policy(name, context), policies), strict=True))
        met = dict(zip(addresses, pool.map(lambda address: meet(address, dns["hostname"], nameless), addresses), strict=True))
        probed = Probed(
            addresses=addresses,
            now=time.time(),
            smtp=met,
            blocklists=blocklists(),
            validates=client.lookup(".", "SOA").secure,
            clock=client.validity(".", "SOA"),
            synchronised=synchronised(),
        )
        findings = list(check_records(records, view))
        findings += check_zones(records, names, view)
        findings += check_host(dns, probed, view)
        of_domains = pool.map(
            lambda domain: list(check_domain(domain, dns["hostname"], addresses, fetched.get(domain["name"]), view)), domains.values()
        )
        for found in of_domains:
            findings += found
    return merged(findings)


def trusting(trust: str) -> ssl.SSLContext:
    """The system's authorities, and further ones."""
    context = ssl.create_default_context()
    if trust:
        context.load_verify_locations(cadata=trust)
    return context


def _questions(records: Iterable[Record]) -> list[Question]:
    return [(record.name, record.type) for record in records]


def _zones(client: Client, names: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(PARALLEL) as pool:
        return [zone for zone in dict.fromkeys(pool.map(client.zone_of, names)) if zone is not None]


def meet(address: str, host: str, context: ssl.SSLContext) -> Smtp:
    """What a client meets on port 25 of the address. `context` leaves names alone."""
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    greeting = ""
    try:
        for trusted, how in ((True, context), (False, anybody)):
            with smtplib.SMTP(timeout=TIMEOUT, local_hostname=host) as session:
                session.connect(address, 25)
                _, told = session.ehlo()
                greeting = told.decode(errors="replace").split(None, 1)[0] if told else ""
                if not session.has_extn("starttls") or session.docmd("STARTTLS")[0] != 220 or session.sock is None:
                    return Smtp(greeting, None, "starttls-missing")
                try:
                    with how.wrap_socket(session.sock, server_hostname=host) as secured:
                        leaf = secured.getpeercert(binary_form=True) or b""
                        # Nothing more is to be said on this connection; smtplib would say it in clear.
                        session.sock = None
                        return Smtp(greeting, certificate_of(leaf, trusted))
                except ssl.SSLCertVerificationError:
                    session.sock = None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        return Smtp(greeting, None, "smtp-unreachable", str(error))
    return Smtp(greeting, None, "smtp-unreachable")


def certificate_of(leaf: bytes, trusted: bool) -> Certificate:
    """What is judged of a certificate (DER). Raises ValueError."""
    parsed = x509.load_der_x509_certificate(leaf)
    names: list[str] = []
    with suppress(x509.ExtensionNotFound):
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    # Without a year 2038 or a time zone: the older library has naive times only.
    not_after = getattr(parsed, "not_valid_after_utc", None) or parsed.not_valid_after.replace(tzinfo=dt.UTC)
    key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Certificate(tuple(names), not_after.timestamp(), trusted, digests(leaf, key))


def fetch_policy(name: str, context: ssl.SSLContext) -> Policy | None:
    """RFC 8461, 3.3: no redirects. None where the host has no address."""
    connection = http.client.HTTPSConnection(f"mta-sts.{name}", timeout=TIMEOUT, context=context)
    try:
        connection.request("GET", POLICY_PATH)
        response = connection.getresponse()
        if response.status != 200:
            return Policy(problem="mta-sts-unreachable", detail=f"{response.status} {response.reason}")
        return Policy(response.read(POLICY_LIMIT).decode(errors="replace"))
    except socket.gaierror:
        return None
    except ssl.SSLCertVerificationError as error:
        return Policy(problem="mta-sts-certificate", detail=error.verify_message)
    except (OSError, http.client.HTTPException) as error:
        return Policy(problem="mta-sts-unreachable", detail=str(error))
    finally:
        connection.close()


def blocklists() -> list[str]:
    """The lists that Postfix asks on this host."""
    status, output = commands.run(["postconf", "-h", "postscreen_dnsbl_sites"])
    sites = re.split(r"[,\s]+", output) if status == 0 else []
    return list(dict.fromkeys(re.split(r"[=*]", site)[0] for site in sites if site))


def synchronised() -> bool | None:
    """Whether something keeps the clock right; None where nobody knows."""
    status, output = commands.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    return {"yes": True, "no": False}.get(output) if status == 0 else None
