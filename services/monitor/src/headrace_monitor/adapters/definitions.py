# SPDX-License-Identifier: Apache-2.0
"""The applied definitions as far as they were read from `registry.definitions`.

The follower's thread writes, all others read: each change replaces the whole table of watches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from headrace.application import Definition
from headrace.applied import read_applied
from headrace_kit.kafka import Record
from headrace_monitor.domain.watch import Watch, watches


class Definitions:
    """What is to be watched now."""

    def __init__(self, *, on_change: Callable[[Mapping[str, Watch]], None]) -> None:
        self._on_change = on_change
        self._definitions: dict[tuple[str, str], Definition] = {}
        self._watches: Mapping[str, Watch] = {}
        self._lock = threading.Lock()

    def take(self, record: Record) -> None:
        """A record of the topic; raises Invalid for what cannot be read: the follower skips it."""
        applied = read_applied(record.key, record.value)
        with self._lock:
            if applied.definition is None:
                self._definitions.pop((applied.kind, applied.name), None)
            else:
                self._definitions[applied.kind, applied.name] = applied.definition
            self._watches = watches(self._definitions)
        self._on_change(self._watches)

    def watches(self) -> Mapping[str, Watch]:
        """By monitor."""
        return self._watches
