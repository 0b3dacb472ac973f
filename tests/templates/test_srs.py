"""The SRS tree, and that Postfix and PostSRSd mean the same ports."""

from __future__ import annotations

import re

import test_postfix
from rendering import render

UNIT = "/etc/systemd/system/postsrsd.service.d/mailwright.conf"


def test_postsrsd_answers_on_the_loopback_only_and_is_nobody_special() -> None:
    unit = render("srs")[UNIT]
    assert " -l 127.0.0.1 " in unit
    assert re.search(r"^User=postsrsd$", unit, re.MULTILINE)
    assert re.search(r"^CapabilityBoundingSet=$", unit, re.MULTILINE)
    assert "-d mail.oak.test " in unit


def test_postfix_asks_where_postsrsd_answers() -> None:
    unit = render("srs")[UNIT]
    tree = test_postfix.render("13")
    for option, text in (("-r", tree["/etc/postfix/main.cf"]), ("-f", tree["/etc/postfix/master.cf"])):
        port = re.search(rf" {option} (\d+) ", unit)
        assert port
        assert f"tcp:127.0.0.1:{port[1]}" in text


def test_forwarded_mail_comes_in_again_on_the_loopback_unfiltered_and_with_another_sender() -> None:
    tree = test_postfix.render("12")
    master = test_postfix.services(tree["/etc/postfix/master.cf"])
    door = master["127.0.0.1:10027/inet"]
    assert "smtpd_client_restrictions = permit_mynetworks, reject" in door
    assert re.search(r"smtpd_milters =\s+}", door)
    assert "sender_canonical_maps = tcp:" in master["forwarded-cleanup/unix"]
    for name in ("cleanup/unix", "submission-cleanup/unix"):
        assert "sender_canonical" not in master[name]
    main = test_postfix.parameters(tree["/etc/postfix/main.cf"])
    assert "sender_canonical_maps" not in main
    assert main["recipient_canonical_classes"] == "envelope_recipient"


def test_only_addresses_of_this_host_are_taken_for_made_up_senders() -> None:
    table = test_postfix.render("13")["/etc/postfix/srs_addresses"]
    pattern = next(line for line in table.splitlines() if line.startswith("/"))[1:].rpartition("/")[0]
    assert re.match(pattern, "SRS0=x=y=good.test=a@mail.oak.test")
    for address in ("SRS0=x=y=good.test=a@mailxoak.test", "a@mail.oak.test", "SRS0=x=y=good.test=a@mail.oak.test.evil.test"):
        assert not re.match(pattern, address)
