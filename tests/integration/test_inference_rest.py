# SPDX-License-Identifier: Apache-2.0
"""The protocol over HTTP on a socket, with a tokens file: who is answered, and what it costs."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import issue_token
from headrace_inference.adapters.grpc_api import ACTIONS
from headrace_inference.adapters.rest_api import RestApi
from headrace_kit import http_server
from headrace_kit.auth import Guard
from headrace_kit.hot_calls import HotCall
from headrace_kit.http_server import CONNECTIONS_MAX, HttpServer
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration
DEADLINE_S = 10.0
BODY_BYTES_MAX = 1_000_000
INDEX = "/v2/repository/index"


class Servicer:
    def RepositoryIndex(self, request, context):  # noqa: N802 - the name of the proto
        answer = oip.RepositoryIndexResponse()
        answer.models.add(name="delay", version="7", state="READY")
        return answer


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, str]:
    token = issue_token(tmp_path / "tokens.json", "shop", ["predict:delay"])
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def taken() -> list[HotCall]:
    """Inferences that nobody answers."""
    return []


@pytest.fixture
def port(shown: dict[str, str], taken: list[HotCall], tmp_path: Path) -> Iterator[int]:
    guard = Guard("tests", tmp_path / "tokens.json", actions=ACTIONS)
    admit = RestApi(Servicer(), guard, take=taken.extend).admit
    server = HttpServer("127.0.0.1", 0, admit, body_bytes_max=BODY_BYTES_MAX)
    yield server.start()
    server.stop(DEADLINE_S)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that were unpacked."""
    bodies: list[bytes] = []
    unpack = http_server._decompressed

    def noted(body: bytes, encoding: str, bytes_max: int) -> bytes:
        bodies.append(body)
        return unpack(body, encoding, bytes_max)

    monkeypatch.setattr(http_server, "_decompressed", noted)
    return bodies


def ask(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as client:
        client.request("POST", path, body=body, headers=headers)
        response = client.getresponse()
        return response.status, response.read()


def test_body_is_unpacked_for_a_caller_with_a_token_only(port, shown, unpacked):
    packed = gzip.compress(json.dumps({"ready": True}).encode() + b" " * 900_000)
    encoding = {"Content-Encoding": "gzip"}

    assert 401 == ask(port, INDEX, packed, encoding)[0]
    assert [] == unpacked
    status, told = ask(port, INDEX, packed, encoding | shown)
    assert (200, "delay") == (status, json.loads(told)[0]["name"])
    assert [packed] == unpacked


@pytest.mark.parametrize(
    ("path", "known", "status"),
    [
        (INDEX, False, 401),
        (INDEX, True, 100),
        ("/v2/repository/models/delay/load", True, 403),
        ("/v3", False, 404),
        ("/v2", True, 405),
    ],
)
def test_refused_caller_is_not_told_to_send_its_body(port, shown, path, known, status):
    token = f"Authorization: {shown['Authorization']}\r\n" if known else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{token}"
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(f"{head}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
        assert caller.recv(1_000).startswith(f"HTTP/1.1 {status} ".encode())


def test_caller_is_answered_while_idle_strangers_hold_all_places(port, shown):
    with ExitStack() as ended:
        strangers = [
            ended.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))
            for _ in range(CONNECTIONS_MAX)
        ]

        assert 200 == ask(port, INDEX, b"{}", shown)[0]
        assert b"" == strangers[0].recv(100)


def test_inference_of_a_caller_that_hangs_up_is_cancelled(port, shown, taken):
    head = f"Host: localhost\r\nAuthorization: {shown['Authorization']}\r\nContent-Length: 2"
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as caller:
        caller.sendall(f"POST /v2/models/delay/infer HTTP/1.1\r\n{head}\r\n\r\n{{}}".encode())
        wait_until(lambda: taken)
        assert not taken[0].cancelled

    wait_until(lambda: taken[0].cancelled)
