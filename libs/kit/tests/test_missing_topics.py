# SPDX-License-Identifier: Apache-2.0
"""A missing topic is told with what makes it."""

from structlog.testing import capture_logs

from headrace_kit.missing_topics import MissingTopics


def test_missing_topic_is_told_with_what_makes_it_whosever_it_is():
    with capture_logs() as told:
        MissingTopics().note(["ingest.dead-letters.v1"])

    [entry] = told
    assert "Run headrace apply, or headrace down and up" in entry["next"]
