# SPDX-License-Identifier: Apache-2.0
"""The small HTTP door of a service: /health/live, /health/ready, /metrics, and pages given to it.

A web page of another origin could reach a server on loopback under a name of its own (DNS
rebinding), so a loopback server answers only to a Host header that names the loopback.
"""

from __future__ import annotations

import ipaddress
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headrace.errors import HeadraceError, Unavailable

REQUESTS_MAX = 16
SOCKET_TIMEOUT_S = 5.0
BUG = b'HTTP/1.0 500 Bug\r\nContent-Type: application/json\r\n\r\n{"error":"INTERNAL"}\n'
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """What a route answers."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


Route = Callable[[Mapping[str, str]], Page]


def on_loopback(host: str) -> bool:
    """Whether this host to bind to is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class AdminServer:
    """The HTTP door; a Part. A route takes the query's names and values and returns a Page."""

    def __init__(
        self,
        host: str,
        port: int,
        ready: Callable[[], bool],
        routes: Mapping[str, Route] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._live: Callable[[], bool] = lambda: True
        self._ready = ready
        self._open = False
        self._routes: dict[str, Route] = {
            "/health/live": lambda _: _answer(self._live()),
            "/health/ready": lambda _: _answer(self.ready()),
            "/metrics": lambda _: Page(generate_latest(), CONTENT_TYPE_LATEST),
            **(routes or {}),
        }
        self._server: _Server | None = None

    def start(self) -> int:
        """Listen; returns the port. Raises Unavailable PORT_TAKEN."""
        names = LOOPBACK_NAMES if on_loopback(self._host) else ()
        try:
            self._server = _Server((self._host, self._port), self._routes, names)
        except OSError as err:
            raise Unavailable("PORT_TAKEN", host=self._host, port=self._port) from err
        threading.Thread(target=self._server.serve_forever, name="admin", daemon=True).start()
        return int(self._server.server_address[1])

    def ready(self) -> bool:
        """What /health/ready says: no sooner than every part has started."""
        return self._open and self._ready()

    def open(self, live: Callable[[], bool]) -> None:
        """Every part has started: be ready from now on when `ready` says so, live when `live`."""
        self._live, self._open = live, True

    def drain(self) -> None:
        """Be unready from now on: the process is about to end."""
        self._open = False

    def stop(self, timeout_s: float) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def failed(self) -> BaseException | None:
        return None


def _answer(yes: bool) -> Page:
    return Page(b'{"ok":true}\n') if yes else Page(b'{"ok":false}\n', status=503)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, address: tuple[str, int], routes: Mapping[str, Route], names: tuple[str, ...]
    ) -> None:
        self.routes, self.names = routes, names
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(timeout=SOCKET_TIMEOUT_S):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called by socketserver for a bug in a page, and for a connection that is lost."""
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("admin_connection_lost")
            return
        log.error("admin_route_failed", exc_info=error)
        with suppress(OSError):
            request.sendall(BUG)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SOCKET_TIMEOUT_S
    server_version = "headrace"
    sys_version = ""

    def do_GET(self) -> None:
        page = self._page()
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _page(self) -> Page:
        name = self.headers.get("Host", "").rpartition(":")
        host = name[0] if name[2].isdigit() else "".join(name)
        if self.server.names and host.lower() not in self.server.names:
            return Page(b'{"error":"this Host is not served here"}\n', status=421)
        target = urlsplit(self.path)
        route = self.server.routes.get(target.path)
        if route is None:
            return Page(b'{"error":"no such page"}\n', status=404)
        try:
            return route(dict(parse_qsl(target.query)))
        except HeadraceError as err:
            log.warning("admin_route", path=target.path, error=str(err))
            return Page(b'{"error":"%s"}\n' % err.reason.encode(), status=503)

    def log_message(self, format: str, *args: object) -> None:
        """Health checks and scrapes would fill the log."""
