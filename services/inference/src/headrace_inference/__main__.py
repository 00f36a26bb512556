# SPDX-License-Identifier: Apache-2.0
"""`python -m headrace_inference`: read the settings, run, exit with what the life cycle says."""

from __future__ import annotations

import sys

from headrace_inference.settings import NAME, Settings
from headrace_kit.settings import load_settings
from headrace_kit.telemetry import configure_logging
from headrace_kit.worker_process import as_worker


def main() -> None:
    worker = as_worker(sys.argv[1:])
    settings = load_settings(Settings, sys.argv[1:] if worker is None else ())
    configure_logging(NAME, settings.log_level, worker=worker)
    # Each imports what it needs: a parent is small.
    if worker is None and settings.process_count > 1:
        from headrace_inference import parent

        sys.exit(parent.run(settings))
    from headrace_inference import app

    sys.exit(app.run(settings, worker))


if __name__ == "__main__":
    main()
