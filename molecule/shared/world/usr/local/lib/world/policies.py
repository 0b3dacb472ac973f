#!/usr/bin/python3
"""Serves the MTA-STS policies of other domains: https://mta-sts.DOMAIN/.well-known/mta-sts.txt is /etc/world/policies/DOMAIN."""

from __future__ import annotations

import http.server
import socket
import ssl
from pathlib import Path

POLICIES = Path("/etc/world/policies")
CHAINS = Path("/etc/world/tls")


class Policies(http.server.BaseHTTPRequestHandler):
    """One file per host."""

    def do_GET(self) -> None:
        file = POLICIES / Path(self.headers.get("Host", "").removeprefix("mta-sts.")).name
        if self.path != "/.well-known/mta-sts.txt" or not file.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(file.read_bytes())


class Server(http.server.ThreadingHTTPServer):
    """Both families, and the certificate of whoever is asked for."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self.choose
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        super().server_bind()

    @staticmethod
    def choose(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        chain = CHAINS / f"{name}.chain"
        if name is None or not chain.is_file():
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        connection.context = context
        return None


if __name__ == "__main__":
    Server(("::", 443), Policies).serve_forever()
