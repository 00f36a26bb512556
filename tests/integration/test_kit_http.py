# SPDX-License-Identifier: Apache-2.0
"""The HTTP server on a socket: bounds, hostile bytes, errors, drain."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import socket
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection, IncompleteRead

import pytest
from sqlalchemy import text

from headrace.errors import Busy, Denied, Invalid, Unavailable
from headrace.reasons import REASONS
from headrace_kit import http_server
from headrace_kit.http_server import (
    HttpError,
    HttpRequest,
    HttpResponse,
    HttpServer,
    Pieces,
    Respond,
)
from headrace_kit.sql import connect, transaction
from headrace_kit.testing import a_traceparent, recorded_spans, wait_until

pytestmark = pytest.mark.integration
BODY_BYTES_MAX = 10_000
# More than sockets hold of a response.
LARGE_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 256 * 1024
DEADLINE_S = 10.0
CONNECTIONS_MAX = 3


class App:
    """Echoes; `gate` closed holds the answers, `error` is raised, `token` is asked for."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.hung_up, self.sent = threading.Event(), threading.Event()
        self.token: str | None = None
        self.pieces_read = 0

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> Respond:
        if self.token not in (None, headers.get("authorization")):
            raise Denied("TOKEN_UNKNOWN")
        return self.respond

    def respond(self, request: HttpRequest) -> HttpResponse:
        self.entered.set()
        if request.path == "/large":
            request.until_sent.callback(self.sent.set)
            return HttpResponse(bytes(LARGE_BYTES))
        if request.path == "/pieces":
            request.until_sent.callback(self.sent.set)
            return HttpResponse(Pieces(LARGE_BYTES, self._pieces()))
        if request.path == "/wait-for-the-end":
            while request.connected():
                self.gate.wait(0.01)
            self.hung_up.set()
        self.gate.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        told = {"method": request.method, "path": request.path}
        return HttpResponse(
            request.body or json.dumps(told).encode(), headers={"X-Told": json.dumps(told)}
        )

    def _pieces(self) -> Iterator[bytes]:
        for _ in range(LARGE_BYTES // PIECE_BYTES):
            self.pieces_read += 1
            yield bytes(PIECE_BYTES)
            if self.error is not None:
                raise self.error


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def server(app: App) -> Iterator[HttpServer]:
    server = HttpServer(
        "127.0.0.1",
        0,
        app.admit,
        body_bytes_max=BODY_BYTES_MAX,
        connections_max=CONNECTIONS_MAX,
    )
    yield server
    server.stop(DEADLINE_S)


@pytest.fixture
def port(server: HttpServer) -> int:
    return server.start()


@pytest.fixture
def client(port: int) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as connection:
        yield connection


def ask(client: HTTPConnection, body: bytes = b"", method: str = "POST", **headers: str):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, "/v2/a?b=c", body=body or None, headers=names)
    response = client.getresponse()
    return response.status, response.read(), response.headers


def exchange(port: int, sent: bytes) -> bytes:
    """What comes back for these bytes until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(sent)
        caller.shutdown(socket.SHUT_WR)
        return received(caller)


def received(caller: socket.socket) -> bytes:
    """All until the server ends the connection."""
    with caller.makefile("rb") as file:
        return file.read()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
    except OSError:
        return False
    return True


def test_connection_is_kept_for_the_next_request(client):
    assert (200, b"one") == ask(client, b"one")[:2]
    kept = client.sock
    assert (200, b"two") == ask(client, b"two")[:2]
    assert kept is client.sock is not None


def test_requests_that_come_together_are_answered_one_after_the_other(port):
    one = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\none"
    two = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\ntwo"
    answers = exchange(port, one + two)

    assert 2 == answers.count(b"HTTP/1.1 200")
    assert answers.index(b"\r\n\r\none") < answers.index(b"\r\n\r\ntwo")


def test_query_is_no_part_of_the_path_and_head_has_no_body(client):
    status, body, headers = ask(client, method="HEAD")

    assert (200, b"") == (status, body)
    assert {"method": "HEAD", "path": "/v2/a"} == json.loads(headers["X-Told"])


def test_body_in_chunks_is_read(client):
    client.request("POST", "/", body=iter([b"one", b"two"]), encode_chunked=True)

    assert b"onetwo" == client.getresponse().read()


def test_caller_that_waits_for_leave_to_send_its_body_gets_it(port):
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert caller.recv(100).startswith(b"HTTP/1.1 100")
        caller.sendall(b"ok")
        assert b"200" in caller.recv(1_000)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_bodies_are_read_and_answered(client, encoding, pack):
    body = b"a" * 5_000
    status, answer, headers = ask(
        client, pack(body), Content_Encoding=encoding, Accept_Encoding=encoding
    )

    assert (200, encoding) == (status, headers["Content-Encoding"])
    assert body == zlib.decompress(answer, wbits=47)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.000", None),
        ("identity", None),
    ],
)
def test_answer_is_packed_as_its_caller_says(client, accepted, encoding):
    body = gzip.compress(b"a" * 5_000)

    _, _, headers = ask(client, body, Content_Encoding="GZip", Accept_Encoding=accepted)

    assert encoding == headers["Content-Encoding"]


@pytest.mark.parametrize(
    ("body", "encoding", "told"),
    [
        (b"x" * (BODY_BYTES_MAX + 1), "identity", (413, "MESSAGE_TOO_LARGE")),
        (gzip.compress(b"\0" * 50_000_000), "gzip", (413, "MESSAGE_TOO_LARGE")),
        (zlib.compress(b"\0" * (BODY_BYTES_MAX + 1)), "deflate", (413, "MESSAGE_TOO_LARGE")),
        (gzip.compress(b"x" * 100)[:-9], "gzip", (400, "BAD_REQUEST")),
        (gzip.compress(b"x") + b"more", "gzip", (400, "BAD_REQUEST")),
        (b"no gzip", "gzip", (400, "BAD_REQUEST")),
        (b"x", "br", (415, "UNSUPPORTED")),
    ],
    ids=["large", "bomb", "large inside", "cut", "more", "none", "other"],
)
def test_body_out_of_bounds_is_refused(client, body, encoding, told):
    status, answer, _ = ask(client, body, Content_Encoding=encoding)

    assert told == (status, json.loads(answer)["reason"])
    assert json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Invalid("TENSOR_NAME", input="x"), 400, "TENSOR_NAME"),
        (Invalid("UNSUPPORTED", problem="x"), 501, "UNSUPPORTED"),
        (Denied("TOKEN_UNKNOWN"), 401, "TOKEN_UNKNOWN"),
        (Denied("ACTION_FORBIDDEN"), 403, "ACTION_FORBIDDEN"),
        (Busy("QUEUE_FULL"), 429, "QUEUE_FULL"),
        (Busy("TOO_MANY_INPUTS"), 429, "TOO_MANY_INPUTS"),
        (Unavailable("SERVICE_UNAVAILABLE"), 503, "SERVICE_UNAVAILABLE"),
        (Unavailable("DEADLINE_UNMET"), 504, "DEADLINE_UNMET"),
        (ValueError("a secret"), 500, "INTERNAL"),
    ],
)
def test_error_has_a_status_and_a_reason_and_the_connection_lives(
    client, app, error, status, reason
):
    app.error = error
    told, body, headers = ask(client)

    assert (status, reason) == (told, json.loads(body)["reason"])
    assert b"secret" not in body
    may_help = isinstance(error, Busy | Unavailable) and reason != "TOO_MANY_INPUTS"
    assert may_help == ("Retry-After" in headers)
    assert (401 == status) == ("WWW-Authenticate" in headers)
    app.error = None
    assert 200 == ask(client)[0]


def test_application_refuses_a_path_in_the_words_of_http(client, app):
    app.error = HttpError(404, "no such path")
    status, body, _ = ask(client)

    assert (404, {"error": "no such path", "reason": "PATH_UNKNOWN"}) == (status, json.loads(body))
    app.error = None
    assert 200 == ask(client)[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8000"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "LOCALHOST:1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[evil"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
    ],
)
def test_loopback_answers_to_its_own_names_only(client, headers, status):
    told, body, _ = ask(client, **headers)

    assert status == told
    assert status == 200 or "ORIGIN_FORBIDDEN" == json.loads(body)["reason"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\0\x01\0", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"421"),
        (b"GET http://evil.test/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"421"),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET //[/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * 40_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", b"400"),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"400",
        ),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\ncut", b"400"),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"400",
        ),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200"),
    ],
)
def test_bytes_that_are_no_request_are_told_so(port, sent, status):
    answer = exchange(port, sent)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert status == b"200" or json.loads(answer.partition(b"\r\n\r\n")[2])["reason"] in REASONS


def test_request_of_two_lengths_is_refused_and_ends_its_connection(port):
    hidden = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = exchange(
        port,
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
    )

    assert answer.startswith(b"HTTP/1.1 400")
    assert 1 == answer.count(b"HTTP/1.1 ")
    assert b"Connection: close" in answer


def test_request_that_drips_is_given_up(port, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_S_MAX", 0.2)

    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\na")
        assert caller.recv(1_000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nX: dri"], ids=["idle", "drips"])
def test_stranger_who_does_not_ask_is_given_up_sooner_than_others(port, monkeypatch, sent):
    monkeypatch.setattr(http_server, "STRANGER_S_MAX", 0.1)

    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(sent)
        assert (b"HTTP/1.1 408" if sent else b"") == received(caller)[:12]


def test_connection_that_asks_no_more_is_given_up(client, monkeypatch):
    monkeypatch.setattr(http_server, "IDLE_S_MAX", 0.1)
    assert 200 == ask(client)[0]

    assert b"" == client.sock.recv(100)


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b"\0" * 50_000_000), b"no gzip", b"x" * (BODY_BYTES_MAX + 1)],
    ids=["bomb", "none", "large"],
)
def test_nothing_is_said_of_the_body_of_a_caller_without_a_token(client, app, body):
    app.token = "secret"  # noqa: S105 - of the test
    encoding = "identity" if body[:1] == b"x" else "gzip"

    status, told, headers = ask(client, body, Content_Encoding=encoding, Authorization="guess")

    assert (401, "TOKEN_UNKNOWN") == (status, json.loads(told)["reason"])
    assert ("Bearer", "close") == (headers["WWW-Authenticate"], headers["Connection"])
    assert not app.entered.is_set()


@pytest.mark.parametrize(
    ("token", "told"), [("guess", b"HTTP/1.1 401"), ("secret", b"HTTP/1.1 100")]
)
def test_only_an_admitted_caller_is_asked_for_its_body(port, app, token, told):
    app.token = "secret"  # noqa: S105 - of the test
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: %b\r\n"
            b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n" % token.encode()
        )
        assert caller.recv(1_000).startswith(told)


def test_token_is_asked_for_at_each_request_of_a_connection(client, app):
    app.token = "secret"  # noqa: S105 - of the test
    assert 200 == ask(client, b"one", Authorization="secret")[0]
    assert 401 == ask(client, b"two")[0]


def test_strangers_give_way_to_a_caller_and_callers_who_were_admitted_stay(port, app):
    app.token = "secret"  # noqa: S105 - of the test
    with ExitStack() as ended:
        early, late = (
            ended.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)))
            for _ in range(2)
        )
        assert 200 == ask(early, Authorization="secret")[0]
        kept = early.sock
        strangers = [
            ended.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
            for _ in range(10 * CONNECTIONS_MAX)
        ]

        assert 200 == ask(late, Authorization="secret")[0]
        assert 200 == ask(early, Authorization="secret")[0]
        assert kept is early.sock
        assert b"" == strangers[0].recv(100)


def test_connection_too_many_is_turned_away_and_one_that_ends_makes_room(port):
    callers = [
        HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S) for _ in range(CONNECTIONS_MAX)
    ]
    for caller in callers:
        assert 200 == ask(caller)[0]
    with closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as fourth:
        status, body, _ = ask(fourth, method="GET")
        assert (503, "QUEUE_FULL") == (status, json.loads(body)["reason"])

    for caller in callers:
        caller.close()
    for _ in range(1_000):
        with closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as fourth:
            if 200 == ask(fourth, method="GET")[0]:
                return
    pytest.fail("no room was made")


def test_caller_that_hangs_up_is_seen(port, app):
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(b"GET /wait-for-the-end HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert app.entered.wait(DEADLINE_S)
        assert not app.hung_up.is_set()

    assert app.hung_up.wait(DEADLINE_S)


@pytest.mark.parametrize("reads", [True, False])
def test_response_is_sent_when_its_caller_has_read_it_or_is_gone(port, app, reads):
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200" == caller.recv(12)
        assert not app.sent.is_set()
        if reads:
            assert LARGE_BYTES < len(received(caller))

    assert app.sent.wait(DEADLINE_S)


def test_body_in_pieces_is_read_as_its_caller_reads_it(client, app):
    client.request("GET", "/pieces", headers={"accept-encoding": "gzip"})
    response = client.getresponse()
    begun = response.read(PIECE_BYTES)
    # The sockets hold some; not all of it was read before its caller wanted it.
    assert app.pieces_read < LARGE_BYTES // PIECE_BYTES

    assert LARGE_BYTES == len(begun) + len(response.read())
    assert str(LARGE_BYTES) == response.headers["content-length"]
    assert app.sent.wait(DEADLINE_S)
    client.request("GET", "/next")
    assert 200 == client.getresponse().status


def test_body_whose_pieces_fail_is_not_taken_for_whole(client, app):
    app.error = OSError("the disk is gone")
    client.request("GET", "/pieces")

    with pytest.raises(IncompleteRead):
        client.getresponse().read()
    assert app.sent.wait(DEADLINE_S)


def test_request_in_work_is_answered_when_the_server_stops(server, port, client, app):
    app.gate.clear()
    client.request("POST", "/", body=b"late")
    assert app.entered.wait(DEADLINE_S)
    stopping = threading.Thread(target=server.stop, args=(DEADLINE_S,))
    stopping.start()
    while listens(port):
        pass
    app.gate.set()

    response = client.getresponse()
    assert (b"late", "close") == (response.read(), response.headers["Connection"])
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()


def test_idle_connection_does_not_hold_up_a_stop(server, client):
    assert 200 == ask(client)[0]

    server.stop(DEADLINE_S)

    assert b"" == client.sock.recv(1)


def test_server_that_may_open_no_more_files_asks_for_them_now_and_then(server, monkeypatch, app):
    tries, refused = [], threading.Event()

    class Listener:
        """Has no descriptor left for the first calls."""

        def __init__(self, listener):
            self._listener = listener

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._listener.close()

        def accept(self):
            if not refused.is_set():
                tries.append(1)
                raise OSError(errno.EMFILE, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name):
            return getattr(self._listener, name)

    made = http_server.listening_socket
    monkeypatch.setattr(http_server, "listening_socket", lambda *a, **k: Listener(made(*a, **k)))
    waits = []
    wait = server._changed.wait
    monkeypatch.setattr(server._changed, "wait", lambda s=None: waits.append(s) or wait(s))
    port = server.start()
    wait_until(lambda: len(tries) > 1)
    refused.set()

    with closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as client:
        client.request("GET", "/")
        assert 200 == client.getresponse().status
    assert len(tries) <= len(waits)


def test_taken_port_is_told(port):
    with pytest.raises(Unavailable, match="PORT_TAKEN"):
        HttpServer("127.0.0.1", port, App().admit, body_bytes_max=1).start()


def test_sampled_request_has_a_span(app, client):
    with recorded_spans() as finished:
        ask(client, b"one", traceparent=a_traceparent(5, span=6))
        ask(client, b"two", traceparent=a_traceparent(7, sampled=False))
        ask(client, b"three")
        app.error = Unavailable("SERVICE_UNAVAILABLE")
        ask(client, b"four", traceparent=a_traceparent(8))
        wait_until(lambda: len(finished()) == 2)
        answered, refused = finished()

    assert (5, 6, "POST") == (answered.context.trace_id, answered.parent.span_id, answered.name)
    assert ("/v2/a", 200) == tuple(
        answered.attributes[name] for name in ("url.path", "http.response.status_code")
    )
    assert (503, "SERVICE_UNAVAILABLE") == tuple(
        refused.attributes[name] for name in ("http.response.status_code", "error.type")
    )


def test_caller_who_is_refused_makes_no_span(app, client):
    app.token = "secret"  # noqa: S105 - of the test
    with recorded_spans() as finished:
        assert 401 == ask(client, traceparent=a_traceparent(5))[0]
        assert 200 == ask(client, traceparent=a_traceparent(6), Authorization="secret")[0]
        wait_until(finished)
        (span,) = finished()

    assert 6 == span.context.trace_id


THAW_S = 30.0  # sooner than a thread without a deadline gives a database up
FROZEN_ANSWER_S_MAX = 60.0


@pytest.fixture
def database_door(postgres_server: str) -> Iterator[HTTPConnection]:
    """Answers by the process of PostgreSQL that it asks."""
    engine = connect(postgres_server)

    def respond(_: HttpRequest) -> HttpResponse:
        with transaction(engine) as connection:
            pid = connection.scalar(text("select pg_backend_pid()"))
        return HttpResponse(json.dumps({"pid": pid}).encode())

    server = HttpServer("127.0.0.1", 0, lambda *_: respond, body_bytes_max=BODY_BYTES_MAX)
    port = server.start()
    with closing(HTTPConnection("127.0.0.1", port, timeout=FROZEN_ANSWER_S_MAX)) as client:
        yield client
    server.stop(DEADLINE_S)
    engine.dispose()


def test_database_that_is_frozen_is_told_while_the_caller_waits(
    database_door: HTTPConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "ANSWER_S_MAX", 1.0)
    frozen = json.loads(ask(database_door)[1])["pid"]
    os.kill(frozen, signal.SIGSTOP)
    thaw = threading.Timer(THAW_S, os.kill, (frozen, signal.SIGCONT))
    thaw.start()
    try:
        status, body, headers = ask(database_door)
    finally:
        thaw.cancel()
        os.kill(frozen, signal.SIGCONT)

    assert (503, "DATABASE_UNAVAILABLE") == (status, json.loads(body)["reason"])
    assert "Retry-After" in headers
    assert frozen != json.loads(ask(database_door)[1])["pid"]
