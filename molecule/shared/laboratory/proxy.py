"""A caching proxy for Debian's archive, and for nothing else, on a unix socket.

apt-cacher-ng cannot do without a TCP port of this computer, and its socket speaks only to its own helper. What goes through here
is signed by the archive, so apt notices whatever this program or the network would change.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  (would be read at the first request, after the rights to do so are given up)
import http.server
import os
import pwd
import re
import shutil
import socketserver
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

UPSTREAM = "http://deb.debian.org"
# What a name like this holds never changes.
_FIXED = re.compile(r"^/debian(-security)?/(pool/.+\.deb|dists/.+/by-hash/\w+/[0-9a-fA-F]+)$")
# One part of a path; apt writes + and ~ as %2b and %7e.
_PART = re.compile(r"^[A-Za-z0-9_+~:-](?:[A-Za-z0-9_.+~:^-]|%(?i:2b|7e|3a|5e))*$")
_INDEX = re.compile(r"^/debian(-security)?/dists/[^?#]+$")
_TIMEOUT = 60  # s
_KEEP = 60 * 86400  # s, since a file was last asked for


def archive_path(target: str) -> str | None:
    """The path under the archive of a proxy request `GET http://deb.debian.org/…`; None for all that is not the archive's."""
    path = target.removeprefix(UPSTREAM)
    if path == target or not (_FIXED.match(path) or _INDEX.match(path)):
        return None
    if not all(_PART.match(part) for part in path.split("/")[1:]):
        return None
    return path


def is_fixed(path: str) -> bool:
    return _FIXED.match(path) is not None


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of apt."""

    protocol_version = "HTTP/1.1"
    store = Path()

    def do_GET(self) -> None:
        path = archive_path(self.path)
        if path is None:
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        kept = self.store / path.lstrip("/")
        if is_fixed(path) and kept.is_file():
            self._send_kept(kept)
            return
        request = urllib.request.Request(UPSTREAM + path)  # noqa: S310  (always http and one host)
        since = self.headers.get("If-Modified-Since")
        if since and not is_fixed(path):
            request.add_header("If-Modified-Since", since)
        try:
            answer = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310  (see above)
        except urllib.error.HTTPError as error:
            self._refuse(HTTPStatus(error.code))
        except OSError as error:
            # Without a network, what was fetched before still serves.
            if kept.is_file():
                self._send_kept(kept)
            else:
                print(f"{path}: {error}", file=sys.stderr, flush=True)
                self._refuse(HTTPStatus.BAD_GATEWAY)
        else:
            with answer:
                self._pass_on(answer, answer.headers.get("Content-Length"), answer.headers.get("Last-Modified"), kept)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_kept(self, kept: Path) -> None:
        with kept.open("rb") as file:
            os.utime(kept, (time.time(), os.fstat(file.fileno()).st_mtime))
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.send_header("Last-Modified", self.date_time_string(os.fstat(file.fileno()).st_mtime))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile)

    def _pass_on(self, answer: BinaryIO, length: str | None, modified: str | None, kept: Path) -> None:
        self.send_response(HTTPStatus.OK)
        if length:
            self.send_header("Content-Length", length)
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        if modified:
            self.send_header("Last-Modified", modified)
        self.end_headers()
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.store, prefix=".new-", delete=False) as new:
            try:
                while block := answer.read(1 << 16):
                    new.write(block)
                    self.wfile.write(block)
                if length is None or new.tell() == int(length):
                    new.flush()
                    Path(new.name).replace(kept)
                else:
                    self.close_connection = True
            finally:
                Path(new.name).unlink(missing_ok=True)

    def log_message(self, format: str, *args: object) -> None:
        """Only what fails upstream is worth a line, and has had it."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Threads, since labs converge side by side."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


def prune(store: Path) -> None:
    for file in store.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_file() and (file.name.startswith(".new-") or time.time() - file.stat().st_atime > _KEEP):
                file.unlink()


def main(socket: str, store: str, user: str) -> None:
    owner = pwd.getpwnam(user)
    Path(store).mkdir(parents=True, exist_ok=True)
    os.chown(store, owner.pw_uid, owner.pw_gid)
    Path(socket).unlink(missing_ok=True)
    Handler.store = Path(store)
    with Server(socket, Handler, bind_and_activate=False) as server:
        server.server_bind()
        server.server_activate()
        os.setgroups([])
        os.setgid(owner.pw_gid)
        os.setuid(owner.pw_uid)
        prune(Path(store))
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
