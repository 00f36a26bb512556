# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_monitor` serves until SIGTERM; `--check-config` only reads the settings."""

from __future__ import annotations

import sys

from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging
from headrace_monitor.app import NAME, run
from headrace_monitor.settings import Settings


def main() -> int:
    settings = load_settings(Settings, sys.argv[1:])
    configure_logging(NAME, settings.log_level)
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
