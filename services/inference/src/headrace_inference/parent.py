# SPDX-License-Identifier: Apache-2.0
"""The wiring of several processes: a parent that holds the ports, and workers that share them.

Each worker is the whole service as `app` wires it. The parent answers at the HTTP port for all: it
is ready when all are, and its metrics are theirs. It imports nothing of what they serve with.
"""

from __future__ import annotations

import sys
from functools import partial

from headrace_inference.settings import NAME, Settings
from headrace_kit.admin_http import AdminServer
from headrace_kit.lifecycle import run_service
from headrace_kit.listening import HeldPort
from headrace_kit.worker_metrics import metrics_page
from headrace_kit.worker_process import WorkerProcess, worker_folder
from headrace_kit.workers import Workers

COMMAND = (sys.executable, "-m", "headrace_inference")
# What a worker needs beside its grace: its last look, its spans, its end as a process.
END_S_MAX = 3.0


def run(settings: Settings) -> int:
    """Runs the workers until it is told to stop, or they cannot go on; returns the exit code."""
    grace_s = settings.stop_grace_s + END_S_MAX
    workers = Workers(
        NAME,
        settings.process_count,
        start_worker=partial(_start_worker, settings),
        grace_s=grace_s,
    )
    admin = AdminServer(
        settings.http_host,
        settings.http_port,
        ready=workers.ready,
        routes={"/metrics": lambda _: metrics_page(workers.metrics())},
    )
    ports = (port for port in (settings.grpc_port, settings.rest_port) if port is not None)
    held = [HeldPort(settings.grpc_host, port) for port in ports]
    return run_service(NAME, [*held, workers], admin=admin, stop_grace_s=grace_s + 1.0)


def _start_worker(settings: Settings, number: int) -> WorkerProcess:
    return WorkerProcess(COMMAND, number, worker_folder(settings.data_dir, number))
