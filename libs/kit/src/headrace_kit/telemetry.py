# SPDX-License-Identifier: Apache-2.0
"""Logs as one JSON object per line on stderr, metrics named `headrace_<service>_<noun>_<unit>`."""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


def configure_logging(service: str, level: str) -> None:
    """Send structlog and the standard library's logging to stderr as JSON lines."""
    number = logging.getLevelNamesMapping()[level.upper()]

    def name_service(_: object, __: str, event: Any) -> Any:
        return {"service": service, **event}

    shared: list[Any] = [
        name_service,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


@cache
def counter(service: str, name: str, means: str, *labels: str) -> Counter:
    """`headrace_<service>_<name>`, made once; `name` ends in `_total`."""
    return Counter(f"headrace_{service}_{name}", means, labels)


@cache
def gauge(service: str, name: str, means: str, *labels: str) -> Gauge:
    """`headrace_<service>_<name>`, made once; `name` ends in its unit."""
    return Gauge(f"headrace_{service}_{name}", means, labels)


@cache
def histogram(service: str, name: str, means: str, *labels: str) -> Histogram:
    """`headrace_<service>_<name>`, made once; `name` ends in `_seconds`."""
    return Histogram(f"headrace_{service}_{name}", means, labels, buckets=SECONDS_BUCKETS)
