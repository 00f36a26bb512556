# SPDX-License-Identifier: Apache-2.0
"""Ports on loopback: the servers' defaults, free ones, and who holds one that is taken."""

from __future__ import annotations

import errno
import os
import random
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil

from headrace.errors import Unavailable
from headrace.local.locks import lock_for_good

LOOPBACK = "127.0.0.1"
DEFAULT_PORTS: Mapping[str, int] = {
    "kafka": 9092,
    "kafka-controller": 9093,
    "postgres": 5433,
    "s3": 7070,
    "ingest-grpc": 7101,
    "ingest-http": 7201,
    "feature-grpc": 7102,
    "feature-http": 7202,
    "trainer-grpc": 7103,
    "trainer-http": 7203,
    "registry-grpc": 7104,
    "registry-http": 7204,
    "registry-rest": 7304,
    "inference-grpc": 8001,
    "inference-http": 7205,
    "inference-rest": 8000,
    "monitor-grpc": 7106,
    "monitor-http": 7206,
}
"""By the name of the setting."""

# Below the range from which kernels take the ports of outgoing connections (32768 and up on Linux):
# a port from that range can be lost between picking it and listening on it.
PICK_FROM, PICK_BELOW = 20_000, 32_000
PICK_TRIES_MAX = 200
# A picked port is this process's until it ends, listened on or not: a server that is started again
# must find its port as it left it.
RESERVATIONS = Path(tempfile.gettempdir()) / f"headrace-ports-{os.getuid()}"


def pick_ports(count: int) -> list[int]:
    """Distinct ports on which nothing listens now, and which no other process picks meanwhile."""
    ports: list[int] = []
    with ExitStack() as held:
        for _ in range(PICK_TRIES_MAX):
            if len(ports) == count:
                return ports
            port = random.randrange(PICK_FROM, PICK_BELOW)  # noqa: S311, no secret
            try:
                held.enter_context(_bound(port))
            except OSError:
                continue
            if _reserve(port):
                ports.append(port)
    raise Unavailable("PORT_TAKEN", ports=f"{PICK_FROM}-{PICK_BELOW}")


def _reserve(port: int) -> bool:
    RESERVATIONS.mkdir(mode=0o700, exist_ok=True)
    return lock_for_good(RESERVATIONS / str(port))


def check_free(port_by_setting: Mapping[str, int]) -> None:
    """Raises Unavailable PORT_TAKEN for the first port that another process listens on."""
    for setting, port in port_by_setting.items():
        if taken(port):
            raise Unavailable(
                "PORT_TAKEN", port=port, setting=setting, holder=holder(port) or "unknown"
            )


def taken(port: int) -> bool:
    """Whether something listens on the port, on loopback or on all addresses."""
    try:
        with _bound(port):
            return False
    except OSError as err:
        if err.errno in (errno.EADDRINUSE, errno.EACCES):
            return True
        raise


def holder(port: int) -> str | None:
    """Who listens on the port, as `pid 12 (java)`; None when this user may not know."""
    for connection in psutil.net_connections(kind="tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        if listens and connection.pid:
            try:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None


def listening(port: int, timeout_s: float) -> bool:
    """Whether a connection to the port succeeds within the time."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    # As servers do: old connections in TIME_WAIT do not count, a listener does.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        raise
    return bound
