# SPDX-License-Identifier: Apache-2.0
"""One batch of records as one change of the state: it reads its own writes, and all or none of it
is stored, together with the offsets of the records and what is to be sent because of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TypeVar

from pydantic import TypeAdapter

from headrace_monitor.domain.incident import Incident, TrainingRequest
from headrace_monitor.domain.layout import Span
from headrace_monitor.domain.verdict import Verdict
from headrace_monitor.ports import Partition, StateStore

T = TypeVar("T")
Event = Verdict | Incident | TrainingRequest


class Batch:
    """Changes of one batch over the store, in memory until `commit`."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._read: dict[bytes, bytes | None] = {}
        # By first byte, so that a scan of one kind of key does not look at the others.
        self._changed: dict[int, dict[bytes, bytes | None]] = defaultdict(dict)
        self._tails: dict[bytes, list[bytes]] = {}
        self.events: list[Event] = []

    def get(self, key: bytes) -> bytes | None:
        self._join_tail(key)
        changed = self._changed[key[0]]
        if key in changed:
            return changed[key]
        if key not in self._read:
            self._read[key] = self._store.get(key)
        return self._read[key]

    def load(self, keys: Iterable[bytes]) -> None:
        """Reads many values at once, so that each `get` after it costs no transaction."""
        absent = [key for key in set(keys) if key not in self._read]
        self._read.update(zip(absent, self._store.get_many(absent), strict=True))

    def scan(self, span: Span) -> list[tuple[bytes, bytes]]:
        first, last_excluded = span
        for key in [key for key in self._tails if first <= key < last_excluded]:
            self._join_tail(key)
        found = dict(self._store.scan(first, last_excluded))
        for kind in range(first[0], last_excluded[0] + 1):
            for key, value in self._changed.get(kind, {}).items():
                if first <= key < last_excluded:
                    if value is None:
                        found.pop(key, None)
                    else:
                        found[key] = value
        return sorted(found.items())

    def put(self, key: bytes, value: bytes) -> None:
        self._tails.pop(key, None)
        self._changed[key[0]][key] = value

    def append(self, key: bytes, rows: bytes) -> None:
        """Adds to a value; joined only when it is read, so that many additions are one copy."""
        self._tails.setdefault(key, []).append(rows)

    def delete(self, key: bytes) -> None:
        self._tails.pop(key, None)
        self._changed[key[0]][key] = None

    def read(self, form: TypeAdapter[T], key: bytes) -> T | None:
        """The value in the JSON form of its type."""
        data = self.get(key)
        return None if data is None else form.validate_json(data)

    def write(self, form: TypeAdapter[T], key: bytes, value: T) -> None:
        self.put(key, form.dump_json(value))

    def emit(self, event: Event) -> None:
        """To be sent when, and only when, this batch is stored."""
        self.events.append(event)

    @property
    def changed(self) -> bool:
        return any(self._changed.values()) or bool(self._tails)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        self.load(self._tails)
        for key in list(self._tails):
            self._join_tail(key)
        changed = list(chain.from_iterable(kind.items() for kind in self._changed.values()))
        puts = {key: value for key, value in changed if value is not None}
        deletes = [key for key, value in changed if value is None]
        self._store.commit(puts, deletes, offsets)

    def _join_tail(self, key: bytes) -> None:
        tail = self._tails.pop(key, None)
        if tail is not None:
            self.put(key, b"".join((self.get(key) or b"", *tail)))
