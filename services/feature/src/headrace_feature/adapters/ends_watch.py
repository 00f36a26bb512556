# SPDX-License-Identifier: Apache-2.0
"""Asks Kafka every half second where the records of streams end, and of which topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headrace.errors import TOPIC_MISSING, Unavailable
from headrace_feature.domain.known_until import KnownUntil
from headrace_feature.domain.views import Catalogue, Layout
from headrace_kit.clock import Clock
from headrace_kit.part_thread import LookingPart

ASK_INTERVAL_S = 0.5


class EndsWatch(LookingPart):
    """A Part. `ends`: by partition of a stream, whoever owns it.

    `topic_id`: of a stream's records; `made_again` is told while what is held is of another.
    """

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        ends: Callable[[str], Mapping[int, int]],
        topic_id: Callable[[str], str],
        held_of: Callable[[Layout], str],
        made_again: Callable[[], None],
        known: KnownUntil,
        clock: Clock,
    ) -> None:
        # Nothing is known of the time of a look that fails, and readers are told so.
        super().__init__("ends-watch", interval_s=ASK_INTERVAL_S, waits="ends_unknown")
        self._catalogue, self._ends = catalogue, ends
        self._topic_id, self._held_of, self._made_again = topic_id, held_of, made_again
        self._known, self._clock = known, clock

    def look(self) -> None:
        """Once, of every stream that a view reads; raises Unavailable.

        One whose topic is missing keeps none of the others from being looked at.
        """
        catalogue, missing = self._catalogue(), list[Unavailable]()
        for stream in sorted({layout.stream for layout in catalogue.layouts().values()}):
            try:
                self._look_at(stream, catalogue)
            except Unavailable as err:
                if err.reason != TOPIC_MISSING:
                    raise
                missing.append(err)
        if missing:
            raise missing[0]

    def _look_at(self, stream: str, catalogue: Catalogue) -> None:
        asked_us = self._clock.now_us()
        # The id behind the ends: those of a topic that is made again meanwhile go with a newer one.
        ends, topic_id = self._ends(stream), self._topic_id(stream)
        held_of = {*map(self._held_of, catalogue.layouts_of(stream))}
        if held_of - {"", topic_id}:
            self._made_again()
        self._known.note(stream, asked_us, topic_id, ends)
