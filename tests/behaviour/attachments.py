"""Messages with files of every kind that mail_attachments knows, made on the spot; none of them does anything."""

from __future__ import annotations

import base64
import email.message
import email.policy
import email.utils
import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping

from filtering import SENDER

# Headers as loaders know them, with no code behind.
PE = b"MZ" + bytes(58) + (128).to_bytes(4, "little") + bytes(64) + b"PE\0\0\x4c\x01" + bytes(400)
ELF = b"\x7fELF\x02\x01\x01" + bytes(200)
OLE_WITH_MACROS = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(1016) + "_VBA_PROJECT".encode("utf-16-le") + bytes(500)
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
# Holds an empty file run.exe; made by bsdtar.
SEVEN_ZIP = base64.b64decode(
    "N3q8ryccAAOnMVZMAAAAAAAAAABKAAAAAAAAAC2m35oBBQEOAYAPAYAREQByAHUAbgAuAGUAeABlAAAAFAoBAGMqiyfaed0BEgoBAGMqiyfaed0BEwoBAGMqiyfaed0BFQYBACCApIEAAA=="
)


def zipped(files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return into.getvalue()


def locked(files: Mapping[str, bytes]) -> bytes:
    """A zip whose directory says that every file has a password."""
    content = bytearray(zipped(files))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(mark, at + 4)
    return bytes(content)


def tarred(files: Mapping[str, bytes]) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(into.getvalue())


def with_file(
    name: str, content: bytes, *, type: str = "application/octet-stream", to: str = "alice@oak.test", sender: str = SENDER
) -> str:
    message = email.message.EmailMessage(email.policy.SMTP.clone(linesep="\n"))
    message["From"], message["To"], message["Subject"] = sender, to, "The file"
    message["Date"], message["Message-ID"] = email.utils.localtime(), email.utils.make_msgid(domain="client112.world.test")
    message.set_content("Good morning, here is the file.\n")
    main, _, sub = type.partition("/")
    message.add_attachment(content, maintype=main, subtype=sub, filename=name)
    return message.as_string()
