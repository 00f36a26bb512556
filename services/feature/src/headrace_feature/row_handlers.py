# SPDX-License-Identifier: Apache-2.0
"""Rows of views that publish them: which entities a batch changed, and what their features are now.

A row is read as every answer is, as of the later of event time and known time of what came; the
moment until which it is the answer is the one until which the read would keep it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headrace.application import definition_digest
from headrace.feature_view import StreamView, features_by_name
from headrace_feature.domain.entities import digests, digests_of_names
from headrace_feature.domain.kept_answers import KeptAnswers, Positions
from headrace_feature.domain.observations import EVENT, FLAGS, KNOWN, PARTITION_SHIFT, Ints, Words
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.plans import WindowPart, plan_of
from headrace_feature.domain.views import Catalogue, Layout
from headrace_feature.handlers import OnlineState, get_online_features
from headrace_feature.ports import Folded

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """Records of an entity came, before `next_offset`: its row is due as of `moment_us`.

    `topic_id`: that the offset is of; empty in what an older version left to be sent.
    """

    view: str
    entity: str
    moment_us: int
    partition: int
    next_offset: int
    topic_id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """`values`: [features] float32, the answer from the change's moment to `until_us`, excluded."""

    change: Change
    features: tuple[str, ...]
    values: NDArray[np.float32]
    until_us: int
    definition_digest: str


def publishing_views(catalogue: Catalogue, layout: Layout | None = None) -> list[StreamView]:
    """Those with rows to publish, of a layout alone or of all."""
    return [
        view
        for name, own in catalogue.layout_by_view.items()
        if isinstance(view := catalogue.views[name], StreamView)
        and view.publish_rows
        and (layout is None or own.id == layout.id)
    ]


def changes_of(folded: Folded, catalogue: Catalogue) -> Iterator[Change]:
    """Of every view that publishes rows of this layout, one for each entity of the batch."""
    views, run = publishing_views(catalogue, folded.layout), folded.run
    if not views or not len(run) or folded.observations is None:
        return
    column = folded.observations.texts[views[0].entity[0]]
    known_as = zip(*digests_of_names(column.names).tolist(), strict=True)
    named = dict(zip(known_as, column.texts, strict=True))
    moments_us = np.maximum.reduceat(
        np.maximum(run.matrix[:, EVENT], run.matrix[:, KNOWN]), run.starts[:-1]
    )
    partitions = run.matrix[run.starts[:-1], FLAGS] >> PARTITION_SHIFT
    found = zip(*run.entities.tolist(), strict=True)
    for digest, moment_us, partition in zip(
        found, moments_us.tolist(), partitions.tolist(), strict=True
    ):
        for view in views:
            behind = folded.next_by_partition[partition]
            yield Change(view.name, named[digest], moment_us, partition, behind)


def rows_of(view: StreamView, changes: Sequence[Change], state: OnlineState) -> list[Row]:
    """Of some changes of different entities; none of one whose windows begin before all history.

    Raises Unavailable RESTORING while the view is being filled.
    """
    features = tuple(f"{view.name}:{name}" for name in features_by_name(view))
    (part,) = plan_of(state.catalogue(), features).windows
    floor_us = state.store.floor_us(part.layout)
    changes = [each for each in changes if max(0, each.moment_us - part.longest_us) >= floor_us]
    if not changes:
        return []
    moments_us = np.array([each.moment_us for each in changes], dtype=np.int64)
    entities = [each.entity for each in changes]
    query = GetOnlineFeatures(features, {view.entity[0]: entities}, moments_us)
    spans = _Spans()
    values = get_online_features(query, replace(state, kept=spans)).values
    digest = definition_digest(view)
    names = tuple(features_by_name(view))
    until_us = spans.until_us(digests([(text,) for text in entities]), moments_us)
    return [
        Row(change, names, row, until, digest)
        for change, row, until in zip(changes, values, until_us, strict=True)
    ]


class _Spans(KeptAnswers):
    """Keeps nothing but until when each answer may be kept."""

    def __init__(self) -> None:
        super().__init__()
        self._until_us: dict[tuple[int, int], int] = {}

    def find(self, part: WindowPart, positions: Positions, entities: Words, as_of_us: Ints) -> None:
        return None

    def keep(
        self,
        part: WindowPart,
        positions: Positions,
        entities: Words,
        as_of_us: Ints,
        until_us: Ints,
        values: Floats,
    ) -> None:
        named = zip(*entities.tolist(), strict=True)
        self._until_us |= zip(named, until_us.tolist(), strict=True)

    def until_us(self, entities: Words, moments_us: Ints) -> list[int]:
        """Of one that was not to be kept, the moment itself: it is never the answer."""
        named = zip(*entities.tolist(), strict=True)
        return [
            self._until_us.get(each, moment)
            for each, moment in zip(named, moments_us.tolist(), strict=True)
        ]
