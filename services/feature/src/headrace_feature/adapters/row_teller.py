# SPDX-License-Identifier: Apache-2.0
"""Tells `feature.rows.<view>` the newest row of each entity that a batch changed, at least once.

    r | view's hash | partition | entity's digest
        a change whose row is not known to be delivered, as JSON

A change stands in the batch of its records, and the row is read when it is sent: an entity that
changes again meanwhile has one row to send. A view that is being filled sends none until it can be
read, and one whose topic is missing waits alone, as its changes are durable. An entity of which
nothing can be told gets a record without value, as does an erased one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from functools import lru_cache
from itertools import islice

import structlog

from headrace import topics
from headrace.errors import TOPIC_MISSING, Unavailable
from headrace.feature.v1.feature_events_pb2 import FeatureRowChanged
from headrace.feature_view import StreamView
from headrace_feature.domain.entities import digests
from headrace_feature.domain.views import Catalogue, Layout
from headrace_feature.handlers import OnlineState
from headrace_feature.ports import Folded
from headrace_feature.row_handlers import Change, Row, changes_of, publishing_views, rows_of
from headrace_kit.backoff import Backoff
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Publisher
from headrace_kit.state_store import StateStore
from headrace_kit.telemetry import counter

CHANGED = b"r"
PLACE_BYTES = 20  # of a key, behind the view: partition and entity
CHANGED_END = CHANGED + b"\xff" * (8 + PLACE_BYTES)
PREFIXES_MAX = 1_024
# Rows of one view and partition that are sent before the loop goes on.
SENT_MAX = 8_192
# Changes that are looked at before the loop goes on.
TIDIED_MAX = 1_024

log = structlog.get_logger(__name__)

TOLD = counter("feature", "rows_total", "Feature rows that were delivered.", "view")


class RowTeller:
    """FoldFollower; called by the loop's thread alone, but for `finish_sending` and `ready`.

    `online` reads what is here; `topic_id`: that the positions of a layout are of.
    """

    def __init__(
        self,
        *,
        state: StateStore,
        online: OnlineState,
        publisher: Publisher,
        erased: ErasedEntities,
        topic_id: Callable[[Layout], str],
    ) -> None:
        self._topic_id = topic_id
        self._state, self._online, self._publisher = state, online, publisher
        self._erased, self._sending = erased, threading.Lock()
        self._waiting = True  # there may be changes to tell
        self._added = False
        # No other view of this catalogue has changes, and no entity that was erased by then; and of
        # what is being looked through, what comes next.
        self._tidied: tuple[Catalogue, int] | None = None
        self._tidying: tuple[Catalogue, int] | None = None
        self._tidy_from = CHANGED
        self._missing: dict[str, Backoff] = {}  # by view: when its topic is looked for again

    def ready(self) -> bool:
        """Whether there is a topic for all rows that are to be sent."""
        return not self._missing

    def beside(self, batch: Sequence[Folded]) -> Mapping[bytes, bytes | None]:
        catalogue = self._online.catalogue()
        changes = [
            replace(change, topic_id=self._topic_id(folded.layout))
            for folded in batch
            for change in changes_of(folded, catalogue)
        ]
        self._added = bool(changes)
        return dict(zip(_keys(changes), map(_value, changes), strict=True))

    def stored(self) -> None:
        self._waiting |= self._added

    def send(self) -> None:
        catalogue = self._online.catalogue()
        if (catalogue, self._erased.revision) != self._tidied:
            self._tidy(catalogue)
        if self._waiting:
            # Definitions come by another thread: what is found in a catalogue is read by it.
            online = replace(self._online, catalogue=lambda: catalogue)
            owned = {
                view.name: self._online.store.owned(catalogue.layout_by_view[view.name]) or ()
                for view in publishing_views(catalogue)
            }
            self._missing = {name: each for name, each in self._missing.items() if name in owned}
            more = [
                self._send_of(view, owned[view.name], online)
                for view in publishing_views(catalogue)
            ]
            # Nothing is ours before somebody says so.
            self._waiting = not any(owned.values()) or any(more)

    def _send_of(self, view: StreamView, partitions: Iterable[int], online: OnlineState) -> bool:
        """Whether there is more. A missing topic concerns its view alone, and the fold goes on."""
        missing = self._missing.get(view.name)
        if missing is not None and missing.left_s():
            return True
        try:
            more = [self._send(view, number, online) for number in partitions]
        except Unavailable as err:
            if err.reason != TOPIC_MISSING:
                raise
            delay_s = self._missing.setdefault(view.name, Backoff()).failed()
            log.warning("rows_wait", view=view.name, error=str(err), delay_s=delay_s)
            return True
        self._missing.pop(view.name, None)
        return any(more)

    def idle(self) -> None:
        """What waits is sent by `send`."""

    def finish_sending(self) -> None:
        """By any thread: behind it, no row of an entity that is known to be erased is sent."""
        with self._sending:
            pass

    def _tidy(self, catalogue: Catalogue) -> None:
        """Some changes further each time: those of views that publish no more name entities, and
        nobody is told of them; those of erased entities may be of partitions that others have now.
        """
        if self._tidy_from == CHANGED:
            self._tidying = catalogue, self._erased.revision
        waiting = self._state.scan(self._tidy_from, CHANGED_END)
        some = list(islice(waiting, TIDIED_MAX))
        publishing = {_of_view(view.name): view for view in publishing_views(catalogue)}
        if gone := [key for key, value in some if self._is_gone(key, value, publishing)]:
            self._state.commit({}, gone, {})
        if len(some) < TIDIED_MAX:
            # What was looked at first may be of what has come to be known meanwhile.
            self._tidied, self._tidy_from = self._tidying, CHANGED
        else:
            self._tidy_from = some[-1][0] + b"\0"

    def _is_gone(self, key: bytes, value: bytes, publishing: Mapping[bytes, StreamView]) -> bool:
        view = publishing.get(key[:-PLACE_BYTES])
        return view is None or self._is_erased(view, Change(*json.loads(value)))

    def _is_erased(self, view: StreamView, change: Change) -> bool:
        return self._erased.holds(view.entity[0], change.entity, change.moment_us)

    def _send(self, view: StreamView, partition: int, online: OnlineState) -> bool:
        """Whether there is more."""
        prefix = _prefix(view.name, partition)
        waiting = self._state.scan(prefix, prefix + b"\xff" * 17)
        values = dict(islice(waiting, SENT_MAX))
        if not values:
            return False
        changes = [Change(*json.loads(value)) for value in values.values()]
        try:
            rows = rows_of(view, changes, online)
        except Unavailable:  # it is being filled
            return True
        with self._sending:
            told = {r.change.entity: r for r in rows if not self._is_erased(view, r.change)}
            self._publisher.publish([_message(each, told.get(each.entity)) for each in changes])
        failpoint("feature.loop.rows_sent")
        TOLD.labels(view.name).inc(len(changes))
        self._state.commit({}, values.keys(), {})
        return len(values) == SENT_MAX


def _message(change: Change, row: Row | None) -> Message:
    topic, key = topics.FEATURE_ROWS.of(change.view), change.entity.encode()
    if row is None:
        return Message(topic, key, None)
    event = FeatureRowChanged(
        view=change.view,
        entity=change.entity,
        features=row.features,
        values=row.values.astype("<f4", copy=False).tobytes(),
        from_us=change.moment_us,
        until_us=row.until_us,
        partition=change.partition,
        next_offset=change.next_offset,
        definition_digest=row.definition_digest,
        topic_id=change.topic_id,
    )
    return Message(topic, key, event.SerializeToString())


def _keys(changes: Sequence[Change]) -> list[bytes]:
    entities = digests([(each.entity,) for each in changes]).T.astype(">u8")
    return [
        _prefix(change.view, change.partition) + entity.tobytes()
        for change, entity in zip(changes, entities, strict=True)
    ]


@lru_cache(maxsize=PREFIXES_MAX)
def _prefix(view: str, partition: int) -> bytes:
    return _of_view(view) + partition.to_bytes(4, "big")


def _of_view(view: str) -> bytes:
    return CHANGED + hashlib.blake2b(view.encode(), digest_size=8).digest()


def _value(change: Change) -> bytes:
    return json.dumps(astuple(change)).encode()
