"""The worst names and passwords that the checks let through reach every table and file as just themselves (O11, A3, M1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from correspondent import MailHost
from edits import Site, answer, edited_lab, logs_in
from testinfra.host import Host

TABLES = "/var/lib/mailwright/postfix"
DOMAIN = f"{'l' * 63}.0-{'x' * 61}.test"
# Words of YAML, of shells, of Dovecot and of Postfix; the longest; every character that is allowed.
NAMES = ["null", "no", "1e3", "0", "root", "dovecot", "a=b", "_", "a-.-_=z", "x" * 64]
PASSWORDS = [
    "{PLAIN}geheim-4711",
    "a:b:c::0:0::/root::userdb_uid=0",
    "%u %{env:HOME} %%",
    "${myhostname} $(touch /owned) `touch /owned`",
    "'\"\\ \\n # ; | & < >",
    "{{ lookup('pipe', 'touch /owned') }}",
    "schwör-Ωmega-пароль-密码",
    "two  spaces inside",
    "=" * 128,
    "$ARGON2ID$v=19$m=65536",
]
FOREIGN = ["o'brien&co@good.test", "a*b?c^d~e@good.test", "bounce+x=y.z@good.test", "UPPER.lower@good.test"]


class Literal(str):
    """Text that Ansible is not to evaluate."""

    __slots__ = ()


yaml.SafeDumper.add_representer(Literal, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"'))


def table(host: Host, name: str) -> dict[str, str]:
    """All that Postfix finds there."""
    lines = host.check_output(f"postmap -s lmdb:{TABLES}/{name}").splitlines()
    return dict(line.split("\t", 1) for line in lines)


def everything(host: Host) -> dict[str, Any]:
    """What must change by what was declared and by nothing else."""
    return {
        "users": set(host.check_output("doveadm user '*'").split()),
        **{name: table(host, name) for name in ("virtual_mailboxes", "virtual_aliases", "virtual_domains", "sender_logins")},
    }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Afterwards the lab's own inventory is live."""
    with edited_lab(tmp_path, "--tags", "accounts") as site:
        yield site


def test_hostile_names_and_passwords_stay_what_they_are(mail: MailHost, host: Host, site: Site) -> None:
    content = {
        "domain": DOMAIN,
        "description": Literal("{{ lookup('pipe', 'touch /owned') }}\n$(touch /owned)\n"),
        "mailboxes": [{"name": name, "password": Literal(password)} for name, password in zip(NAMES, PASSWORDS, strict=True)],
        "aliases": [{"name": "out", "to": FOREIGN}, {"name": "f=-.-", "to": ["a-.-_=z"]}],
    }
    (site.path / "domains/hostile.yml").write_text(yaml.safe_dump(content, allow_unicode=True))
    etc = host.check_output("find /etc -type f -exec sha256sum {} + | sort | sha256sum")
    before = everything(host)
    status, output = site.run("--tags", "accounts", "--diff", "-vvv")
    assert status == 0, output[-4000:]
    for password in PASSWORDS:
        assert password not in output
    after = everything(host)
    boxes = {f"{name}@{DOMAIN}" for name in NAMES}
    assert after["users"] - before["users"] == boxes
    assert before["users"] <= after["users"]
    new = {name: dict(after[name].items() - before[name].items()) for name in before if name != "users"}
    assert all(before[name].items() <= after[name].items() for name in new)
    assert set(new["virtual_mailboxes"]) == boxes
    assert set(new["virtual_domains"]) == {DOMAIN}
    assert new["sender_logins"] == {box: box for box in boxes}
    # Capitals before "@" are the other server's business; the domain is folded.
    declared = {f"out@{DOMAIN}": ", ".join(FOREIGN), f"f=-.-@{DOMAIN}": f"a-.-_=z@{DOMAIN}"}
    assert {key: value for key, value in new["virtual_aliases"].items() if key in declared} == declared
    assert {key.partition("@")[2] for key in new["virtual_aliases"]} == {DOMAIN}
    for name, password in zip(NAMES, PASSWORDS, strict=True):
        assert logs_in(mail, f"{name}@{DOMAIN}", password), name
        assert not logs_in(mail, f"{name}@{DOMAIN}", f"{password}x"), name
        assert answer(mail, f"{name}@{DOMAIN}") == 250
    assert not host.file("/owned").exists
    assert not Path("/owned").exists()
    assert host.check_output("find /etc -type f -exec sha256sum {} + | sort | sha256sum") == etc
