"""O1, O2: native settings of the inventory in every service, and bans by the real web server, which by itself has nothing to guess."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import main_pid
from correspondent import MailHost, until
from edits import Site, edited_lab
from test_bans import FAILURES, is_shut_out
from test_plan import plan
from testinfra.host import Host
from wire import connect

OVERRIDES = r"""
postfix_main_overrides:
  smtpd_banner: $myhostname ESMTP overridden
  smtpd_discard_ehlo_keyword_address_maps: cidr:/etc/postfix/tables/shy
  smtp_tls_policy_maps: texthash:/etc/postfix/tables/policies
postfix_master_overrides:
  submission/inet: {options: {smtpd_banner: the master says hello}}
postfix_tables:
  shy: "198.51.100.112/32 size"
  policies: "hush.test verify"
dovecot_overrides: {"2.3": login_greeting = Overridden, "2.4": login_greeting = Overridden}
nginx_overrides:
  server: {client_max_body_size: 77k}
  servers: |
    server {
        listen 80;
        listen [::]:80;
        server_name guarded.test;
        location / {
            auth_basic "Members";
            auth_basic_user_file /etc/nginx/members.test;
            root /var/www/mailwright;
        }
    }
rspamd_overrides: {history_redis: {nrows: 77}, worker-proxy: {discard_on_reject: false}}
redis_overrides: {maxmemory: 77mb}
resolver_overrides: {cache-max-ttl: 7777}
fail2ban_overrides: {mailwright-web: {bantime: 77m}}
"""
LISTED = [
    "main.cf: smtpd_banner",
    "master.cf: submission/inet.options.smtpd_banner",
    "table: shy",
    "dovecot: 2.4.login_greeting",
    "nginx: server.client_max_body_size",
    "nginx: servers.auth_basic",
    "rspamd: history_redis.nrows",
    "redis: maxmemory",
    "unbound: cache-max-ttl",
    "fail2ban: mailwright-web.bantime",
]
BROKEN = "main.cf: smtp_tls_policy_maps breaks a promise: DANE, MTA-STS and mail_tls_policies are kept to"
TAGS = "postfix,dovecot,nginx,rspamd,redis,resolver,fail2ban"
DAEMONS = ["postfix", "dovecot", "nginx", "rspamd", "redis-server", "unbound", "fail2ban"]
# What a service's own checker refuses: role, its setting, what is said.
WRONG = [
    (
        "postfix",
        "{postfix_main_overrides: {header_checks: 'pcre:/etc/postfix/tables/x'}, postfix_tables: {x: '/(/ REJECT'}}",
        "missing closing",
    ),
    ("dovecot", "{dovecot_overrides: {'2.3': no_such_setting = 1, '2.4': no_such_setting = 1}}", "no_such_setting"),
    ("rspamd", "{rspamd_overrides: {worker-proxy: {bind_socket: '127.0.0.1:nonsense'}}}", "nonsense"),
    ("redis", "{redis_overrides: {no-such-directive: 1}}", "no-such-directive"),
    ("resolver", "{resolver_overrides: {no-such-option: 1}}", "no-such-option"),
    ("fail2ban", "{fail2ban_overrides: {mailwright-web: {filter: no-such-filter}}}", "no-such-filter"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Iterator[Site]:
    """The lab's inventory with all of them; afterwards the lab's own is live."""
    # The member of a page that only the test has.
    host.check_output("printf 'alice:%s\\n' $(openssl passwd -apr1 right) >/etc/nginx/members.test")
    with edited_lab(tmp_path_factory.mktemp("overrides"), "--tags", TAGS) as site:
        (site.path / "group_vars/mail/overrides.yml").write_text(OVERRIDES)
        yield site
    host.check_output("rm /etc/nginx/members.test; fail2ban-client unban --all")


@pytest.fixture(scope="module")
def overridden(site: Site) -> str:
    """All are live; what the run said."""
    status, output = site.run("--tags", TAGS)
    assert status == 0, output[-4000:]
    return output


def test_the_plan_lists_them_and_names_what_breaks_a_promise(site: Site) -> None:
    status, output = plan(site, "--tags", TAGS)
    assert status == 2, output
    for name in LISTED:
        assert f"override      {name}\n" in output, output
    assert f"postfix_main_overrides: {BROKEN}" in " ".join(output.split())


def test_an_override_of_every_service_wins(mail: MailHost, host: Host, overridden: str) -> None:
    assert f"group_vars/mail/overrides.yml:3: postfix_main_overrides: {BROKEN}" in " ".join(overridden.split())
    with connect(mail, 25, source="198.51.100.112") as session:
        assert session.reply()[1].endswith("mail.oak.test ESMTP overridden")
        assert "SIZE" not in session.hello()
    with connect(mail, 587) as session:
        assert session.reply() == (220, "the master says hello")
        assert "SIZE" in session.hello()

    def greeting() -> str:
        with connect(mail, 993) as session:
            session.start_tls()
            return session.line()

    until("a new process greets", lambda: "Overridden" in greeting())
    assert "client_max_body_size 77k;" in host.check_output("nginx -T 2>/dev/null")
    assert "nrows = 77;" in host.check_output("rspamadm configdump history_redis")
    assert "maxmemory:80740352" in host.check_output("redis-cli -s /run/redis/redis-server.sock INFO memory").split()
    assert host.check_output("unbound-control get_option cache-max-ttl") == "7777"
    assert host.check_output("fail2ban-client get mailwright-web bantime") == "4620"


def test_a_wrong_one_never_goes_live_and_ends_nothing(mail: MailHost, host: Host, site: Site, overridden: str) -> None:
    before = {unit: main_pid(host, unit) for unit in DAEMONS}
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda wrong: site.run("--tags", wrong[0], "-e", wrong[1]), WRONG))
    for (role, _, said), (status, output) in zip(WRONG, runs, strict=True):
        assert status != 0, role
        assert said in output, output[-3000:]
    assert {unit: main_pid(host, unit) for unit in DAEMONS} == before


@pytest.mark.parametrize(
    ("role", "wrong", "said"),
    [
        ("resolver", "{resolver_overrides: {interface: 203.0.113.77}}", "can't bind socket: Cannot assign requested address"),
        ("rspamd", "{rspamd_overrides: {worker-proxy: {bind_socket: '203.0.113.77:11332'}}}", "ends right after its start, 5 times"),
    ],
    ids=["resolver", "filter"],
)
def test_what_only_the_start_of_a_service_refuses_is_taken_back(site: Site, overridden: str, role: str, wrong: str, said: str) -> None:
    status, output = site.run("--tags", role, "-e", wrong)
    assert status != 0
    assert said in " ".join(output.split()), output[-3000:]
    assert "The previous configuration is back and answers." in output
    assert site.changed("--tags", role) == 0


def test_an_open_relay_is_refused_before_any_host_is_contacted(site: Site) -> None:
    status, output = site.run("-e", "{postfix_main_overrides: {mynetworks: 0.0.0.0/0}}")
    assert status != 0
    assert "main.cf: mynetworks breaks a promise: nobody relays through this host without a login; take it out" in output
    assert "No host was contacted" in output


def fetch(mail: MailHost, source: str, login: str) -> int:
    """The status of the guarded page."""
    with connect(mail, 80, source=source) as session:
        words = base64.b64encode(login.encode()).decode()
        request = f"GET /style.css HTTP/1.1\r\nHost: guarded.test\r\nAuthorization: Basic {words}\r\nConnection: close\r\n\r\n"
        session.send(request.encode())
        return int(session.line().split()[1])


def test_who_guesses_passwords_of_the_web_server_is_shut_out_of_it(mail: MailHost, host: Host, overridden: str) -> None:
    known, unknown, member, spared = "198.51.100.148", "2001:db8:25::148", "198.51.100.149", "198.51.100.139"
    host.check_output("fail2ban-client unban --all")
    for number in range(FAILURES):
        assert fetch(mail, known, f"alice:{number}") == 401
        assert fetch(mail, spared, f"alice:{number}") == 401
        # Words that would have another one shut out.
        assert fetch(mail, unknown, f'x" was not found in "y", client: {member}, server: _, request: "{number}:x') == 401
    assert fetch(mail, member, "alice:right") == 200

    def banned() -> set[str]:
        jails = json.loads(host.check_output("fail2ban-client banned").replace("'", '"'))
        return {address for jail in jails for address in jail.get("mailwright-web", [])}

    # Fail2ban lists an address before the firewall refuses it.
    for source in (known, unknown):
        for port in (80, 443):
            until(f"{source} is shut out of {port}", lambda source=source, port=port: is_shut_out(mail, port, source))
        assert not is_shut_out(mail, 993, source)
    assert banned() == {known, unknown}
    for source in (member, spared):
        assert not is_shut_out(mail, 80, source)
    host.check_output("fail2ban-client unban %s", known)
    assert fetch(mail, known, "alice:right") == 200
