# SPDX-License-Identifier: Apache-2.0
"""Where a service listens: ports that are free, a port that workers share, a socket in a folder."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from headrace.errors import Invalid, Unavailable

# Linux takes no longer path of a socket: unix(7), sun_path, without its final zero.
SOCKET_PATH_BYTES_MAX = 107


def check_free(host: str, port: int) -> None:
    """Raises Unavailable PORT_TAKEN while another socket listens there.

    A server that binds later may still find it taken, and says so itself; what else is wrong with
    the address is left to it, too.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(address)
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            raise Unavailable("PORT_TAKEN", host=host, port=port) from err


def listening_socket(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket that listens there. Raises Unavailable PORT_TAKEN."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        return socket.create_server((bare, port), family=family, reuse_port=reuse_port)
    except OSError as err:
        raise Unavailable("PORT_TAKEN", host=host, port=port) from err


class HeldPort:
    """A ListeningPart of a parent: the port is its workers', and no other service's.

    SO_REUSEPORT alone would let in a second service of this user without a word. So the parent
    claims the port as any server does, and stays bound when it listens no more: it gets no
    connection, lets in who asks to share, as workers do, and keeps out who does not, as servers
    and `check_free`, even while no worker listens.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._held: socket.socket | None = None

    def check_port(self) -> None:
        """Raises Unavailable PORT_TAKEN."""
        check_free(self._host, self._port)

    def start(self) -> None:
        """Raises Unavailable PORT_TAKEN."""
        self._held = listening_socket(self._host, self._port)
        # Who binds later is compared with these, so they may be set late (inet_csk_get_port).
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.shutdown(socket.SHUT_RD)

    def stop(self, timeout_s: float) -> None:
        if self._held is not None:
            self._held.close()

    def failed(self) -> BaseException | None:
        return None


def socket_in(folder: Path, name: str) -> Path:
    """Where this user alone may enter; raises Invalid BAD_SETTING when its path is too long."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    whole = folder.absolute() / name
    # From here it may be shorter, and no process changes its working folder.
    path = min(str(whole), os.path.relpath(whole), key=len)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        problem = f"a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes"
        raise Invalid("BAD_SETTING", setting="data_dir", path=path, problem=problem)
    return Path(path)
