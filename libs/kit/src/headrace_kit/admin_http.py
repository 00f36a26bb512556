# SPDX-License-Identifier: Apache-2.0
"""The small HTTP door of a service: /health/live, /health/ready, /metrics, and pages given to it.

A server on loopback answers only to who asks for the loopback (headrace_kit.loopback).
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headrace.errors import HeadraceError, Unavailable
from headrace_kit.loopback import asks_for_loopback, on_loopback

REQUESTS_MAX = 16
SOCKET_TIMEOUT_S = 5.0
BUG = b'HTTP/1.0 500 Bug\r\nContent-Type: application/json\r\n\r\n{"error":"INTERNAL"}\n'

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """What a route answers."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


Route = Callable[[Mapping[str, str]], Page]


class AdminServer:
    """The HTTP door; a Part. A route takes the query's names and values and returns a Page.

    With `socket_path` it listens there, for the parent of a worker, and not at host and port.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ready: Callable[[], bool],
        routes: Mapping[str, Route] | None = None,
        *,
        socket_path: Path | None = None,
    ) -> None:
        self._host, self._port, self._socket_path = host, port, socket_path
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
        """Listen; returns the port, 0 for a socket in a folder. Raises Unavailable PORT_TAKEN."""
        self._server = server = self._opened()
        threading.Thread(target=server.serve_forever, name="admin", daemon=True).start()
        return 0 if self._socket_path else int(server.server_address[1])

    def _opened(self) -> _Server:
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)  # of the worker before
            return _WorkerServer(str(self._socket_path), self._routes, loopback=False)
        address = (self._host, self._port)
        try:
            return _Server(address, self._routes, loopback=on_loopback(self._host))
        except OSError as err:
            raise Unavailable("PORT_TAKEN", host=self._host, port=self._port) from err

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

    def __init__(self, address: Any, routes: Mapping[str, Route], *, loopback: bool) -> None:
        self.routes, self.loopback = routes, loopback
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


class _WorkerServer(_Server):
    """On a socket in a folder."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """http.server's own looks up the name of a host."""
        self.socket.bind(self.server_address)


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
        try:
            target = urlsplit(self.path)
        except ValueError:  # brackets of no address
            return Page(b'{"error":"no target"}\n', status=400)
        host = ", ".join(self.headers.get_all("Host", []))
        if self.server.loopback and not asks_for_loopback(host, target):
            return Page(b'{"error":"this Host is not served here"}\n', status=421)
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
