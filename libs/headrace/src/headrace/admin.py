# SPDX-License-Identifier: Apache-2.0
"""The admin job: makes Kafka's topics what contracts/topics says. Nobody else creates a topic."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from headrace import topics
from headrace.application import Application
from headrace.errors import HeadraceError, Unavailable
from headrace.feature_view import StreamView
from headrace.topics import Topic

MESSAGE_BYTES_MAX = 1 << 20
REQUEST_TIMEOUT_S = 15.0
EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h, as the services end


def static_topics() -> list[tuple[str, Topic]]:
    """The topics that exist before any application is applied, with their contracts."""
    return [(topic.name, topic) for topic in topics.ALL if not topic.templated]


def application_topics(application: Application) -> list[tuple[str, Topic]]:
    """The topics of an application's streams, endpoints and views, with their contracts."""
    by_stream = (topics.RAW, topics.INGEST_RECORDS)
    by_endpoint = (topics.INFERENCE_REQUESTS, topics.INFERENCE_PREDICTIONS)
    return [
        *((topic.of(stream), topic) for stream in application.streams for topic in by_stream),
        *((topic.of(name), topic) for name in application.endpoints for topic in by_endpoint),
        *((topics.FEATURE_ROWS.of(view.name), topics.FEATURE_ROWS)
          for view in application.views.values()
          if isinstance(view, StreamView) and view.publish_rows),
    ]  # fmt: skip


def create_topics(bootstrap: str, wanted: Sequence[tuple[str, Topic]]) -> list[str]:
    """Creates those that are missing, replicated as the broker says; answers their names.

    Raises Unavailable BROKER_UNAVAILABLE when Kafka does not answer.
    """
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    new = [
        NewTopic(name, num_partitions=topic.partitions, config=_config(topic))
        for name, topic in wanted
    ]
    if not new:
        return []
    try:
        futures = client.create_topics(new, operation_timeout=REQUEST_TIMEOUT_S)
        return _created(futures.items())
    except (KafkaException, TimeoutError) as err:  # one that hangs takes the question
        raise Unavailable("BROKER_UNAVAILABLE", address=bootstrap, error=_said(err)) from err


def _said(error: Exception) -> str:
    """Kafka's own name of what it refused, e.g. TOPIC_AUTHORIZATION_FAILED."""
    return error.args[0].name() if isinstance(error, KafkaException) else type(error).__name__


def _created(futures: Iterable[tuple[str, object]]) -> list[str]:
    created = []
    for name, future in futures:
        try:
            future.result(timeout=REQUEST_TIMEOUT_S)  # type: ignore[attr-defined]
            created.append(name)
        except KafkaException as err:
            if err.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return created


def _config(topic: Topic) -> dict[str, str]:
    hours = topic.retention_h
    return {
        "cleanup.policy": topic.cleanup,
        "retention.ms": str(hours * 3_600_000) if hours else "-1",
        "max.message.bytes": str(MESSAGE_BYTES_MAX + 64 * 1024),
        # When a record became known is told by the brokers: a publisher's clock may be wrong.
        "message.timestamp.type": "LogAppendTime",
    }


def main() -> int:
    """`python -m headrace.admin HOST:PORT`: creates the platform's topics, for containers."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m headrace.admin HOST:PORT\n")
        return EXIT_USAGE
    try:
        created = create_topics(sys.argv[1], static_topics())
    except HeadraceError as err:
        sys.stderr.write(f"{err}\n")
        return EXIT_UNAVAILABLE
    sys.stdout.write(f"{len(created)} topics created: {', '.join(created) or 'all were there'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
