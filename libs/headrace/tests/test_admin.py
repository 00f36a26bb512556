# SPDX-License-Identifier: Apache-2.0
"""The admin job tells what kept it from its topics in one line, and ends as services do."""

from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace import admin


@pytest.mark.parametrize(
    ("met", "said"),
    [
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), "error=_TRANSPORT"),
        (
            KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)),
            "error=TOPIC_AUTHORIZATION_FAILED",
        ),
        (TimeoutError(), "error=TimeoutError"),
    ],
)
def test_broker_that_is_away_is_told_with_what_to_do(monkeypatch, capsys, met, said):
    class Away:
        def __init__(self, config):
            """Kafka's client is made without a call."""

        def create_topics(self, new, **_):
            future = Future()
            future.set_exception(met)
            return {new[0].topic: future}

    monkeypatch.setattr(admin, "AdminClient", Away)
    monkeypatch.setattr("sys.argv", ["admin", "kafka:9092"])

    assert 69 == admin.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("BROKER_UNAVAILABLE: ")
    assert {"address=kafka:9092", said} == set(line.rpartition("(")[2].strip(")").split(", "))
