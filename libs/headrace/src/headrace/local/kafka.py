# SPDX-License-Identifier: Apache-2.0
"""A real Kafka broker from pip packages alone: one KRaft node on loopback, small in memory.

The jars are those of `kafka-4.3.1.lock`, each checked against its sha256; the lock is what jgo's
resolver says for the two coordinates below, and a test holds them equal. Tuned for a desk: about
190 MB resident under load, where the defaults take 360 MB.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.errors import Unavailable
from headrace.local.java import Java
from headrace.local.ports import LOOPBACK, listening
from headrace.local.process import ProcessSpec, error_line
from headrace.local.settings import child_environment
from headrace.local.tools import ToolCache

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
# Kafka's published dependencies name no log writer; without one its warnings are lost.
LOG_WRITER = "org.slf4j:slf4j-simple:1.7.36"
LOCK = Path(__file__).with_name("kafka-4.3.1.lock")

DOWNLOADS_AT_ONCE = 8
DOWNLOAD_TRIES_MAX = 3
DOWNLOAD_TIMEOUT_S = 30
FORMAT_TIMEOUT_S = 60.0
MESSAGE_BYTES_MAX = 2 * 1024 * 1024
# From here on Java warns of what Kafka's libraries do, unless it is allowed.
WARNS_SINCE = 24


@dataclass(frozen=True, slots=True)
class Jar:
    """A Maven artifact and the sha256 of its jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """The name of the jar."""
        return f"{self.artifact}-{self.version}.jar"


@dataclass(frozen=True, slots=True)
class KafkaReady:
    """Ready when the broker lists its topics."""

    bootstrap: str

    def __call__(self, timeout_s: float) -> bool:
        """Asks once, with a client of its own."""
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            client.list_topics(timeout=timeout_s)
        except KafkaException:
            return False
        return True


@dataclass(frozen=True, slots=True)
class KafkaBroker:
    """A broker whose data outlive it in `data_dir`; the ports may change from run to run.

    `options`: what Java is told besides.
    """

    data_dir: Path
    port: int
    controller_port: int
    java: Java
    jars: Path
    heap_mb: int = 256
    options: tuple[str, ...] = ()

    @property
    def bootstrap(self) -> str:
        """Where clients connect."""
        return f"{LOOPBACK}:{self.port}"

    def process(self) -> ProcessSpec:
        """Formats the data folder if it is new; returns how to run the broker."""
        log_dir = self.data_dir / "log"
        if not log_dir.exists():
            self._format(log_dir)
        (self.data_dir / "tmp").mkdir(exist_ok=True)
        properties = self._write_properties("server.properties", log_dir)
        return ProcessSpec(
            name="kafka",
            command=(*self._java_command(), "kafka.Kafka", str(properties)),
            # glibc's arenas, one per thread, would cost more than the threads themselves.
            environment=child_environment({"MALLOC_ARENA_MAX": "2"}),
            ready=self._ready,
            ports={"kafka": self.port, "kafka-controller": self.controller_port},
            stop_grace_s=20.0,
        )

    def _ready(self, timeout_s: float) -> bool:
        return listening(self.port, timeout_s) and KafkaReady(self.bootstrap)(timeout_s)

    def _format(self, log_dir: Path) -> None:
        """Formats beside the place and renames, so that a half-formatted folder is never used."""
        fresh = self.data_dir / "log.partial"
        shutil.rmtree(fresh, ignore_errors=True)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "tmp").mkdir(exist_ok=True)
        properties = self._write_properties("format.properties", fresh)
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        done = subprocess.run(
            [
                *self._java_command(),
                *("kafka.tools.StorageTool", "format", "--standalone"),
                *("--cluster-id", f"h{cluster_id[1:]}", "--config", str(properties)),
            ],
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
        )
        if done.returncode != 0:
            said = error_line(done.stderr or done.stdout)
            raise Unavailable("START_FAILED", process="kafka storage format", said=said)
        fresh.rename(log_dir)

    def _java_command(self) -> Iterator[str]:
        yield str(self.java.path)
        yield from (
            f"-Xmx{self.heap_mb}m",
            # Small at first, and given back when idle.
            *("-Xms48m", "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=30"),
            *("-XX:+UseSerialGC", "-Xss512k", "-XX:-UsePerfData"),
            *("-XX:ReservedCodeCacheSize=64m", "-XX:MaxMetaspaceSize=128m"),
            *("-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"),
            "-Djdk.nio.maxCachedBufferSize=262144",
            # The compression libraries unpack themselves there.
            f"-Djava.io.tmpdir={self.data_dir / 'tmp'}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
            "-Dorg.slf4j.simpleLogger.showThreadName=false",
        )
        if self.java.major >= WARNS_SINCE:
            yield "--enable-native-access=ALL-UNNAMED"
            yield "--sun-misc-unsafe-memory-access=allow"
        yield from self.options
        yield from ("-cp", f"{self.jars}/*")

    def _write_properties(self, name: str, log_dir: Path) -> Path:
        path = self.data_dir / name
        lines = (f"{key}={value}\n" for key, value in self._properties(log_dir).items())
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def _properties(self, log_dir: Path) -> dict[str, object]:
        controller = f"{LOOPBACK}:{self.controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": controller,
            "log.dirs": log_dir,
            "auto.create.topics.enable": "false",
            "message.max.bytes": MESSAGE_BYTES_MAX,
            # There is no second broker to hold a replica.
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # Each partition of these costs files and mapped indexes; a few are plenty here.
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.num.partitions": 1,
            # A group forms, and a dead member is noticed, without the delays made for fleets.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "background.threads": 2,
            "num.recovery.threads.per.data.dir": 2,
            "log.cleaner.threads": 1,
            "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
            "log.segment.bytes": 64 * 1024 * 1024,
            "log.index.size.max.bytes": 1024 * 1024,
            "socket.request.max.bytes": 32 * 1024 * 1024,
        }


def check_reachable(bootstrap: str, *, deadline_s: float) -> None:
    """Raises Unavailable BROKER_UNAVAILABLE unless a broker answers there within the deadline."""
    if not KafkaReady(bootstrap)(deadline_s):
        raise Unavailable(
            "BROKER_UNAVAILABLE",
            bootstrap=bootstrap,
            waited_s=f"{deadline_s:g}",
            do="check --kafka HOST:PORT, or leave it out to start a broker here",
        )


def provide_jars(cache: ToolCache) -> Path:
    """The folder of Kafka's jars, downloaded at first use.

    Raises Unavailable DOWNLOAD_FAILED when a jar cannot be had, or is not the one in the lock.
    """
    return cache.provide(LOCK.stem, lambda folder: download_jars(locked_jars(), folder, cache))


def locked_jars() -> list[Jar]:
    """The jars of the lock, in its order."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return [
        Jar(group, artifact, version, digest)
        for digest, group, artifact, version in (
            line.replace(":", " ").split() for line in lines if not line.startswith("#")
        )
    ]


def download_jars(jars: list[Jar], folder: Path, cache: ToolCache) -> None:
    """Fill the folder; raises Unavailable DOWNLOAD_FAILED."""
    repository = folder / "repository"
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        pending = [pool.submit(_download_one, jar, repository, folder) for jar in jars]
        for count, done in enumerate(as_completed(pending), start=1):
            if done.exception() is not None:
                pool.shutdown(cancel_futures=True)
            done.result()
            cache.progress(f"Kafka: {count} of {len(jars)} jars")
    shutil.rmtree(repository)


def _download_one(jar: Jar, repository: Path, folder: Path) -> None:
    cause = ""
    for attempt in range(DOWNLOAD_TRIES_MAX):
        time.sleep(attempt)
        try:
            path = _resolve(jar, repository)
        except (OSError, RuntimeError) as err:  # requests' errors are OSErrors, jgo's Runtime
            cause = str(err)
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() == jar.sha256:
            path.rename(folder / jar.filename)
            return
        cause = "the file is not the one in the lock"
        path.unlink()
    raise Unavailable("DOWNLOAD_FAILED", file=jar.filename, cause=cause)


def _resolve(jar: Jar, repository: Path) -> Path:
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(
        resolver=PythonResolver(), repo_cache=repository, timeout=DOWNLOAD_TIMEOUT_S
    )
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    return Path(component.artifact().resolve())
