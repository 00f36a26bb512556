# SPDX-License-Identifier: Apache-2.0
"""PositionedHandler and FollowingHandler on completed runs and canary verdicts: one transaction for
each event.

Positions are saved beside the effects, after them: what is read again after a crash, after the
database came back from an older copy, or from a topic made again, is known by its ce_id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace_kit.clock import Clock
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition, Record
from headrace_registry.adapters.conversions import canary_judged, run_completed
from headrace_registry.handlers.rollouts import judge_canary
from headrace_registry.handlers.versions import register_trained
from headrace_registry.ports import Acceptor, ArtifactStore, RegistryStore, Spool


class EventConsumer:
    """Turns completed runs into versions and canary verdicts into moves, each from its topic."""

    def __init__(
        self,
        *,
        runs: str,
        verdicts: str,
        store: RegistryStore,
        artifacts: ArtifactStore,
        acceptor: Acceptor,
        spool: Spool,
        clock: Clock,
    ) -> None:
        self._store, self._artifacts, self._clock = store, artifacts, clock
        self._acceptor, self._spool = acceptor, spool
        self._on_topic = {runs: self._on_run, verdicts: self._on_verdict}

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        self._store.follow_topics(topic_ids)

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        saved = self._store.positions()
        return {each: saved[each] for each in partitions if each in saved}

    def handle(self, records: Sequence[Record]) -> None:
        for record in records:
            self._on_topic[record.topic](record)
        self._save_positions(records)

    def set_aside(self, record: Record) -> None:
        self._save_positions([record])

    def idle(self) -> None:
        """Nothing here waits for time to pass."""

    def _save_positions(self, records: Sequence[Record]) -> None:
        self._store.save_positions({(r.topic, r.partition): r.offset + 1 for r in records})

    def _on_run(self, record: Record) -> None:
        event = run_completed(record)
        if event is not None:
            register_trained(
                event,
                store=self._store,
                artifacts=self._artifacts,
                acceptor=self._acceptor,
                spool=self._spool,
                clock=self._clock,
            )
            failpoint("registry.inbox.committed")

    def _on_verdict(self, record: Record) -> None:
        event = canary_judged(record)
        if event is not None:
            judge_canary(event, store=self._store, clock=self._clock)
            failpoint("registry.inbox.committed")
