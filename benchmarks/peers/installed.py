# SPDX-License-Identifier: Apache-2.0
"""Where the peers are, and how they get there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.outcome import say
from headrace.local.kafka import Jar, download_jars, provide_jars
from headrace.local.tools import ToolCache

PEERS = ToolCache(ROOT / ".headrace/peers", progress=say)
TOOLS = ToolCache(ROOT / ".headrace/tools", progress=say)
INSTALL_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class PythonPeer:
    """Packages of a virtual environment."""

    name: str
    version: str
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return PEERS.directory / f"{self.name}-{self.version}"

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def install(self) -> None:
        PEERS.provide(self.folder.name, self._fill)

    def _fill(self, folder: Path) -> None:
        """Scripts of the environment would name the folder that this one is renamed from."""
        say(f"{self.name} {self.version}: installing")
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *self.packages)


@dataclass(frozen=True, slots=True)
class JavaPeer:
    """A source file of ours, compiled against Kafka's jars and these."""

    name: str
    version: str
    source: str
    jars: tuple[Jar, ...]

    @property
    def folder(self) -> Path:
        return PEERS.directory / f"{self.name}-{self.version}"

    @property
    def classpath(self) -> str:
        return f"{self.folder}:{self.folder}/*:{provide_jars(TOOLS)}/*"

    def install(self) -> None:
        PEERS.provide(self.folder.name, self._fill)

    def _fill(self, folder: Path) -> None:
        compiler = shutil.which("javac")
        if compiler is None:
            raise SystemExit("Kafka Streams needs a Java compiler (17 or newer) on the PATH")
        download_jars(list(self.jars), folder, PEERS)
        classpath = f"{folder}/*:{provide_jars(TOOLS)}/*"
        source = str(Path(__file__).with_name(self.source))
        _run(compiler, "-cp", classpath, "-d", str(folder), source)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)


KAFKA_STREAMS = JavaPeer(
    "kafka-streams",
    "4.3.1",
    "StreamPeer.java",
    (
        Jar(
            "org.apache.kafka",
            "kafka-streams",
            "4.3.1",
            "bd73f3805e116f711e8456ee89a8a5b43ff5dcf5a5bb865afae29deae89e7c4b",
        ),
        Jar(
            "org.rocksdb",
            "rocksdbjni",
            "10.1.3",
            "e7f925287d9fe2574fb7c7a86f7facaa9b8ab602a2eed0e598bf633528121498",
        ),
    ),
)
BYTEWAX = PythonPeer("bytewax", "0.21.1", ("bytewax[kafka]==0.21.1", "orjson"))
QUIX_STREAMS = PythonPeer("quix-streams", "3.28.1", ("quixstreams==3.28.1",))
# The runtime that we serve with.
RUNTIME = "onnxruntime==1.32.0"
FEAST = PythonPeer("feast", "0.67.0", ("feast[duckdb,grpcio]==0.67.0",))
MLSERVER = PythonPeer("mlserver", "1.7.1", ("mlserver==1.7.1", RUNTIME))
KSERVE = PythonPeer("kserve", "0.21.0", ("kserve==0.21.0", RUNTIME))
PYTRITON = PythonPeer("pytriton", "0.7.0", ("nvidia-pytriton==0.7.0", RUNTIME))
ALL = (KAFKA_STREAMS, BYTEWAX, QUIX_STREAMS, FEAST, MLSERVER, KSERVE, PYTRITON)
