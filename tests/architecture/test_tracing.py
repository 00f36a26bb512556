# SPDX-License-Identifier: Apache-2.0
"""Who does not trace pays nothing for it: no service loads OpenTelemetry by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_TIMEOUT_S = 60.0


@pytest.mark.parametrize(
    "module",
    [
        "headrace.client",
        *(
            f"headrace_{service}.app"
            for service in ("ingest", "feature", "trainer", "registry", "inference", "monitor")
        ),
    ],
)
def test_opentelemetry_is_not_loaded_by(module: str) -> None:
    program = f"import sys, {module}; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=IMPORT_TIMEOUT_S,
    )

    assert "[]" == done.stdout.strip()
