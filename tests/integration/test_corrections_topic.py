# SPDX-License-Identifier: Apache-2.0
"""The newest corrections are read from a real topic, each once."""

from __future__ import annotations

import uuid

import pytest

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.client import Addresses, Client
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected
from headrace_kit.kafka import Message

pytestmark = pytest.mark.integration


def test_newest_corrections_are_read_each_once(kafka_server, publisher):
    create_topics(kafka_server, static_topics())
    view = f"view-{uuid.uuid4().hex[:8]}"
    told = [FeaturesCorrected(correction_id=f"{view}-{n}", view=view) for n in range(5)]
    for event in (*told, told[-1]):  # a repeat
        value = event.SerializeToString()
        publisher.publish([Message(topics.FEATURE_CORRECTIONS.name, view.encode(), value)])

    client = Client(Addresses(kafka=kafka_server))
    assert told == [each for each in client.corrections(newest=1_000) if each.view == view]
    assert told[3:] == client.corrections(newest=3)
