# SPDX-License-Identifier: Apache-2.0
"""How a service of Headrace is run as a process of this machine: by `headrace up`, and in tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from headrace.errors import Invalid
from headrace.local.ports import LOOPBACK
from headrace.local.process import EXIT_BAD_SETTING, HttpReady, ProcessSpec
from headrace.local.settings import child_environment

STOP_GRACE_S = 25.0
CHECK_S_MAX = 60.0


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
    asked = [
        subprocess.Popen(
            (*each.command, "--check-config"),
            env=dict(each.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for each in services
    ]
    try:
        said = [each.communicate(timeout=CHECK_S_MAX)[1] for each in asked]
    except subprocess.TimeoutExpired:
        return  # its start will tell
    finally:
        for process in asked:
            process.kill()
    for service, process, text in zip(services, asked, said, strict=True):
        if process.returncode == EXIT_BAD_SETTING:
            problem = "; ".join(line.removeprefix("BAD_SETTING: ") for line in text.splitlines())
            raise Invalid("BAD_SETTING", service=service.name, problem=problem)
