# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_feature` serves until SIGTERM; `--check-config` only reads the settings."""

from __future__ import annotations

import resource
import sys

from headrace_feature.app import SERVICE, run
from headrace_feature.settings import Settings
from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging

FILES_MAX = 1 << 16  # four of each large run stay open: they outlive their names


def main() -> None:
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES_MAX if allowed == resource.RLIM_INFINITY else min(FILES_MAX, allowed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, allowed))
    settings = load_settings(Settings, sys.argv[1:])
    configure_logging(SERVICE, settings.log_level)
    sys.exit(run(settings))


if __name__ == "__main__":
    main()
