# SPDX-License-Identifier: Apache-2.0
"""An eraser over what a test's world holds in memory."""

from __future__ import annotations

from headrace import topics
from headrace_ingest.adapters.kafka_published_rows import KafkaPublishedRows
from headrace_ingest.adapters.object_erasure_book import ObjectErasureBook
from headrace_ingest.handlers.erasures import Eraser
from headrace_ingest.testing import DroppedTexts
from headrace_kit.testing import MemoryPublisher, MemoryTopicLog


def eraser_of(world, *, models, news, tasks, texts=None) -> Eraser:
    """No view has published any rows."""
    return Eraser(
        contracts=world.contracts,
        retracted=world.retracted,
        datasets=world.book,
        erasures=ObjectErasureBook(world.objects),
        rows=world.rows,
        published=KafkaPublishedRows(MemoryTopicLog(MemoryPublisher()), topics.FEATURE_ROWS),
        models=models,
        news=news,
        tasks=tasks,
        texts=texts or DroppedTexts(),
        clock=world.clock,
    )
