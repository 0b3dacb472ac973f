# Copyright: Mailwright contributors
# GNU General Public License v3.0 or later (see LICENSE)
"""What a check of the DNS can find: severity, cause and cure of each finding, and how a list of them reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

__all__ = ["KINDS", "Finding", "Kind", "is_bad", "lines", "render"]

Severity = Literal["error", "warning", "notice"]
_PUBLISH: Final = "publish the records that playbooks/dns.yml tells"


@dataclass(frozen=True)
class Kind:
    """One kind of finding. `error`: mail is lost, refused or taken for spam; `warning`: it will be, or protection is missing."""

    severity: Severity
    cause: str
    cure: str


KINDS: Final[Mapping[str, Kind]] = {
    # Records as the inventory calls for them.
    "mx-missing": Kind("error", "mail to the domain does not come here", _PUBLISH),
    "mx-other": Kind(
        "warning",
        "other servers are named beside this host, or it with another preference",
        "take them away, or declare the domain with relay",
    ),
    "mx-alias": Kind(
        "error",
        "the MX names an alias, which RFC 2181 (10.3) forbids and some senders refuse",
        "name the host itself, with A and AAAA of its own",
    ),
    "mx-address": Kind("error", "the MX holds an address where a host name belongs", "name the host"),
    "mx-unresolved": Kind("error", "the host that the MX names has no address", "publish A and AAAA of the host, or correct the MX"),
    "address-missing": Kind("error", "the host cannot be reached by its name", _PUBLISH),
    "address-other": Kind(
        "warning", "the name leads to addresses that are not this host's", "take them away, or declare them in mail_addresses"
    ),
    "reverse-missing": Kind(
        "error",
        "the address has no name: many servers refuse mail from it",
        "have the provider of the address set its PTR to the host's name",
    ),
    "reverse-other": Kind(
        "error",
        "the address has another name than the one this host greets with",
        "have the provider of the address set its PTR to the host's name, and to no other",
    ),
    "reverse-unconfirmed": Kind(
        "error",
        "the name of the address does not lead back to the address",
        "publish A and AAAA of the host with exactly the addresses it sends from",
    ),
    "spf-missing": Kind("error", "receivers cannot tell this host from a forger", _PUBLISH),
    "spf-other": Kind("warning", "the SPF record is not the one of the inventory", _PUBLISH + ", or declare the difference in mail_spf"),
    "spf-several": Kind("error", "more than one SPF record: none of them counts (RFC 7208, 4.5)", "merge them into one"),
    "spf-syntax": Kind("error", "receivers cannot read the SPF record", "correct it"),
    "spf-lookups": Kind(
        "error", "more than 10 look-ups: receivers stop with an error (RFC 7208, 4.6.4)", "replace includes by the addresses they stand for"
    ),
    "spf-void": Kind(
        "error", "more than 2 look-ups find nothing: receivers may stop with an error (RFC 7208, 4.6.4)", "take those terms away"
    ),
    "spf-unread": Kind("error", "an included name has no SPF record of its own, or several", "correct or remove the include"),
    "spf-forbids": Kind("error", "the SPF record does not permit mail from this host's address", "add the address"),
    "spf-open": Kind("error", "the SPF record permits everybody", "end it with ~all or -all"),
    "dkim-missing": Kind("error", "the key that signs, or soon will, is not published: signatures cannot be verified", _PUBLISH),
    "dkim-other": Kind("error", "another key is published than the one that signs: signatures fail", _PUBLISH),
    "dkim-several": Kind(
        "error", "more than one key under one selector: which one counts is chance", "leave the one that playbooks/dns.yml tells"
    ),
    "dkim-revoked": Kind("error", "the published key is empty, which revokes it", _PUBLISH),
    "dkim-testing": Kind("warning", "the key is marked as a test (t=y): receivers may ignore what it signs", "take the flag away"),
    "dmarc-missing": Kind("warning", "receivers are not told what to do with forged mail; large ones distrust the domain", _PUBLISH),
    "dmarc-other": Kind(
        "warning", "the DMARC record is not the one of the inventory", _PUBLISH + ", or declare the difference in mail_dmarc"
    ),
    "dmarc-several": Kind("error", "more than one DMARC record: none of them counts (RFC 7489, 6.6.3)", "leave one"),
    "dmarc-syntax": Kind("error", "receivers cannot read the DMARC record, or parts of it", "correct it"),
    "dmarc-none": Kind("notice", "p=none: forged mail is reported, but delivered", "once the reports are clean: quarantine, later reject"),
    "dmarc-unreported": Kind("notice", "nobody gets DMARC reports: failures go unseen", "declare mail_dmarc.reports"),
    "dmarc-unreachable": Kind("warning", "the domain of the report address takes no mail", "correct the address"),
    "dmarc-report-missing": Kind(
        "warning",
        "the other domain has not agreed to get DMARC reports of this one: they are not sent (RFC 7489, 7.1)",
        "have its owner publish the record, or report to an address of your own",
    ),
    "mta-sts-missing": Kind("warning", "senders do not see the MTA-STS policy", _PUBLISH),
    "mta-sts-other": Kind("warning", "the id is not that of the policy: senders keep an old one", _PUBLISH),
    "mta-sts-several": Kind("warning", "more than one MTA-STS record: none of them counts (RFC 8461, 3.1)", "leave one"),
    "mta-sts-host-missing": Kind("warning", "the host of the MTA-STS policy has no address: senders cannot fetch it", _PUBLISH),
    "mta-sts-unreachable": Kind(
        "warning", "the MTA-STS policy cannot be fetched", "see that the host's certificate has the name, and port 443 is open"
    ),
    "mta-sts-certificate": Kind(
        "warning", "the certificate of the policy's host is not valid for it", "see playbooks/plan.py for names left out"
    ),
    "mta-sts-policy": Kind("warning", "the policy that is served is not the one of the inventory", "run site.yml"),
    "mta-sts-mx": Kind(
        "error", "an MX of the domain is not in its policy: senders that honour it defer mail", "correct the MX or the policy"
    ),
    "mta-sts-mx-testing": Kind(
        "warning", "an MX of the domain is not in its policy, which is being tried out", "correct the MX or the policy"
    ),
    "tls-report-missing": Kind("notice", "nobody hears when senders cannot use TLS", _PUBLISH),
    "tls-report-other": Kind("notice", "the TLS report record is not the one of the inventory", _PUBLISH),
    "tls-report-several": Kind("warning", "more than one TLS report record: none of them counts (RFC 8460, 3)", "leave one"),
    "tlsa-missing": Kind("warning", "senders cannot know the key of this host beforehand (DANE)", _PUBLISH),
    "tlsa-other": Kind("notice", "a TLSA record of a key that this host neither uses nor prepares", "take it away"),
    "tlsa-mismatch": Kind("error", "no TLSA record fits the key that is served: senders that use DANE defer mail", _PUBLISH + " at once"),
    "tlsa-insecure": Kind("notice", "TLSA records in a zone without DNSSEC are ignored", "sign the zone, or do without the records"),
    "caa-missing": Kind("notice", "any authority may issue certificates for the name", _PUBLISH),
    "caa-other": Kind("notice", "the CAA records are not those of the inventory", _PUBLISH),
    "caa-forbids": Kind("error", "CAA records forbid our authority to issue: the next renewal fails", "add the authority to them"),
    "client-missing": Kind("notice", "mail programs do not find their settings by themselves", _PUBLISH),
    "client-other": Kind("notice", "mail programs are told other settings than those of this host", _PUBLISH),
    # Name servers and zones.
    "zone-missing": Kind("error", "no name server of the zone is found", "register the domain, or correct its delegation"),
    "server-dead": Kind(
        "error", "a name server does not answer: every look-up that meets it waits", "repair it, or take it out of the delegation"
    ),
    "server-lame": Kind(
        "error", "a name server does not serve the zone", "configure the zone there, or take the server out of the delegation"
    ),
    "server-failing": Kind("error", "a name server answers with errors", "see its log"),
    "server-unaddressed": Kind("error", "the name of a name server has no address", "correct the name, or publish its address"),
    "server-single": Kind("notice", "one name server only: when it is away, so is the domain (RFC 2182)", "add another, elsewhere"),
    "server-ipv4-only": Kind("notice", "no name server of the zone has an IPv6 address", "add one that has"),
    "server-unasked": Kind(
        "notice", "this host has no way to some name servers' addresses; they were not asked", "give the host IPv4 and IPv6"
    ),
    "serials-differ": Kind(
        "warning",
        "name servers have different versions of the zone",
        "see why the secondary does not follow; a minute after a change it is normal",
    ),
    "dnssec-bogus": Kind(
        "error",
        "signatures of the zone are broken: for everybody who validates it does not exist",
        "renew the signatures, or correct the DS",
    ),
    "dnssec-insecure": Kind(
        "notice", "the zone is not signed: answers can be forged, DANE is not possible", "sign it and have the parent publish the DS"
    ),
    # The host.
    "greeting-other": Kind("error", "the host greets with another name than its own", "run site.yml"),
    "smtp-unreachable": Kind(
        "error", "nothing answers on port 25 of the host's address", "see systemctl status postfix, and the firewall before the host"
    ),
    "starttls-missing": Kind("error", "port 25 offers no TLS", "run site.yml"),
    "certificate-name": Kind("error", "the certificate is not for the host's name", "run site.yml"),
    "certificate-expired": Kind("error", "the certificate is out of date", "see journalctl -u certbot"),
    "certificate-untrusted": Kind("warning", "the certificate comes from nobody whom others trust", "use certificates_source: acme"),
    "resolver-unvalidated": Kind(
        "error", "the host's resolver does not validate: neither DANE nor this check can rely on it", "run site.yml"
    ),
    "blocklist-refuses": Kind(
        "error",
        "a blocklist refuses the resolver of this host: it protects nobody",
        "ask without forwarders (resolver_forwarders: []), or get a key of the list's owner",
    ),
    "blocklist-silent": Kind(
        "warning", "a blocklist does not answer as RFC 5782 says: it protects nobody", "take it out of postfix_dnsbl_sites"
    ),
    "blocklist-total": Kind("error", "a blocklist lists everybody: mail is refused", "take it out of postfix_dnsbl_sites"),
    "blocklisted": Kind(
        "error",
        "a blocklist lists this host's address: others that use it refuse its mail",
        "find out why on the list's pages, and ask to be removed",
    ),
    "clock": Kind("error", "the clock of the host is wrong: signatures and certificates seem expired, or not valid yet", "see timedatectl"),
    "clock-unsynchronised": Kind("notice", "nothing keeps the clock of the host right", "install systemd-timesyncd or chrony"),
}


@dataclass(frozen=True)
class Finding:
    """`domain`: the mail domain or host it is about. `name`: the record, zone or thing. `servers`: which of them say so; none: all."""

    kind: str
    domain: str
    name: str
    detail: str = ""
    servers: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with cause and cure."""
        kind = KINDS[self.kind]
        return {"severity": kind.severity, **asdict(self), "servers": list(self.servers), "cause": kind.cause, "cure": kind.cure}


_ORDER: Final = ("error", "warning", "notice")


def is_bad(findings: Iterable[Mapping[str, Any]]) -> bool:
    """Whether something has to be done."""
    return any(finding["severity"] != "notice" for finding in findings)


def lines(findings: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """By domain, the worst first."""
    for domain in dict.fromkeys(finding["domain"] for finding in findings):
        yield domain
        own = [finding for finding in findings if finding["domain"] == domain]
        for finding in sorted(own, key=lambda finding: (_ORDER.index(finding["severity"]), finding["kind"], finding["name"])):
            told = f" ({', '.join(finding['servers'])})" if finding["servers"] else ""
            yield f"  {finding['severity']:7} {finding['kind']}: {finding['name']}{told}"
            yield f"          {finding['cause']}"
            if finding["detail"]:
                yield f"          {finding['detail']}"
            yield f"          cure: {finding['cure']}"


def render(document: Mapping[str, Any]) -> str:
    """The text for people: one paragraph for each host, then the problems, then one sentence."""
    told: list[str] = []
    counted = dict.fromkeys(_ORDER, 0)
    for host, findings in document["checks"].items():
        for finding in findings:
            counted[finding["severity"]] += 1
        told += [host, *(f"  {line}" for line in lines(findings)), ""] if findings else []
    told += [f"{host}: {text}" for host, text in document["problems"]]
    if document["problems"]:
        told.append("Not everything could be checked.")
    elif any(counted.values()):
        told.append(", ".join(f"{number} {severity}{'s' if number != 1 else ''}" for severity, number in counted.items() if number) + ".")
    else:
        told.append("Everything is as the inventory says.")
    return "\n".join(told) + "\n"
