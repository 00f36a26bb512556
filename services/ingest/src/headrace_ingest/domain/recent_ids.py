# SPDX-License-Identifier: Apache-2.0
"""Which event ids a door has made durable lately: a caller who lost an answer asks again soon.

A help, not a guarantee: an id that is forgotten, or came in by another process, is sent on, and the
sink drops it (P2).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import islice

IDS_MAX = 100_000


class RecentIds:
    """The digests of the newest payloads by (stream, event id); any thread may ask."""

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._ids_max = ids_max
        self._digests: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()

    def digest(self, stream: str, event_id: str) -> bytes | None:
        """Of the payload that is durable under this id; None when it is not known."""
        return self._digests.get((stream, event_id))

    def remember(self, stream: str, digests: Mapping[str, bytes]) -> None:
        """These are durable now, by event id."""
        with self._lock:
            known = self._digests
            known.update({(stream, event_id): each for event_id, each in digests.items()})
            for oldest in list(islice(known, max(0, len(known) - self._ids_max))):
                del known[oldest]
