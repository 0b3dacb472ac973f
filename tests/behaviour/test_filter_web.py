"""F9: Rspamd's web interface as browsers meet it: the page, its passwords, who gets in, and who cannot guess."""

from __future__ import annotations

import http.client
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from correspondent import MailHost, until
from test_bans import FAILURES, is_shut_out
from testinfra.host import Host

NAME = "filter.oak.test"
# Three in the networks that are declared, of which one will be slowed down, and one outside.
INSIDE, STRANGER, GUESSER, OUTSIDE = "198.51.100.101", "198.51.100.104", "198.51.100.103", "198.51.100.112"
WATCHER, KEEPER = "watcher-opens-the-lab", "keeper-opens-the-lab"


def ask(
    mail: MailHost,
    path: str,
    password: str | None = None,
    *,
    method: str = "GET",
    body: str | None = None,
    source: str = INSIDE,
    name: str = NAME,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of an answer."""
    connection = http.client.HTTPSConnection(name, context=mail.tls)
    address = mail.ipv6 if ":" in source else mail.ipv4
    with socket.create_connection((address, 443), 20, (source, 0)) as plain, mail.tls.wrap_socket(plain, server_hostname=name) as secure:
        connection.sock = secure
        given = {"Password": password} if password else {}
        connection.request(method, path, body, {**given, **{key.replace("_", "-"): value for key, value in headers.items()}})
        answer = connection.getresponse()
        found = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, found, answer.read()


def asked(mail: MailHost, path: str, password: str) -> dict[str, object]:
    status, _, body = ask(mail, path, password)
    assert status == 200, body
    return dict(json.loads(body))


def test_the_page_is_whole_and_only_its_own_scripts_run(mail: MailHost) -> None:
    status, headers, page = ask(mail, "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self' 'sha256-" in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["strict-transport-security"] == "max-age=63072000"
    links = re.findall(r'(?:src|href|data-main)="(\./[^"?]+|favicon[^"?]+)', page.decode())
    assert len(links) > 10
    for link in [*links, "js/app/rspamd.js"]:
        status, headers, _ = ask(mail, "/" + link.removeprefix("./"))
        assert status == 200, link
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("password", [None, "guess", "$2$none$none"])
@pytest.mark.parametrize("path", ["/stat", "/auth", "/getmap", "/plugins/selectors/check_selector"])
def test_nothing_is_told_without_the_password(mail: MailHost, path: str, password: str | None) -> None:
    status, _, body = ask(mail, path, password, source=STRANGER, X_Forwarded_For="127.0.0.1", X_Real_IP="127.0.0.1")
    assert status in (401, 403)
    assert b"statfiles" not in body


def test_a_password_in_the_address_is_refused(mail: MailHost) -> None:
    assert ask(mail, f"/stat?password={WATCHER}")[0] == 400


def test_the_first_password_shows_all_and_changes_nothing(mail: MailHost) -> None:
    assert asked(mail, "/auth", WATCHER)["read_only"] is True
    assert "statfiles" in asked(mail, "/stat", WATCHER)
    assert ask(mail, "/symbols", WATCHER)[0] == 200
    for path, body in (("/savesymbols", "[]"), ("/saveactions", "[1,2,3,4]"), ("/learnspam", "Subject: x\r\n\r\nx")):
        assert ask(mail, path, WATCHER, method="POST", body=body)[0] in (401, 403), path


def test_the_second_password_may_change_things(mail: MailHost) -> None:
    assert asked(mail, "/auth", KEEPER)["read_only"] is False
    assert ask(mail, "/learnspam", KEEPER, method="POST", body="Subject: x\r\n\r\nx")[0] == 204, "too short to be learned from"


def test_other_networks_get_nothing(mail: MailHost) -> None:
    for path in ("/", "/stat", "/js/main.js"):
        assert ask(mail, path, WATCHER, source=OUTSIDE)[0] == 403


def test_it_is_at_its_own_name_only(mail: MailHost) -> None:
    assert ask(mail, "/stat", WATCHER, name=mail.hostname)[0] == 404
    assert b"Rspamd" not in ask(mail, "/", name=mail.hostname)[2]
    assert b"IMAP" not in ask(mail, "/")[2]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(mail: MailHost, method: str) -> None:
    assert ask(mail, "/stat", WATCHER, method=method)[0] == 405


def test_who_guesses_is_slowed_down_and_nobody_else(mail: MailHost) -> None:
    # Several at a time: one after the other they could be slow enough to pass.
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(mail, "/auth", "guess", source=GUESSER)[0], range(100)))
    assert set(answers) == {403, 429} or set(answers) == {401, 429}
    assert answers.count(429) >= 5
    assert ask(mail, "/auth", WATCHER)[0] == 200


def test_who_guesses_is_shut_out_of_the_web_and_who_does_not_is_not(mail: MailHost, host: Host) -> None:
    guesser, visitor = "2001:db8:25::150", "2001:db8:25::149"
    try:
        for password in (None, WATCHER):
            assert len({ask(mail, "/stat", password, source=visitor)[0] for _ in range(FAILURES)}) == 1
        assert ask(mail, "/auth", "guess", source=visitor)[0] in (401, 403), "one mistake"
        for number in range(FAILURES):
            assert ask(mail, "/stat", f'", client: {visitor}, server: _, request: "{number}', source=guesser)[0] in (401, 403)
        until("the guesser is shut out", lambda: is_shut_out(mail, 443, guesser))
        assert not is_shut_out(mail, 993, guesser)
        assert not is_shut_out(mail, 443, visitor)
    finally:
        host.check_output(f"fail2ban-client unban {guesser}")


def test_on_the_host_the_password_counts_too_and_is_nobodys_to_read(host: Host) -> None:
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:11334/stat').status)"
    assert host.run("runuser -u nobody -- python3 -c %s", fetch).rc != 0
    listening = {line.split()[3] for line in host.check_output("ss -Hlnt").splitlines() if ":11334 " in line}
    assert listening == {"127.0.0.1:11334"}
    file = host.file("/etc/rspamd/override.d/worker-controller.inc")
    assert (file.user, file.group, oct(file.mode)) == ("root", "_rspamd", "0o640")
