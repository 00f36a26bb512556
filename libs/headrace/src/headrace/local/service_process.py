# SPDX-License-Identifier: Apache-2.0
"""How a service of Headrace is run as a process of this machine: by `headrace up`, and in tests."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from headrace.local.ports import LOOPBACK
from headrace.local.process import HttpReady, ProcessSpec
from headrace.local.settings import child_environment

STOP_GRACE_S = 25.0


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
