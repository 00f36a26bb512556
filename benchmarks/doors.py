# SPDX-License-Identifier: Apache-2.0
"""Servers without any work of ours, on the service's core: what a door alone makes of calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.machine import SERVICE_CORE, pinned

CONSTANT = """
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.hot_calls import HotMethod, at_once
from headrace_kit.native_door import NativeDoor
method, size = sys.argv[1], int(sys.argv[2])
hot = [HotMethod(method, at_once(lambda calls: [b"x" * size] * len(calls)))]
folder = TemporaryDirectory()
door = NativeDoor("constant", hot, folder=Path(folder.name))
server = GrpcServer(host="127.0.0.1", port=0, services=[], names=["constant"],
                    guard=Guard("constant", None), hot=hot, door=door)
print(server.start(), flush=True)
sys.stdin.read()
server.stop(1.0)
"""
ECHO = """
import sys, grpc
from concurrent.futures import ThreadPoolExecutor
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda data, context: data)
server = grpc.server(ThreadPoolExecutor(16))
server.add_generic_rpc_handlers([Echo()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""


@contextmanager
def constant_door(method: str, *, answer_bytes: int) -> Iterator[str]:
    """Address of the native door, whose answer to the method is always the same."""
    with _served(CONSTANT, method, str(answer_bytes)) as address:
        yield address


@contextmanager
def grpcio_echo() -> Iterator[str]:
    """Address of grpcio's own server, which sends back what it gets."""
    with _served(ECHO) as address:
        yield address


@contextmanager
def _served(program: str, *arguments: str) -> Iterator[str]:
    command = [*pinned(SERVICE_CORE), sys.executable, "-c", program, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.communicate()
