# SPDX-License-Identifier: Apache-2.0
"""A small world: two streams with views on them, and events."""

import json
import tempfile
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from headrace.application import Recipe, Stream
from headrace.entity import text_of
from headrace.feature_view import RequestView, StreamView
from headrace.ingest.v1.erasures_pb2 import EventsErased
from headrace_feature.adapters.correction_teller import CorrectionTeller
from headrace_feature.adapters.duckdb_workbench import AS_OF, Workbench
from headrace_feature.adapters.erased_events_reader import ErasedEventsReader
from headrace_feature.adapters.fold_followers import FoldFollowers
from headrace_feature.adapters.memory_archive import ASKED_US, MemoryArchive
from headrace_feature.adapters.memory_restorer import NothingToRestore
from headrace_feature.adapters.record_folder import RecordFolder
from headrace_feature.adapters.row_teller import RowTeller
from headrace_feature.adapters.run_eraser import RunEraser
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.adapters.run_store import RunStore
from headrace_feature.domain.freshness import DelayHistogram
from headrace_feature.domain.kept_answers import KeptAnswers
from headrace_feature.domain.known_until import KnownUntil
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.observations import FLAGS, PARTITION_SHIFT, AnyRun, Run, merged, whole
from headrace_feature.domain.online_query import FeatureRows, GetOnlineFeatures
from headrace_feature.domain.served_rows import ServedRows
from headrace_feature.domain.views import Catalogue, Layout
from headrace_feature.handlers import OnlineState, get_online_features
from headrace_feature.offline_handlers import (
    Asker,
    CreateTrainingSet,
    GetHistoricalFeatures,
    create_training_set,
    get_historical_features,
    historical_snapshots,
    training_snapshots,
)
from headrace_feature.ports import Restorer
from headrace_feature.skew_handlers import check_skew, skew_snapshots
from headrace_kit.erased_entities import Entity, ErasedEntities, entity_key_digest, entity_sha256
from headrace_kit.kafka import Message, Partition
from headrace_kit.state_store import MemoryStateStore
from headrace_kit.testing import (
    FixedClock,
    MemoryAttemptLog,
    MemoryPublisher,
    MemoryTopicLog,
    a_batch,
    a_record,
)

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
START = 1_357_000_000_000_000
ASKER = Asker(ASKED_US)
ERASED_EVENTS = "ingest.erased-events.v1"
TOPIC, AIR_TOPIC = "ingest.records.rides.v1", "ingest.records.air.v1"

RIDES = {
    "kind": "stream",
    "name": "rides",
    "description": "Rides.",
    "owner": "tests",
    "key": "zone",
    "id": "ride_id",
    "event_time": "at",
    "known_time": "known_at",
    "lateness_allowed": "1h",
    "columns": {
        "ride_id": {"type": "string"},
        "zone": {"type": "string"},
        "kind": {"type": "int64"},
        "riders": {"type": "int64"},
        "fare": {"type": "float64"},
        "driver": {"type": "string"},
        "night": {"type": "bool"},
        "at": {"type": "timestamp"},
        "known_at": {"type": "timestamp"},
    },
}
ASKS = {
    **RIDES,
    "name": "asks",
    "key": "ask_id",
    "id": "ask_id",
    "columns": {
        "ask_id": {"type": "string"},
        "zone": {"type": "string"},
        "kind": {"type": "int64"},
        "night": {"type": "bool"},
        "due": {"type": "timestamp"},
        "distance": {"type": "float64"},
        "late_by": {"type": "int64"},
        "at": {"type": "timestamp"},
        "known_at": {"type": "timestamp"},
    },
}
AIR = {
    **RIDES,
    "name": "air",
    "id": "air_id",
    "columns": {
        "air_id": {"type": "string"},
        "zone": {"type": "string"},
        "temp": {"type": "float64"},
        "at": {"type": "timestamp"},
        "known_at": {"type": "timestamp"},
    },
}
# The third column that rows ask by says what their kind does.
NIGHT_BY_KIND = {1: True, 2: False, None: None}
AGGREGATES = ("sum", "mean", "min", "max", "last")


def a_window_view(name: str, entity: tuple[str, ...], *windows: str) -> StreamView:
    features = {f"count_{w}": {"aggregate": "count", "window": w} for w in windows}
    for window in windows:
        for aggregate in AGGREGATES:
            for column in ("riders", "fare"):
                features[f"{aggregate}_{column}_{window}"] = {
                    "aggregate": aggregate,
                    "column": column,
                    "window": window,
                }
    return a_view(features, name=name, entity=entity)


def a_view(features: dict[str, object], **more: object) -> StreamView:
    needed = {"kind": "view", "name": "zone", "description": "Rides.", "stream": "rides"}
    document = {**needed, "entity": ("zone",), "features": features, **more}
    return StreamView.model_validate(document)


VIEWS = (
    a_window_view("zone", ("zone",), "1h", "3h"),
    a_window_view("zone-kind", ("zone", "kind"), "90m"),
)


def a_request_view(features: dict[str, object]) -> RequestView:
    document = {"kind": "view", "name": "ask", "description": "The question."}
    return RequestView.model_validate({**document, "features": features})


REQUEST_VIEW = a_request_view(
    {
        "hour": {"transform": "hour", "column": "due", "timezone": "America/New_York"},
        "weekday": {"transform": "weekday", "column": "due", "timezone": "America/New_York"},
        "distance": {"transform": "value", "column": "distance"},
        "haul": {"transform": "bucketize", "column": "distance", "boundaries": [1, 2.5]},
        "zone": {"transform": "category", "column": "zone", "categories": ["a", "b"]},
    }
)
WINDOW_FEATURES = tuple(f"{view.name}:{name}" for view in VIEWS for name in view.features)
REQUEST_FEATURES = tuple(f"ask:{name}" for name in REQUEST_VIEW.features)
RECIPE = Recipe.model_validate(
    {
        "kind": "recipe",
        "name": "late",
        "description": "Will it be late?",
        "model": "late",
        "spine": {"stream": "asks", "entity_key": "ask_id", "time": "due", "offset": "-10m"},
        "label": {
            "stream": "ends",
            "key": "ask_id",
            "column": "late_by",
            "above": 5,
            "absent_after": "2h",
        },
        "features": [*WINDOW_FEATURES, *REQUEST_FEATURES],
        "network": {
            "hidden": [8],
            "dropout": 0,
            "learning_rate": 0.01,
            "weight_decay": 0,
            "batch_rows": 8,
            "epochs_max": 1,
            "members": 1,
            "embedding_size": 2,
            "seed": 1,
        },
        "gate": {"holdout": "1d", "auc_min": 0.5, "champion_margin": 0.1},
    }
)


def a_catalogue(*views: StreamView | RequestView) -> Catalogue:
    streams = (RIDES, AIR, ASKS, {**ASKS, "name": "ends"})
    catalogue = Catalogue()
    for document in streams:
        catalogue = catalogue.with_definition(Stream.model_validate(document))
    for view in views or (*VIEWS, REQUEST_VIEW):
        catalogue = catalogue.with_definition(view)
    return catalogue.with_definition(RECIPE)


@dataclass(frozen=True)
class Event:
    """One ride."""

    id: str
    at: int
    known: int
    zone: str | None = "a"
    kind: int | None = 1
    riders: int | None = 1
    fare: float | None = 1.0
    driver: str | None = None
    night: bool | None = None

    def value(self) -> dict[str, object]:
        return {
            "ride_id": self.id,
            "zone": self.zone,
            "kind": self.kind,
            "riders": self.riders,
            "fare": self.fare,
            "driver": self.driver,
            "night": self.night,
            "at": self.at,
            "known_at": self.known,
        }

    def record(self, *, partition: int = 0, offset: int = 0, published_ms: int = 0):
        value = published(self, self.value(), published_ms)
        return a_record(value, topic=TOPIC, partition=partition, offset=offset)

    def row(self) -> dict[str, object]:
        return archived(self.id, self.at, self.known, self.value())


@dataclass(frozen=True)
class Air:
    """One observation of the air over a zone."""

    id: str
    at: int
    known: int
    zone: str | None = "a"
    temp: float | None = 1.0

    def value(self) -> dict[str, object]:
        own = {"air_id": self.id, "zone": self.zone, "temp": self.temp}
        return {**own, "at": self.at, "known_at": self.known}

    def record(self, *, partition: int = 0, offset: int = 0):
        value = published(self, self.value(), 0)
        return a_record(value, topic=AIR_TOPIC, partition=partition, offset=offset)

    def row(self) -> dict[str, object]:
        return archived(self.id, self.at, self.known, self.value())


def published(event: Event | Air, value: dict[str, object], published_ms: int) -> bytes:
    """As ingest writes it."""
    envelope = {"_id": event.id, "_event_us": event.at, "_known_us": event.known}
    return json.dumps({**envelope, "_published_ms": published_ms, **value}).encode()


def tell_erased(
    told: MemoryPublisher, events: Sequence[Event], column: str, value: str, at_us: int
) -> None:
    """As ingest does for an entity and its events, before these leave the archive."""
    message = EventsErased(
        stream="rides",
        column=column,
        entity_sha256=entity_sha256(column, value),
        erased_at_us=at_us,
        event_ids=[event.id for event in events],
        event_times_us=[event.at for event in events],
        entity_key_digest=bytes.fromhex(entity_key_digest(value)),
    )
    told.publish([Message(ERASED_EVENTS, None, message.SerializeToString())])


def to_erased_entity(message: Message) -> Entity:
    told = EventsErased.FromString(message.value)
    return Entity(told.column, told.entity_sha256, told.erased_at_us)


def archived(id: str, at: int, known: int, value: dict[str, object]) -> dict[str, object]:
    return {"_event_id": id, "_event_time_us": at, "_known_time_us": known, **value}


@dataclass
class World:
    """The service's fold and reads on an in-memory store, fed like Kafka feeds it."""

    catalogue: Catalogue = field(default_factory=a_catalogue)
    state_store: MemoryStateStore = field(default_factory=MemoryStateStore)
    folder: Path = Path("no-large-run-is-expected")
    folder_bytes_max: int = 1 << 30
    keep: int = 3_650 * DAY
    offsets: dict[int, int] = field(default_factory=dict)
    restorer: Restorer = field(default_factory=NothingToRestore)
    owner: bool = True  # of all partitions
    served_rows_max: int = 1_000
    attempt_log: MemoryAttemptLog = field(default_factory=MemoryAttemptLog)
    told: MemoryPublisher = field(default_factory=MemoryPublisher)  # which events were erased
    topic_ids: dict[str, str] = field(default_factory=dict)  # by stream, and of ERASED_EVENTS

    def __post_init__(self) -> None:
        self.freshness, self.clock = DelayHistogram(), FixedClock(START)
        self.publisher = MemoryPublisher()
        self.restart()

    def events_are_out(self, entities: Collection[Entity]) -> None:
        self.teller.forget(self.erased)
        self.entities_out += [each.sha256 for each in entities]

    def erased_end(self) -> LogPlace:
        return LogPlace(len(self.told.published), self.topic_ids.get(ERASED_EVENTS, "1st"))

    def restart(self) -> None:
        self.kept, self.known, self.erased = KeptAnswers(), KnownUntil(), ErasedEntities()
        self.store = RunStore(self.state_store, self.folder, folder_bytes_max=self.folder_bytes_max)
        self.served = ServedRows(rows_max=self.served_rows_max, begun_us=self.clock.now_us())
        self.teller = CorrectionTeller(
            state=self.state_store,
            observations=self.store,
            served=self.served,
            publisher=self.publisher,
        )
        self.rows = RowTeller(
            state=self.state_store,
            online=self.online(),
            publisher=self.publisher,
            erased=self.erased,
            topic_id=self.store.topic_id,
        )
        self.entities_out: list[str] = []  # whose events have left
        self.eraser = RunEraser(
            catalogue=lambda: self.catalogue,
            store=self.store,
            changed=self.forget_answers,
            over=self.events_are_out,
        )
        self.reader = ErasedEventsReader(
            log=MemoryTopicLog(self.told),
            partition=Partition(ERASED_EVENTS, 0),
            end=lambda: LogPlace(
                len(self.told.published), self.topic_ids.get(ERASED_EVENTS, "1st")
            ),
            erased=self.erased,
            eraser=self.eraser,
            store=self.store,
        )
        self.reader.begin()
        for message in self.told.published:  # as the table of erased entities has them
            self.erased.take(to_erased_entity(message))
        self.loop_handler = RecordFolder(
            catalogue=lambda: self.catalogue,
            store=self.store,
            tend=self.eraser.tend,
            erased=self.erased,
            restorer=self.restorer,
            topic_id=lambda stream: self.topic_ids.get(stream, "first"),
            made_again=self.forget_answers,
            kept=self.kept,
            clock=self.clock,
            keep_us=self.keep,
            freshness=self.freshness,
            follower=FoldFollowers(self.teller, self.rows),
            attempt_log=self.attempt_log,
        )
        if self.owner:
            self.place()

    def place(self) -> dict[Partition, int]:
        rides = [Partition(TOPIC, number) for number in range(2)]
        return self.loop_handler.positions([*rides, Partition(AIR_TOPIC, 0)])

    def fold(self, *events: Event | Air, partition: int = 0) -> None:
        """Of one stream."""
        counted = -1 if isinstance(next(iter(events), None), Air) else partition
        first = self.offsets.get(counted, 0)
        self.offsets[counted] = first + len(events)
        numbered = enumerate(events, start=first)
        self.loop_handler.handle(
            a_batch([e.record(partition=partition, offset=o) for o, e in numbered])
        )

    def forget_answers(self, layout: Layout) -> None:
        self.kept.begin_anew(layout, self.store.next_by_partition(layout))

    def follow_erasures(self) -> None:
        """Until all that was told is out."""
        self.reader.look()
        while self.eraser.busy or self.store.merging:
            self.loop_handler.idle()

    def state(self) -> dict[str, bytes]:
        """By view, what its runs hold together: one run, of one partition."""
        return {
            view: to_bytes(_of_one_partition(self.store.runs(layout), self.store.floor_us(layout)))
            for view, layout in self.catalogue.layout_by_view.items()
            if self.store.runs(layout)
        }

    def read(self, rows, features=WINDOW_FEATURES, **columns) -> np.ndarray:
        """rows: (zone, kind, as_of)."""
        zones = [zone or "" for zone, _, _ in rows]
        kinds = ["" if kind is None else str(kind) for _, kind, _ in rows]
        nights = [text_of(NIGHT_BY_KIND.get(kind)) or "" for _, kind, _ in rows]
        moments = [as_of for _, _, as_of in rows]
        asked = {"zone": zones, "kind": kinds, "night": nights} if rows else {}
        return self.read_columns(features, asked | columns, moments)

    def read_columns(self, features, columns, moments) -> np.ndarray:
        return self.ask(features, columns, moments).values

    def ask(self, features, columns, moments=(), **options) -> FeatureRows:
        moments = np.array(moments, dtype=np.int64)
        query = GetOnlineFeatures(tuple(features), columns, moments, **options)
        return get_online_features(query, self.online())

    def online(self) -> OnlineState:
        return OnlineState(lambda: self.catalogue, self.store, self.kept, self.known, self.clock)

    def training_set(self, rides, asks, ends, until, *, airs=(), **bench):
        archive = MemoryArchive({"rides": rides, "asks": asks, "ends": ends, "air": airs})
        command = CreateTrainingSet("late", until)
        with a_bench(**bench) as opened:
            made = made_training_set(command, self.catalogue, archive, opened)
            return TrainingSet.of(made)

    def historical(self, rides, rows, features=WINDOW_FEATURES, *, airs=(), bench=None, **query):
        """rows: (zone, kind, as_of)."""
        zones, kinds, moments = zip(*rows, strict=True) if rows else ((), (), ())
        batch = pa.record_batch(
            {
                "zone": pa.array(zones, pa.string()),
                "kind": pa.array(kinds, pa.int64()),
                "night": pa.array(map(NIGHT_BY_KIND.get, kinds), pa.bool_()),
                AS_OF: pa.array(moments, pa.int64()),
            }
        )
        asked = GetHistoricalFeatures(tuple(features), **query)
        archive = MemoryArchive(
            {"rides": [ride.row() for ride in rides], "air": [air.row() for air in airs]}
        )
        with a_bench(**(bench or {})) as opened:
            stored = opened.stored([batch], batch.schema)
            made = made_historical(asked, stored, self.catalogue, archive, opened)
            return _joined(made, len(features))[1]


def made_training_set(command, catalogue, archive, bench):
    """As the service does: the archive is waited for, then joined."""
    known = training_snapshots(command, ASKER, catalogue=catalogue, archive=archive)
    return create_training_set(command, catalogue=catalogue, snapshots=known, bench=bench)


def made_historical(query, rows, catalogue, archive, bench):
    known = historical_snapshots(query, ASKER, catalogue=catalogue, archive=archive)
    return get_historical_features(query, rows, catalogue=catalogue, snapshots=known, bench=bench)


def checked_skew(sample, world, archive, bench):
    known = skew_snapshots(sample, catalogue=world.catalogue, archive=archive, gone=lambda: False)
    return check_skew(
        sample,
        catalogue=world.catalogue,
        snapshots=known,
        bench=bench,
        read=lambda query: world.read_columns(query.features, query.columns, query.as_of_us),
    )


@contextmanager
def a_bench(*, disk_bytes_max=1 << 30, observations_max=1_000_000):
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(
            Path(folder) / "bench", disk_bytes_max=disk_bytes_max, observations_max=observations_max
        )
        with bench.opened() as opened:
            yield opened


@dataclass(frozen=True)
class TrainingSet:
    """All that was made, at once."""

    features: tuple[str, ...]
    entity_keys: list[str]
    as_of_us: np.ndarray
    label: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, made) -> "TrainingSet":
        rows, values = _joined(made, len(made.features))
        return cls(
            made.features,
            rows["entity_key"].to_pylist(),
            rows[AS_OF].to_numpy(),
            rows["label"].to_numpy(),
            values,
        )


def _joined(made, width):
    pairs = [(batch.data, answers) for batch, answers in made.answered]
    values = [answers for _, answers in pairs] or [np.empty((0, width), np.float32)]
    empty = {
        "entity_key": pa.array([], pa.string()),
        AS_OF: pa.array([], pa.int64()),
        "label": pa.array([], pa.float32()),
    }
    rows = pa.Table.from_batches([data for data, _ in pairs]) if pairs else pa.table(empty)
    return rows, np.concatenate(values)


def _of_one_partition(runs: Sequence[AnyRun], floor: int) -> Run:
    moved = []
    for run in map(whole, runs):
        matrix = run.matrix.copy()
        matrix[:, FLAGS] &= (1 << PARTITION_SHIFT) - 1
        moved.append(Run.of(run.entities, run.starts, matrix, run.ids))
    return merged(moved, floor_us=floor)


def bits(answers: np.ndarray) -> list[list[bytes]]:
    """Rows of float32 as bytes; every NaN is one."""
    clean = np.where(np.isnan(answers), np.float32("nan"), answers).astype("<f4")
    return [[value.tobytes() for value in row] for row in clean]


FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, -0.1, 1e16, -1e16, 1.0, 5e-324, 1e308, -1e308]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-100, 100),
)
INTS = st.one_of(st.integers(-50, 50), st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1]))
MOMENTS = st.one_of(
    st.integers(0, 12).map(lambda half: START + half * HOUR // 2),
    st.integers(0, 6 * HOUR).map(lambda us: START + us),
)
LAGS = st.sampled_from([0, 0, 0, 1, -1, 10 * MINUTE, HOUR, 90 * MINUTE, 4 * HOUR, -HOUR])
DRIVERS = st.sampled_from(["ada", "bob", "Bob", "", "\u00e5sa", None])
NIGHTS = st.sampled_from([True, False, None])
ZONES, KINDS = st.sampled_from(["a", "b", None]), st.sampled_from([1, 2, None])


@st.composite
def event_lists(draw, events_max=25):
    values = st.tuples(ZONES, KINDS, st.none() | INTS, st.none() | FLOATS, DRIVERS, NIGHTS)
    drawn = draw(st.lists(st.tuples(MOMENTS, LAGS, values), max_size=events_max))
    order = draw(st.permutations(range(len(drawn))))
    return [
        Event(f"ride-{number}", at, at + lag, *values)
        for number, (at, lag, values) in zip(order, drawn, strict=True)
    ]


@st.composite
def twin_lists(draw, events):
    """Some of the events again, of one known time and with other values."""
    twins = draw(st.lists(st.sampled_from(events), max_size=6, unique=True)) if events else []
    values = st.fixed_dictionaries(
        {"riders": st.none() | INTS, "fare": st.none() | FLOATS, "driver": DRIVERS}
    )
    return [replace(event, **draw(values)) for event in twins]


TEMPS = st.none() | st.sampled_from([0.0, 0.1, -7.25, 1e16, 5e-324])
OVER = st.sampled_from(["a", "b", "bob", "", None])


@st.composite
def air_lists(draw, airs_max=15):
    drawn = draw(st.lists(st.tuples(MOMENTS, LAGS, OVER, TEMPS), max_size=airs_max))
    return [Air(f"air-{n}", at, at + lag, *rest) for n, (at, lag, *rest) in enumerate(drawn)]
