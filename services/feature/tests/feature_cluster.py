# SPDX-License-Identifier: Apache-2.0
"""Several workers on one stream of two partitions, with snapshots in one object store."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from feature_world import HOUR, START, TOPIC, Event, World
from hypothesis import strategies as st

from headrace.errors import Unavailable
from headrace_feature.adapters.conversions import (
    to_note_request,
    to_observations_query,
    to_observations_request,
    to_observations_response,
    to_places,
    to_query,
)
from headrace_feature.adapters.routed_reader import Told
from headrace_feature.adapters.run_copies import RunCopies
from headrace_feature.adapters.run_files import from_bytes, to_bytes
from headrace_feature.adapters.snapshot_restorer import SnapshotRestorer
from headrace_feature.adapters.snapshot_writer import SnapshotWriter
from headrace_feature.adapters.state_snapshots import StateSnapshots
from headrace_feature.correction_handlers import note_served
from headrace_feature.handlers import get_observations
from headrace_kit.kafka import Partition
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import FixedClock, MemoryPublisher, a_batch

PARTITIONS = (0, 1)


@dataclass
class Cluster:
    """A log of two partitions, an object store, and workers that own what they are given."""

    folder: Path
    log: dict[int, list[Event]] = field(default_factory=lambda: {n: [] for n in PARTITIONS})
    objects: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    clock: FixedClock = field(default_factory=lambda: FixedClock(START))
    told: MemoryPublisher = field(default_factory=MemoryPublisher)
    begins: dict[int, int] = field(default_factory=dict)  # what retention left
    topic_ids: dict[str, str] = field(default_factory=dict)  # by stream, and of ERASED_EVENTS
    made: int = 0

    def worker(self) -> "Worker":
        self.made += 1
        return Worker(self, self.folder / str(self.made))

    def stored(self) -> list[str]:
        return self.objects.keys("feature")

    def ends(self, _: str) -> dict[int, int]:
        return {number: len(events) for number, events in self.log.items()}


class Worker:
    """The service's fold, with its snapshots, on a disk of its own."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.owned, self.next = cluster, set(), {}
        self.placed_anew = 0
        self.world = World(
            folder=folder / "runs", owner=False, told=cluster.told, topic_ids=cluster.topic_ids
        )
        self.snapshots = StateSnapshots(cluster.objects, cluster.clock)
        self.restart()

    def restart(self) -> None:
        self.world.restart()
        store = self.world.store
        copies = RunCopies(store)
        self.restorer = SnapshotRestorer(
            store=store,
            copies=copies,
            snapshots=self.snapshots,
            ends=self.cluster.ends,
            begins=lambda _: self.cluster.begins,
            place_anew=self._place_anew,
        )
        self.writer = SnapshotWriter(
            catalogue=lambda: self.world.catalogue,
            store=store,
            copies=copies,
            snapshots=self.snapshots,
            interval_s=1.0,
        )
        self.handler = self.world.loop_handler
        self.handler._restorer = self.restorer
        self.place(*self.owned)

    def place(self, *numbers: int) -> None:
        self.owned |= set(numbers)
        asked = [Partition(TOPIC, number) for number in numbers]
        positions = self.handler.positions(asked)
        while self.handler.restoring():
            self.restorer.fetch_next(0.0)
            positions = self.handler.positions(asked)
        self.next |= {each.number: positions.get(each, 0) for each in asked}

    def _place_anew(self) -> None:
        self.placed_anew += 1

    def give_up(self, number: int) -> None:
        self.owned.discard(number)
        self.handler.forget([Partition(TOPIC, number)])

    def read_on(self, count: int = 1_000) -> None:
        for number in self.owned:
            first = self.next[number]
            events = self.cluster.log[number][first : first + count]
            if events:
                records = [
                    event.record(partition=number, offset=offset)
                    for offset, event in enumerate(events, first)
                ]
                self.handler.handle(a_batch(records))
                self.next[number] = first + len(events)

    def copy(self) -> None:
        for layout in self.world.catalogue.layouts().values():
            self.writer.write(layout)

    def state(self) -> dict[str, bytes]:
        return self.world.state()


class Neighbours:
    """Owners and Peers of workers in one process; those `away` do not answer."""

    def __init__(self, workers):
        self.workers, self.away, self.looked_again = workers, set(), 0

    def address_by_partition(self, stream):
        owners = {n: str(at) for at, each in enumerate(self.workers) for n in each.owned}
        return {number: owners.get(number) for number in PARTITIONS}

    def look_again(self):
        self.looked_again += 1

    def reading(self):
        return nullcontext()

    def ask(self, queries):
        answers = [self._answer(int(at), query) for at, query in queries.items()]
        runs, places = zip(*answers, strict=True)
        return Told(runs, {n: place for each in places for n, place in each.items()})

    def note(self, addresses, query):
        for address in addresses:
            world = self.workers[int(address)].world
            told = to_query(to_note_request(query).query)
            note_served(told, catalogue=world.catalogue, served=world.served, now_us=START)

    def _answer(self, place, query):
        if place in self.away:
            raise Unavailable("SERVICE_UNAVAILABLE", service="feature")
        world = self.workers[place].world
        query = to_observations_query(to_observations_request(query))
        held = get_observations(query, catalogue=world.catalogue, store=world.store)
        answer = to_observations_response(held)
        return from_bytes(to_bytes(held.extract.whole())), to_places(answer, query.partitions)


STEPS = ("read", "idle", "copy", "move", "lose", "restart", "collect")


def take_step(step, which, workers, cluster, draw):
    """What one worker does, or what becomes of it, drawn as a property asks."""
    worker = workers[which]
    if step == "read":
        worker.read_on(draw(st.integers(1, 5)))
    elif step == "idle":
        worker.handler.idle()
    elif step == "copy":
        worker.copy()
    elif step == "restart":
        worker.restart()
    elif step == "lose":
        workers[which] = cluster.worker()
        workers[which].place(*worker.owned)
    elif step == "collect":
        cluster.clock.advance(draw(st.integers(0, 4)) * HOUR)
        for layout in worker.world.catalogue.layouts():
            worker.snapshots.collect(layout)
    else:
        number = draw(st.sampled_from(PARTITIONS))
        owner = next(each for each in workers if number in each.owned)
        owner.give_up(number)
        workers[draw(st.integers(0, 1))].place(number)
