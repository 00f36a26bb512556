# SPDX-License-Identifier: Apache-2.0
"""Loads the settings, builds the trainer, runs it."""

import sys

from headrace_kit.lifecycle import run_service
from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging
from headrace_trainer.app import NAME, build
from headrace_trainer.settings import TrainerSettings


def main() -> int:
    settings = load_settings(TrainerSettings, sys.argv[1:])
    configure_logging(NAME, settings.log_level)
    parts, admin, server = build(settings)
    return run_service(NAME, parts, admin=admin, on_ready=server.set_ready)


if __name__ == "__main__":
    sys.exit(main())
