# SPDX-License-Identifier: Apache-2.0
"""PredictionLog on Kafka: one record for each row, one publish for each request.

The key is the entity key; a row without one takes its prediction id, so that a retry reaches the
same partition. `ce_id` is the prediction id: consumers drop a repeat by it.
"""

from __future__ import annotations

from headrace import topics
from headrace_inference.adapters.conversions import prediction_events
from headrace_inference.domain.prediction import Prediction
from headrace_kit.kafka import Message, Publisher
from headrace_kit.telemetry import histogram

HEADERS = (
    ("ce_specversion", b"1.0"),
    ("ce_type", b"headrace.inference.v1.PredictionMade"),
    ("ce_source", b"inference"),
)
seconds = histogram("inference", "log_seconds", "Delivering the log records of a request.")


class KafkaPredictionLog:
    """PredictionLog on a Publisher."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def append(self, prediction: Prediction, *, timeout_s: float) -> None:
        topic = topics.INFERENCE_PREDICTIONS.of(prediction.endpoint)
        messages = [
            Message(
                topic,
                (event.entity_key or event.prediction_id).encode(),
                event.SerializeToString(),
                (*HEADERS, ("ce_id", event.prediction_id.encode())),
            )
            for event in prediction_events(prediction)
        ]
        with seconds.time():
            self._publisher.publish(messages, timeout_s=timeout_s)
