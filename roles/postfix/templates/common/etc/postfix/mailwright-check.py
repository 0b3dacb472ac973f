"""Finds what `postfix check` overlooks: unknown parameters, restrictions and transports, missing tables, a key that does not fit."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

TABLE = re.compile(r"\b(?:btree|cdb|cidr|hash|lmdb|pcre|regexp|sqlite|texthash):/[^\s,{}]+")
RESTRICTIONS = re.compile(r"(?:smtpd|submission)_\w+_restrictions")
TRANSPORTS = ("virtual_transport", "local_transport", "default_transport", "relay_transport")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """What a command of Postfix says."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - fixed words and own tables


def value_of(name: str) -> str:
    """The value of a main.cf parameter, default included, with $names expanded."""
    return run("postconf", "-xh", name).stdout.strip()


def words(value: str) -> list[str]:
    """The words of a restriction list, with {braces} and everything in them taken as arguments."""
    for _depth in range(3):
        value = re.sub(r"\{[^{}]*\}", ":", value)
    return [word for word in re.split(r"[\s,]+", value) if re.fullmatch(r"[a-z_]+", word)]


def find_problems() -> list[str]:
    """One sentence for each fault of the configuration in /etc/postfix."""
    main, master = run("postconf", "-n", "-x"), run("postconf", "-P", "-x")
    problems = (main.stderr + master.stderr).splitlines()
    settings = [line.split(" = ", 1) for line in (main.stdout + master.stdout).splitlines() if " = " in line]

    # Whatever can be opened answers, if only "not found"; what its daemon makes itself is not there yet.
    own = value_of("data_directory") + "/"
    for table in sorted({table for _name, value in settings for table in TABLE.findall(value) if f":{own}" not in table}):
        # A dry run comes before the mail data of a release with a further table is made.
        path = table.partition(":")[2]
        if (
            "--rehearsal" in sys.argv
            and path.startswith("/var/lib/mailwright/")
            and not (Path(path).exists() or Path(f"{path}.lmdb").exists())
        ):
            continue
        answer = run("postmap", "-q", "mailwright-check", table)
        if answer.returncode > 1 or answer.stderr:
            problems.append(f"{table}: {answer.stderr.strip() or 'no answer'}")

    # smtpd carries the words it knows; with a misspelt one it would tell every client to try again later.
    known = Path(value_of("daemon_directory"), "smtpd").read_bytes()
    classes = words(value_of("smtpd_restriction_classes"))
    for name, value in settings:
        if RESTRICTIONS.fullmatch(name.rsplit("/", 1)[-1]):
            unknown = [word for word in words(value) if word not in classes and word.encode() + b"\0" not in known]
            problems += [f"{name}: unknown restriction {word}" for word in unknown]

    services = {line.split()[0] for line in run("postconf", "-M").stdout.splitlines()}
    for name in TRANSPORTS:
        transport = value_of(name).split(":")[0]
        if transport not in services:
            problems.append(f"{name}: no service {transport!r} in master.cf")

    for name, family in (("smtp_bind_address", socket.AF_INET), ("smtp_bind_address6", socket.AF_INET6)):
        if address := value_of(name):
            try:
                with socket.socket(family) as source:
                    source.bind((address, 0))
            except OSError as error:
                problems.append(f"mail_source_addresses: {address}: {error.strerror}")

    chain = re.split(r"[\s,]+", value_of("smtpd_tls_chain_files"))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain[-1], chain[0])
    except OSError as error:
        problems.append(f"smtpd_tls_chain_files: {chain}: {error}")
    return problems


if __name__ == "__main__":
    found = find_problems()
    sys.stderr.write("".join(f"{problem}\n" for problem in found))
    sys.exit(1 if found else 0)
