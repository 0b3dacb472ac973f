"""F6: files that no mail may bring, known by what they hold and not by their names alone, in archives too."""

from __future__ import annotations

import gzip
import zipfile

import pytest
from attachments import ELF, OLE_WITH_MACROS, PE, PNG, SEVEN_ZIP, locked, tarred, with_file, zipped
from correspondent import MailHost
from filtering import SENDER, forget_greylisting
from test_policy import logged, offer
from testinfra.host import Host
from wire import submission

ALICE, BOB = "alice@oak.test", "bob@oak.test"
# Not greylisted: what Rspamd thinks of such files otherwise is not the question here.
PATIENT = "198.51.100.116"
ALLOWED = "someone@client113.world.test"
SCRIPT = b"\xef\xbb\xbf@echo off\r\nformat c:\r\n"
DOCUMENT = {"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<w:document/>"}

REFUSED = [
    ("setup.exe", b"nothing to see", "executables"),
    ("Invoice.PDF.Exe. ", b"x", "executables"),
    ("photo.jpg", PE, "executables"),
    ("photo.jpg", ELF, "executables"),
    ("photos.zip", zipped({"a.png": PNG, "deep/photo.jpg": PE}), "executables"),
    ("photos.dat", zipped({"photo.jpg": PE}, method=zipfile.ZIP_STORED), "executables"),
    ("photos.zip", b"#!/bin/false\n" + zipped({"photo.jpg": PE}), "scripts"),
    ("outer.zip", zipped({"inner.bin": zipped({"big.bin": bytes(20000), "photo.jpg": PE + bytes(9000)})}), "executables"),
    ("photo.jpg.gz", gzip.compress(PE), "executables"),
    ("photos.tgz", tarred({"a.png": PNG, "photo.jpg": PE}), "executables"),
    ("in-zip.zip", zipped({"photos.gz": tarred({"a.png": PNG * 200, "photo.jpg": PE + bytes(100000)})}), "executables"),
    ("library.zip", zipped({"META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\n"}), "executables"),
    ("programs.7z", SEVEN_ZIP, "executables"),
    ("locked.zip", locked({"run.exe": PE}), "executables"),
    ("run.txt", SCRIPT, "scripts"),
    ("run.txt", b"#!/bin/sh\nrm -rf /\n", "scripts"),
    ("page.zip", zipped({"page.hta": b"<html>"}), "scripts"),
    ("report.docx", zipped({**DOCUMENT, "word/vbaProject.bin": b"x"}), "macros"),
    ("report.doc", OLE_WITH_MACROS, "macros"),
    ("reports.zip", zipped({"report.doc": OLE_WITH_MACROS + bytes(20000)}), "macros"),
    ("secret.zip", locked({"letter.txt": b"x" * 100}), "encrypted_archives"),
    ("broken.zip", zipped({"a.txt": b"x" * 100})[:60], "encrypted_archives"),
    ("many.zip", zipped({f"{number}.txt": b"x" for number in range(1001)}), "encrypted_archives"),
    ("bomb.zip", zipped({"zeros.gz": gzip.compress(bytes(80_000_000))}), "encrypted_archives"),
    ("disk.IMG", b"x", ".img"),
    ("disks.zip", zipped({"disk.img": b"x"}), ".img"),
]
ACCEPTED = [
    ("photo.png", PNG),
    ("photos.zip", zipped({"a.png": PNG, "b/c.txt": b"MZ is how a letter may begin\n"})),
    ("report.docx", zipped(DOCUMENT)),
    ("notes.txt", b"To be silent, a batch file says @echo off first.\n"),
    ("mz.txt", b"MZ\n" * 100),
    ("photos.tgz", tarred({"a.png": PNG})),
    ("exe", b"x"),
]


@pytest.mark.parametrize(("name", "content", "kind"), REFUSED, ids=[f"{name}-{kind}" for name, _, kind in REFUSED])
def test_a_message_with_a_file_of_a_refused_kind_is_refused(mail: MailHost, name: str, content: bytes, kind: str) -> None:
    assert offer(mail, with_file(name, content), ALICE) == (554, f"5.7.1 Attachments of this kind are not accepted here ({kind})")


@pytest.mark.parametrize(("name", "content"), ACCEPTED, ids=[name for name, _ in ACCEPTED])
def test_other_files_are_not_taken_for_such(mail: MailHost, host: Host, name: str, content: bytes) -> None:
    forget_greylisting(host)
    assert offer(mail, with_file(name, content), ALICE, source=PATIENT)[0] == 250


def test_a_declared_mime_type_is_refused(mail: MailHost) -> None:
    answer = (554, "5.7.1 Attachments of this kind are not accepted here (video/mp4)")
    assert offer(mail, with_file("film", b"x", type="video/mp4"), ALICE) == answer


def test_the_log_names_the_file_and_what_it_is(mail: MailHost, host: Host) -> None:
    offer(mail, with_file("holiday-in-oslo.zip", zipped({"fjord-4711.jpg": PE})), ALICE)
    assert "refused by mail_attachments (executables): fjord-4711.jpg" in logged(host, "fjord-4711.jpg")
    assert "milter-reject: END-OF-MESSAGE" in logged(host, "not accepted here (executables)", "postfix/cleanup")


def test_own_users_are_told_when_they_send(mail: MailHost, accounts: dict[str, str]) -> None:
    with submission(mail, 465, BOB, accounts[BOB]) as session:
        assert session.rcpt(BOB, "friend@good.test") == [250, 250]
        assert session.data(with_file("photo.jpg", PE, to="friend@good.test", sender=BOB)) == 554


def test_whom_the_filter_allows_may_send_files_of_any_kind(mail: MailHost) -> None:
    message = with_file("photo.jpg", PE, sender=ALLOWED)
    assert offer(mail, message, ALICE, sender=ALLOWED)[0] == 250
    assert offer(mail, with_file("photo.jpg", PE), ALICE, sender=SENDER)[0] == 554
