# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_feature` serves until SIGTERM; `--check-config` only reads the settings."""

from __future__ import annotations

import sys

from headrace_feature.app import SERVICE, run
from headrace_feature.settings import Settings
from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging


def main() -> None:
    settings = load_settings(Settings, sys.argv[1:])
    configure_logging(SERVICE, settings.log_level)
    sys.exit(run(settings))


if __name__ == "__main__":
    main()
