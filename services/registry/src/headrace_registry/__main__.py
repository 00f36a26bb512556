# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_registry` serves until SIGTERM; `--check-config` only reads the settings."""

from __future__ import annotations

import sys

from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging
from headrace_registry.app import SERVICE, run
from headrace_registry.settings import Settings


def main() -> int:
    settings = load_settings(Settings, sys.argv[1:])
    configure_logging(SERVICE, settings.log_level)
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
