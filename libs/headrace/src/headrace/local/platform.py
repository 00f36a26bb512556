# SPDX-License-Identifier: Apache-2.0
"""The whole platform as processes of one machine: Kafka, stores if wanted, and the six services.

Kafka and the stores come first, then the topics of the contracts and the bucket, then the services,
each told its ports, its peers and its folder by its own settings, which are added to those of the
environment. What the environment says otherwise wins over a default, and is refused where it cannot
hold. Data live in `<data dir>/data`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from headrace import admin
from headrace.client import Addresses
from headrace.errors import Invalid
from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, check_reachable, provide_jars
from headrace.local.objectstore import REGION, S3Server, provide_versitygw
from headrace.local.ports import DEFAULT_PORTS, LOOPBACK
from headrace.local.postgres import PostgresServer
from headrace.local.process import ProcessSpec
from headrace.local.service_process import check_settings, service_process
from headrace.local.settings import given_settings, has_settings
from headrace.local.state import DataFolder, live_state, rss_mb_by_service
from headrace.local.supervisor import START_S_MAX, Report, Stage, Supervisor
from headrace.local.tools import ToolCache
from headrace.whole_file import write_whole

SERVICES = ("registry", "ingest", "feature", "trainer", "inference", "monitor")
PEERS: Mapping[str, Sequence[str]] = {
    "registry": (),
    "ingest": ("registry",),
    "feature": (),
    "trainer": ("feature", "registry"),
    "inference": ("feature", "registry"),
    "monitor": (),
}
KEEP_OBJECTS = ("ingest", "feature", "registry", "inference")
# Feature reads the tables that ingest writes.
LAKE = ("ingest", "feature")
KEEP_TABLES = ("registry", "trainer", "ingest")
BUCKET = "headrace"
S3_URI = f"s3://{BUCKET}/headrace"
# Tells commands where the platform of a data folder answers.
ADDRESSES_FILE = "addresses.json"
STORES_FILE = "stores.json"
BROKER_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class PlatformOptions:
    """What a user may choose; the defaults are `headrace up` without options."""

    data_dir: Path
    tools: ToolCache
    # An existing broker instead of one of our own.
    kafka: str | None = None
    postgres: bool = False
    s3: bool = False
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))
    # Remove what an earlier run left in the data folder, before anything starts.
    fresh: bool = False


class Platform:
    """Builds the processes and runs them under a supervisor."""

    def __init__(self, options: PlatformOptions) -> None:
        self._options = options
        self.folder = DataFolder(options.data_dir)
        self._data = options.data_dir.absolute() / "data"

    @property
    def addresses(self) -> Addresses:
        grpc = {name: self._address(f"{name}-grpc") for name in SERVICES}
        return Addresses(kafka=self._bootstrap, **grpc)

    @property
    def page_uri(self) -> str:
        """The monitor's live page."""
        return f"http://{self._address('monitor-http')}/"

    def supervisor(self, report: Report) -> Supervisor:
        """Runs it; at the first time it also downloads what is needed, and says so."""
        return Supervisor(self._plan, self.folder, report=report)

    @contextmanager
    def running(self, *, progress: Report) -> Iterator[Platform]:
        """Runs for the time of the context, which begins when all are ready."""
        with self.supervisor(progress).running():
            yield self

    def rss_mb_by_service(self) -> dict[str, float]:
        state = live_state(self.folder)
        return rss_mb_by_service(state) if state is not None else {}

    def _plan(self) -> list[Stage]:
        self._refuse_other_settings()
        if self._options.fresh and self._data.exists():
            shutil.rmtree(self._data)
        self.folder.run.mkdir(parents=True, exist_ok=True)
        keep_to_stores(self._data, postgres=self._options.postgres, s3=self._options.s3)
        addresses = json.dumps(asdict(self.addresses), indent=1)
        write_whole(self.folder.run / ADDRESSES_FILE, addresses, mode=0o644)
        stores, environment = self._stores()
        services = [self._service(name, environment) for name in SERVICES]
        check_settings([each for each in services if has_settings(each.name)])
        if self._options.kafka is None:
            stores.insert(0, self._broker())
        else:
            check_reachable(self._options.kafka, deadline_s=BROKER_DEADLINE_S)
        stages = Stage(stores, then=self._prepare_stores), Stage(services)
        return [_patient(stage) for stage in stages]

    def _prepare_stores(self) -> None:
        """Once, where services that begin together would be in each other's way."""
        admin.create_topics(self._bootstrap, admin.static_topics())
        if self._options.s3:
            self._s3().make_bucket(BUCKET)

    def _broker(self) -> ProcessSpec:
        ports = self._options.ports
        broker = KafkaBroker(
            self._data / "kafka",
            ports["kafka"],
            ports["kafka-controller"],
            find_java(),
            provide_jars(self._options.tools),
        )
        return broker.process()

    def _stores(self) -> tuple[list[ProcessSpec], dict[str, dict[str, str]]]:
        """The store processes, and what they add to the environment of services, by name."""
        processes: list[ProcessSpec] = []
        by_service: dict[str, dict[str, str]] = {name: {} for name in SERVICES}
        if self._options.s3:
            server = self._s3()
            processes.append(server.process())
            keys = {"S3_ACCESS_KEY": server.access_key, "S3_SECRET_KEY": server.secret_key}
            for name in KEEP_OBJECTS:
                by_service[name] |= keys
        if self._options.postgres:
            database = self._database()
            processes.append(database.process())
            for name in KEEP_TABLES:
                by_service[name] |= database.settings()
        return processes, by_service

    def _service(self, name: str, added: Mapping[str, Mapping[str, str]]) -> ProcessSpec:
        settings = {**self._objects(name), **self._own_settings(name), **added[name]}
        ports = self._options.ports
        spec = service_process(name, (ports[f"{name}-grpc"], ports[f"{name}-http"]), settings)
        if (rest := ports.get(f"{name}-rest")) is not None:
            spec = replace(spec, ports={**spec.ports, f"{name}-rest": rest})
        return spec

    def _own_settings(self, name: str) -> dict[str, str]:
        """What a service must be told as this says it, for others rely on it; secrets apart."""
        ports = self._options.ports
        doors = [each for each in ("grpc", "http", "rest") if f"{name}-{each}" in ports]
        own = {
            "KAFKA_BOOTSTRAP": self._bootstrap,
            "DATA_DIR": str(self._data / name),
            **{f"{peer.upper()}_ADDRESS": self._address(f"{peer}-grpc") for peer in PEERS[name]},
            **{f"{door.upper()}_PORT": str(ports[f"{name}-{door}"]) for door in doors},
        }
        if self._options.s3 and name in KEEP_OBJECTS:
            endpoint = f"http://{self._address('s3')}"
            own |= {"OBJECT_STORE_URI": S3_URI, "S3_ENDPOINT": endpoint, "S3_REGION": REGION}
        if self._options.postgres and name in KEEP_TABLES:
            own["DATABASE_URI"] = self._database().uri
        return own

    def _objects(self, name: str) -> dict[str, str]:
        """The folder of objects, for a service that keeps some and is told of no other place."""
        if name not in KEEP_OBJECTS:
            return {}
        folder = (self._data / "objects").as_uri()
        return {"OBJECT_STORE_URI": given_settings(name).get("OBJECT_STORE_URI", folder)}

    def _refuse_other_settings(self) -> None:
        """Raises Invalid BAD_SETTING for what the environment says and this would not heed."""
        for name in SERVICES:
            own, given = self._own_settings(name), given_settings(name)
            other = [key for key in own if given.get(key, own[key]) != own[key]]
            if other:
                names = ", ".join(f"{name.upper()}_{key}" for key in other)
                problem = "headrace up says it by its options (--help): leave it out"
                raise Invalid("BAD_SETTING", environment=names, problem=problem)
        told = [{**self._objects(name), **self._own_settings(name)} for name in LAKE]
        if len({each["OBJECT_STORE_URI"].rstrip("/") for each in told}) > 1:
            names = " and ".join(f"{name.upper()}_OBJECT_STORE_URI" for name in LAKE)
            problem = "feature reads where ingest archives: say the same in both"
            raise Invalid("BAD_SETTING", environment=names, problem=problem)

    def _s3(self) -> S3Server:
        program = provide_versitygw(self._options.tools)
        return S3Server(self._data / "s3", self._options.ports["s3"], program)

    def _database(self) -> PostgresServer:
        return PostgresServer(self._data / "postgres", self._options.ports["postgres"])

    @property
    def _bootstrap(self) -> str:
        return self._options.kafka or self._address("kafka")

    def _address(self, port: str) -> str:
        return f"{LOOPBACK}:{self._options.ports[port]}"


def keep_to_stores(data: Path, *, postgres: bool, s3: bool) -> None:
    """A folder stays with the stores of its first start: others would come up empty.

    Raises Invalid BAD_SETTING when this start wants other ones.
    """
    wanted, noted = {"postgres": postgres, "s3": s3}, data / STORES_FILE
    if not noted.exists():
        data.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(wanted), encoding="utf-8")
    made = json.loads(noted.read_text(encoding="utf-8"))
    if made != wanted:
        command = " ".join(["headrace up", *(f"--{name}" for name, used in made.items() if used)])
        problem = f"its data are in other stores, start it with: {command}"
        raise Invalid("BAD_SETTING", folder=data, problem=problem)


def _patient(stage: Stage) -> Stage:
    """Each of its processes may take the time that all together have to be ready."""
    processes = [replace(each, ready_deadline_s=START_S_MAX) for each in stage.processes]
    return replace(stage, processes=processes)
