# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_inference`: read the settings, run, exit with what the life cycle says."""

from __future__ import annotations

import sys

from headrace_inference.app import NAME, run
from headrace_inference.settings import Settings
from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging


def main() -> None:
    settings = load_settings(Settings, sys.argv[1:])
    configure_logging(NAME, settings.log_level)
    sys.exit(run(settings))


if __name__ == "__main__":
    main()
