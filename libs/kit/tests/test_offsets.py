# SPDX-License-Identifier: Apache-2.0
"""What is asked of a silent Kafka: each question goes with its client, and none is timed out in it.

What the real client does when one is: it ends the process (see `COORDINATOR_TIMEOUT_S`).
"""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import ClassVar

import pytest

from headrace.errors import Unavailable
from headrace_kit import offsets
from headrace_kit.offsets import committed_offsets, group_assignments, group_members

GROUP, TOPIC = "group", "raw.sim.v1"
# What librdkafka takes at most; no wait of ours comes near.
LONGEST_S = 3_600.0


class SilentAdmin:
    """Knows the topics and never finds the coordinator of a group."""

    made: ClassVar[list[SilentAdmin]] = []

    def __init__(self, settings):
        self.timeouts_s = []
        self.made.append(self)

    def describe_topics(self, topics, *, request_timeout):
        answer = Future()
        answer.set_result(SimpleNamespace(topic_id="id", partitions=[SimpleNamespace(id=0)]))
        return {TOPIC: answer}

    def _ask_group(self, asked, *, request_timeout):
        self.timeouts_s.append(request_timeout)
        return {GROUP: Future()}

    describe_consumer_groups = list_consumer_group_offsets = _ask_group


@pytest.fixture
def admins(monkeypatch):
    monkeypatch.setattr(offsets, "AdminClient", SilentAdmin)
    monkeypatch.setattr(offsets, "REQUEST_TIMEOUT_S", 0.01)
    monkeypatch.setattr(SilentAdmin, "made", [])
    offsets._admin.cache_clear()
    yield SilentAdmin.made
    offsets._admin.cache_clear()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: group_members("unused", GROUP, timeout_s=0.01),
        lambda: group_assignments("unused", GROUP, timeout_s=0.01),
        lambda: committed_offsets("unused", GROUP, [TOPIC]),
    ],
)
def test_question_about_a_group_is_given_up_with_its_client_and_not_in_it(admins, ask):
    for _ in range(2):
        with pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"):
            ask()

    assert [[LONGEST_S], [LONGEST_S]] == [each.timeouts_s for each in admins]
