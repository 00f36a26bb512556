# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_ingest` runs the service; `--check-config` only checks its settings."""

from __future__ import annotations

import sys

from headrace_ingest.settings import IngestSettings
from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging


def main() -> int:
    settings = load_settings(IngestSettings, sys.argv[1:])
    configure_logging("ingest", settings.log_level)
    from headrace_ingest.app import run  # heavy: not for --check-config

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
