# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 for programs, on h11: sizes, times and numbers are bounded, errors are of our tree.

One thread a connection, of which there are few. A request has so many seconds from its first byte
to its last, however slowly they drip. A server on loopback answers only to a Host that names the
loopback, and to no page of another origin (DNS rebinding, cross-site requests).

`admit` is asked by the head alone, and what it returns answers: of a caller whom it refuses no body
is waited for, kept or unpacked. A connection is a stranger's until a request on it was admitted: it
is not waited for long, and where all places are taken the next caller gets the oldest stranger's.
What either raises is mapped to google.rpc's HTTP statuses: this is the boundary to the caller.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import h11
import structlog
from google.rpc import code_pb2

from headrace.errors import Denied, HeadraceError
from headrace_kit import tracing
from headrace_kit.answer_time import answer_until
from headrace_kit.error_status import as_limit, retry_after_s, to_status
from headrace_kit.listening import check_free, listening_socket
from headrace_kit.loopback import asks_for_loopback, on_loopback, shown_by_loopback

if TYPE_CHECKING:
    from headrace_kit.spans import Span

CONNECTIONS_MAX = 64
# Of a head that has not ended; one that comes in two pieces can be twice as long.
HEAD_BYTES_MAX = 16 * 1024
IDLE_S_MAX = 60.0
# Each: until a head begins, and until it has ended.
STRANGER_S_MAX = 5.0
GIVE_WAY_S_MAX = 1.0
REQUEST_S_MAX = 30.0
SEND_S_MAX = 30.0
# HTTP tells no deadline of the caller's: of what may stand still, a database, none waits longer.
ANSWER_S_MAX = 10.0
ACCEPT_AGAIN_S = 0.1
# Of a body in pieces, each of which has SEND_S_MAX.
SEND_PIECES_S_MAX = 300.0
REFUSE_S_MAX = 1.0
RECEIVE_BYTES = 256 * 1024
COMPRESS_BYTES_MIN = 1_024
FORBIDDEN = re.compile(r"q\s*=\s*0(\.0*)?")  # a coding's weight
# Speed before size: the link is a local network's.
COMPRESS_LEVEL = 1
JSON = "application/json"
# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
HTTP_BY_CODE = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.ABORTED: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}

# Of what HTTP itself is enough to refuse.
REASON_BY_STATUS = {
    403: "ORIGIN_FORBIDDEN",
    404: "PATH_UNKNOWN",
    405: "UNSUPPORTED",
    408: "STREAM_STALLED",
    413: "MESSAGE_TOO_LARGE",
    415: "UNSUPPORTED",
    421: "ORIGIN_FORBIDDEN",
    431: "MESSAGE_TOO_LARGE",
    501: "UNSUPPORTED",
    503: "QUEUE_FULL",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`headers` by lower-case names, `query` as it was sent; `connected` looks whether the caller
    is still there. `until_sent` is closed when the response was sent or lost: until then it is in
    memory, however slowly its caller reads.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connected: Callable[[], bool]
    query: str = ""
    until_sent: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A body of this size that is read while it is sent, and never whole in memory."""

    size_bytes: int
    read: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    body: bytes | Pieces = b""
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return self.body.size_bytes if isinstance(self.body, Pieces) else len(self.body)


Respond = Callable[[HttpRequest], HttpResponse]
# Of method, path and headers: what answers the request, in the same thread.
Admit = Callable[[str, str, Mapping[str, str]], Respond]


class HttpError(Exception):
    """A request that HTTP itself is enough to refuse; `admit` and `respond` may raise it too.

    `told` is for a door whose callers know other words than ours.
    """

    def __init__(self, status: int, problem: str, *, told: HttpResponse | None = None) -> None:
        super().__init__(problem)
        self.status, self.told = status, told


class _Failed(Exception):
    """`admit` or `respond` raised the error, and not the connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class HttpServer:
    """The server; a Part. `reuse_port`: workers of one parent share the port, see HeldPort."""

    def __init__(
        self,
        host: str,
        port: int,
        admit: Admit,
        *,
        body_bytes_max: int,
        connections_max: int = CONNECTIONS_MAX,
        reuse_port: bool = False,
    ) -> None:
        self._host, self._port, self._reuse_port = host, port, reuse_port
        self._admit, self._body_bytes_max = admit, body_bytes_max
        self._loopback = on_loopback(host)
        self._free = threading.BoundedSemaphore(connections_max)
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._changed = threading.Condition()
        self._draining = False
        self._listener: socket.socket | None = None

    def check_port(self) -> None:
        """Raises Unavailable PORT_TAKEN. A shared one is held by the parent."""
        if not self._reuse_port:
            check_free(self._host, self._port)

    def start(self) -> int:
        """Listen; returns the port. Raises Unavailable PORT_TAKEN."""
        self._listener = listening_socket(self._host, self._port, reuse_port=self._reuse_port)
        accept = threading.Thread(
            target=self._accept, args=(self._listener,), name="http", daemon=True
        )
        accept.start()
        return int(self._listener.getsockname()[1])

    def stop(self, timeout_s: float) -> None:
        """Take no new requests, let the running ones end within the time."""
        if self._listener is None:
            return
        with self._changed:
            self._draining = True
            with suppress(OSError):  # wakes the thread that accepts, which closes it
                self._listener.shutdown(socket.SHUT_RDWR)
            for connection in self._connections:
                connection.end_when_idle()
            self._changed.wait_for(lambda: not self._connections, timeout_s)

    def failed(self) -> BaseException | None:
        return None

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while not self._draining:
                try:
                    accepted = listener.accept()[0]
                except OSError:  # the end, or no file descriptor is left: it would fail at once
                    with self._changed:
                        self._changed.wait(ACCEPT_AGAIN_S)
                    continue
                with suppress(OSError):
                    self._take_in(accepted)

    def _take_in(self, accepted: socket.socket) -> None:
        if not self._take_place():
            _turn_away(accepted)
            return
        connection = _Connection(
            accepted, self._admit, self._body_bytes_max, loopback=self._loopback
        )
        with self._changed:
            self._connections[connection] = None
            if self._draining:
                connection.end_when_idle()
        threading.Thread(
            target=self._serve, args=(connection,), name="http-call", daemon=True
        ).start()

    def _take_place(self) -> bool:
        """A free one, else that of the oldest stranger."""
        if self._free.acquire(blocking=False):
            return True
        with self._changed:
            gave_way = any(connection.give_way() for connection in self._connections)
        return self._free.acquire(timeout=GIVE_WAY_S_MAX if gave_way else 0)

    def _serve(self, connection: _Connection) -> None:
        try:
            connection.run()
        finally:
            with self._changed:
                del self._connections[connection]
                self._changed.notify_all()
            self._free.release()


class _Connection:
    """One caller's requests, one after the other."""

    def __init__(
        self, accepted: socket.socket, admit: Admit, body_bytes_max: int, *, loopback: bool
    ) -> None:
        self._socket, self._admit = accepted, admit
        self._body_bytes_max, self._loopback = body_bytes_max, loopback
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._bodiless = False
        self._span: Span | None = None
        self._until_sent = ExitStack()
        self._ending = threading.Event()
        self._idle = threading.Lock()
        self._admitted = False
        # Taken for good, by who is first: an admitted caller to stay, the server to end it.
        self._fate = threading.Lock()

    def end_when_idle(self) -> None:
        """The request in work is answered, no other is taken."""
        self._ending.set()
        if self._idle.locked():
            with suppress(OSError):  # wakes the thread that waits for a request
                self._socket.shutdown(socket.SHUT_RD)

    def give_way(self) -> bool:
        """A stranger's connection ends now; False when it is none or has been ended."""
        if not self._fate.acquire(blocking=False):
            return False
        with suppress(OSError):  # wakes its thread
            self._socket.shutdown(socket.SHUT_RDWR)
        return True

    def run(self) -> None:
        with self._socket:
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._answered_next():
                    self._http.start_next_cycle()
            except (OSError, h11.LocalProtocolError):
                log.debug("http_connection_lost")

    def _answered_next(self) -> bool:
        with self._until_sent:
            return self._answer_next()

    def _answer_next(self) -> bool:
        """False when there is no next one."""
        failure: Exception | None = None
        try:
            with self._idle:
                begun = self._begun()
            if not begun:
                return False
            response = self._response(time.monotonic())
        except h11.RemoteProtocolError as err:
            response = _problem(err.error_status_hint, "not HTTP/1.1 as it is written")
        except HttpError as err:
            response = err.told or _problem(err.status, str(err))
        except _Failed as err:
            response, failure = _error(err.error), err.error
        self._end_span(response, failure)
        return self._send(response)

    def _end_span(self, response: HttpResponse, failure: Exception | None) -> None:
        if self._span is not None:
            self._span.note({"http.response.status_code": response.status})
            self._span.end(failure)
            self._span = None

    def _begun(self) -> bool:
        """Waits for the first bytes of a request; an end of the connection is none."""
        if self._http.trailing_data[0]:  # came together with the request before
            return not self._ending.is_set()
        self._socket.settimeout(IDLE_S_MAX if self._admitted else STRANGER_S_MAX)
        if self._ending.is_set():
            return False
        received = self._socket.recv(HEAD_BYTES_MAX)
        self._http.receive_data(received)
        return received != b""

    def _response(self, begun_s: float) -> HttpResponse:
        head = self._head(begun_s + (REQUEST_S_MAX if self._admitted else STRANGER_S_MAX))
        method, headers = head.method.decode(), _headers(head)
        _check_framing(headers)
        target = _target(head)
        self._check_caller(headers, target)
        with _failing():
            respond = self._admit(method, target.path, headers)
        self._stay()
        self._span = tracing.request_span(method, target.path, headers)
        with tracing.working(self._span):
            body = self._body(headers, begun_s + REQUEST_S_MAX)
            asked = HttpRequest(
                method,
                target.path,
                headers,
                body,
                self._connected,
                query=target.query,
                until_sent=self._until_sent,
            )
            answer_until(time.monotonic() + ANSWER_S_MAX)
            with _failing():
                return _compressed(respond(asked), headers.get("accept-encoding", ""))

    def _head(self, until_s: float) -> h11.Request:
        head = self._next_event(until_s)
        if not isinstance(head, h11.Request):
            raise HttpError(400, "a request must come first")
        self._bodiless = head.method == b"HEAD"
        return head

    def _stay(self) -> None:
        if not self._admitted and not self._fate.acquire(blocking=False):
            raise ConnectionAbortedError
        self._admitted = True

    def _body(self, headers: Mapping[str, str], until_s: float) -> bytes:
        self._check_length(int(headers.get("content-length", "0")))
        if self._http.they_are_waiting_for_100_continue:
            self._socket.sendall(
                self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        parts: list[bytes] = []
        length = 0
        while isinstance(event := self._next_event(until_s), h11.Data):
            length += len(event.data)
            self._check_length(length)
            parts.append(bytes(event.data))
        encoding = headers.get("content-encoding", "").lower()  # RFC 9110, section 8.4.1
        return _decompressed(b"".join(parts), encoding, self._body_bytes_max)

    def _next_event(self, until_s: float) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise HttpError(408, "the request did not come in time")
            self._socket.settimeout(left_s)
            in_head = self._http.their_state is h11.IDLE
            with suppress(TimeoutError):
                size = HEAD_BYTES_MAX if in_head else RECEIVE_BYTES
                self._http.receive_data(self._socket.recv(size))
        return event

    def _check_length(self, length: int) -> None:
        if length > self._body_bytes_max:
            raise HttpError(413, f"the body is larger than {self._body_bytes_max} bytes")

    def _check_caller(self, headers: Mapping[str, str], target: SplitResult) -> None:
        if not self._loopback:
            return
        if not asks_for_loopback(headers.get("host", ""), target):
            raise HttpError(421, "this Host is not served here")
        if "origin" in headers and not shown_by_loopback(headers["origin"]):
            raise HttpError(403, "pages of this Origin are not answered")

    def _connected(self) -> bool:
        """A caller that went away has ended its side; what it sent before is still there."""
        self._socket.settimeout(0)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _send(self, response: HttpResponse) -> bool:
        """False when the connection ends with this response."""
        head = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(response.size_bytes)),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers.items(),
        ]
        # What is left of a request that was refused is not read.
        whole = self._http.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        if self._ending.is_set() or not whole:
            head.append(("Connection", "close"))
        long = isinstance(response.body, Pieces)
        until_s = time.monotonic() + (SEND_PIECES_S_MAX if long else SEND_S_MAX)
        self._send_event(h11.Response(status_code=response.status, headers=head), until_s)
        for piece in () if self._bodiless else _pieces(response.body):
            self._send_event(h11.Data(data=piece), until_s)
        self._send_event(h11.EndOfMessage(), until_s)
        if not whole:
            self._let_it_read()
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _send_event(self, event: h11.Event, until_s: float) -> None:
        if data := self._http.send(event):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(min(SEND_S_MAX, left_s))
            self._socket.sendall(data)

    def _let_it_read(self) -> None:
        """A close with bytes unread would take the response back from who still sends."""
        self._socket.shutdown(socket.SHUT_WR)
        until_s = time.monotonic() + REFUSE_S_MAX
        while (left_s := until_s - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            if not self._socket.recv(RECEIVE_BYTES):
                return


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except HttpError:
        raise
    except Exception as err:
        raise _Failed(err) from err


def _pieces(body: bytes | Pieces) -> Iterator[bytes]:
    try:
        yield from body.read if isinstance(body, Pieces) else (body,)
    except OSError:  # of what is read; the connection's is raised elsewhere
        log.error("http_body_unreadable", exc_info=True)
        raise


def _target(head: h11.Request) -> SplitResult:
    try:
        return urlsplit(head.target.decode("ascii", "replace"))
    except ValueError as err:  # brackets of no address
        raise HttpError(400, "the target is no URI") from err


def _check_framing(headers: Mapping[str, str]) -> None:
    """Two lengths let two readers see two requests (RFC 9112, 6.1); a refusal ends the connection
    where its body is not read."""
    if "content-length" in headers and "transfer-encoding" in headers:
        raise HttpError(400, "of Content-Length and Transfer-Encoding one is needed")


def _headers(request: h11.Request) -> dict[str, str]:
    """Joined by commas where one comes twice (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _decompressed(body: bytes, encoding: str, bytes_max: int) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise HttpError(415, "of content encodings gzip and deflate are read")
    reader = zlib.decompressobj(wbits=47)  # the header of either
    try:
        decompressed = reader.decompress(body, bytes_max + 1)
    except zlib.error as err:
        raise HttpError(400, f"the body is not {encoding}") from err
    if len(decompressed) > bytes_max:
        raise HttpError(413, f"the body is larger than {bytes_max} bytes when decompressed")
    if not reader.eof or reader.unused_data:
        raise HttpError(400, f"the body is not one whole {encoding} stream")
    return decompressed


def _accepted(encodings: str) -> set[str]:
    """Of Accept-Encoding the codings that are not forbidden (RFC 9110, section 12.5.3)."""
    asked = (each.lower().partition(";") for each in encodings.split(","))
    return {name.strip() for name, _, weight in asked if not FORBIDDEN.fullmatch(weight.strip())}


def _compressed(response: HttpResponse, accepted: str) -> HttpResponse:
    names = _accepted(accepted)
    encoding = next((name for name in ("gzip", "deflate") if name in names), None)
    body = response.body
    if encoding is None or isinstance(body, Pieces) or len(body) < COMPRESS_BYTES_MIN:
        return response
    writer = zlib.compressobj(COMPRESS_LEVEL, wbits=31 if encoding == "gzip" else 15)
    return HttpResponse(
        body=writer.compress(body) + writer.flush(),
        status=response.status,
        content_type=response.content_type,
        headers={**response.headers, "Content-Encoding": encoding},
    )


def _error(error: BaseException) -> HttpResponse:
    """The error as JSON; a bug gives away nothing of itself."""
    error = as_limit(error)
    status = to_status(error)
    if not isinstance(error, HeadraceError):
        log.error("http_failed", exc_info=error)
    reason = error.reason if isinstance(error, HeadraceError) else "INTERNAL"
    body = json.dumps({"error": status.message, "reason": reason}).encode()
    return HttpResponse(body, HTTP_BY_CODE.get(status.code, 500), headers=dict(_what_to_do(error)))


def _what_to_do(error: BaseException) -> Iterator[tuple[str, str]]:
    if (delay_s := retry_after_s(error)) is not None:
        yield "Retry-After", str(max(1, round(delay_s)))
    if isinstance(error, Denied) and error.reason == "TOKEN_UNKNOWN":
        yield "WWW-Authenticate", "Bearer"


def _problem(status: int, problem: str) -> HttpResponse:
    return HttpResponse(_problem_body(status, problem), status)


def _problem_body(status: int, problem: str) -> bytes:
    reason = REASON_BY_STATUS.get(status, "BAD_REQUEST")
    return json.dumps({"error": problem, "reason": reason}).encode()


def _turn_away(accepted: socket.socket) -> None:
    """There is no thread for this caller, and none to wait for it."""
    body = _problem_body(503, "too many connections")
    head = (
        f"HTTP/1.1 503 {HTTPStatus(503).phrase}\r\nContent-Type: {JSON}\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    with accepted, suppress(OSError):
        accepted.settimeout(0)
        accepted.send(head.encode() + body)
