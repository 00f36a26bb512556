# SPDX-License-Identifier: Apache-2.0
"""Takes erased events out of the runs that are held, a bounded step at a time.

What is folded leaves them out from the moment that their entity is known. What was folded before
that is rewritten here, by rounds: a round is a stretch of the log of erased events, and when it is
over none of its events is in any run, which is durable together with the place that the log was
followed to. A crash in between leaves the place behind, and the round is gone through again.
No merge begins while a round is waiting or on, and no round while runs are merged: each sees the
other's end. But small runs that take too much memory are merged at once, between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass

import structlog

from headrace_feature.adapters.run_store import RunStore
from headrace_feature.adapters.run_tiers import HeldRun
from headrace_feature.domain.erased_events import ErasedEvents, without
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.observations import Run
from headrace_feature.domain.views import Catalogue, Layout
from headrace_kit.erased_entities import Entity
from headrace_kit.failpoints import failpoint

SCAN_ROWS = 1 << 18
NOTHING = ErasedEvents.of([], [])

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The events of the log from `begin` to `end`, by stream, and the entities they spoke of."""

    begin: int
    end: LogPlace
    entities: Collection[Entity]
    events_by_stream: Mapping[str, ErasedEvents]


class RunEraser:
    """`tend` is the loop's; another thread asks `lowest` and offers one round after the other.

    `changed`: called for a layout that lost events; `over`: at the end of each round, for its
    entities.
    """

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        store: RunStore,
        changed: Callable[[Layout], None],
        over: Callable[[Collection[Entity]], None],
    ) -> None:
        self._catalogue, self._store = catalogue, store
        self._changed, self._over = changed, over
        self._offered: Round | None = None
        self._steps: Iterator[None] | None = None

    def offer(self, found: Round) -> None:
        """The next round; only when there is none."""
        self._offered = found

    @property
    def busy(self) -> bool:
        """Whether a round is waiting, or on."""
        return self._offered is not None

    def lowest(self) -> int | None:
        """How far every layout is followed to; None while none holds anything."""
        places = map(self._store.erased_to, self._catalogue().layouts().values())
        return min((place.offset for place in places if place is not None), default=None)

    def tend(self) -> None:
        """A bounded step of a round, else of merging."""
        if self._offered is not None and self._steps is None and not self._store.merging:
            self._steps = self._erase(self._offered)
        if self._steps is None or self._store.merging:
            self._store.tend(begin=not self.busy)
        else:
            self._store.free_memory()
            self._erase_on(self._steps)

    def _erase_on(self, steps: Iterator[None]) -> None:
        """A step; the round begins anew behind one that failed."""
        self._steps = None
        if next(steps, self) is self:
            self._offered = None
        else:
            self._steps = steps

    def _erase(self, found: Round) -> Iterator[None]:
        for layout in self._catalogue().layouts().values():
            if self._concerns(found, layout):
                yield from self._erase_of(layout, found)
                yield
        self._over(found.entities)
        self._store.know_erased(found.end)

    def _concerns(self, found: Round, layout: Layout) -> bool:
        place = self._store.erased_to(layout)
        if place is None or place.log_id not in ("", found.end.log_id):
            return False
        return found.begin <= place.offset < found.end.offset

    def _erase_of(self, layout: Layout, found: Round) -> Iterator[None]:
        events = found.events_by_stream.get(layout.stream, NOTHING).in_layout(layout)
        rewritten = yield from self._erase_large(layout, events)
        failpoint("feature.erase.half")
        held = self._store.content(layout).held
        small = {each.number: each.run for each in held if isinstance(each.run, Run)}
        runs = {number: without(run, events) for number, run in small.items()}
        changed = {number: runs[number] for number, run in small.items() if runs[number] is not run}
        # Runs that were adopted meanwhile may be followed less far than this round begins.
        end = found.end if self._concerns(found, layout) else None
        self._store.replace_small(layout, changed, end)
        failpoint("feature.erase.done")
        if changed or rewritten:
            log.info("erased", stream=layout.stream, runs=len(changed) + rewritten)
            self._changed(layout)

    def _erase_large(self, layout: Layout, events: ErasedEvents) -> Generator[None, None, int]:
        """Until a look at each large run has found none of them; how many were rewritten."""
        clean: set[int] = set()
        rewritten = 0
        while events and (held := self._doubtful(layout, clean)) is not None:
            dirty = yield from _look(held, events)
            if not dirty:
                clean.add(held.number)
            elif held in self._store.content(layout).held:
                self._store.rewrite(layout, held, lambda piece: without(piece, events))
                rewritten += 1
                yield  # until it is made
        return rewritten

    def _doubtful(self, layout: Layout, clean: set[int]) -> HeldRun | None:
        held = self._store.content(layout).held
        return next((each for each in held if each.large and each.number not in clean), None)


def _look(held: HeldRun, events: ErasedEvents) -> Generator[None, None, bool]:
    """Whether the run holds any of them."""
    for first in range(0, len(held.run), SCAN_ROWS):
        yield
        if len(events.rows(held.run, first, first + SCAN_ROWS)):
            return True
    return False
