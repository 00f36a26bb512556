# SPDX-License-Identifier: Apache-2.0
"""How a service of Headrace is run as a process of this machine: by `headrace up`, and in tests."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from headrace.errors import Invalid
from headrace.local.ports import LOOPBACK
from headrace.local.process import EXIT_BAD_SETTING, HttpReady, ProcessSpec
from headrace.local.settings import child_environment

STOP_GRACE_S = 25.0
CHECK_S_MAX = 60.0
# For each when that is over: one that hangs must not hide what another has said.
SAID_S_MAX = 1.0


def service_process(
    name: str,
    ports: tuple[int, int],
    settings: Mapping[str, str],
    *,
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> ProcessSpec:
    """`ports`: gRPC and HTTP. `settings`: by their names without the service's prefix.

    `before`: the words of a command that runs the service's, such as one that pins it to a core.
    """
    grpc_port, http_port = ports
    told = {"GRPC_PORT": str(grpc_port), "HTTP_PORT": str(http_port), **settings}
    prefixed = {f"{name.upper()}_{key}": value for key, value in told.items()}
    return ProcessSpec(
        name=name,
        command=(*before, sys.executable, "-m", f"headrace_{name}"),
        ready=HttpReady(f"http://{LOOPBACK}:{http_port}/health/ready"),
        environment=child_environment({**(environment or {}), **prefixed}),
        ports={f"{name}-grpc": grpc_port, f"{name}-http": http_port},
        stop_grace_s=STOP_GRACE_S,
    )


def check_settings(services: Sequence[ProcessSpec]) -> None:
    """Asks each, side by side, whether it could read its settings (`--check-config`).

    Raises Invalid BAD_SETTING in the words of the first that could not.
    """
    until_s = time.monotonic() + CHECK_S_MAX
    with ExitStack() as asking:
        asked = [(service, asking.enter_context(_asked(service))) for service in services]
        for service, process in asked:
            text = _said(process, until_s - time.monotonic())
            if process.returncode == EXIT_BAD_SETTING:
                lines = (line.removeprefix("BAD_SETTING: ") for line in text.splitlines())
                raise Invalid("BAD_SETTING", service=service.name, problem="; ".join(lines))


@contextmanager
def _asked(service: ProcessSpec) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        (*service.command, "--check-config"),
        env=dict(service.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _said(process: subprocess.Popen[str], timeout_s: float) -> str:
    """Nothing where it takes too long: its start will tell."""
    try:
        return process.communicate(timeout=max(SAID_S_MAX, timeout_s))[1]
    except subprocess.TimeoutExpired:
        return ""
