# SPDX-License-Identifier: Apache-2.0
"""ModelInfer on one core: single rows and batches of a small model, batches of a heavier one.

Closed loop over one connection with encoded messages, generator on the other core. Validation,
statistics, metrics and the prediction log are on. The raw limit is ONNX Runtime alone on the same
core in the same run; the peers that are installed (`make bench-peers`) run in it too, one by one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median

import grpc
import numpy as np

from benchmarks.doors import constant_door, grpcio_echo
from benchmarks.load import Load, LoadGenerator, write_messages
from benchmarks.machine import SERVICE_CORE, Machine, ServiceUnderTest, machine, pinned
from benchmarks.models import a_network
from benchmarks.outcome import Outcome, say
from benchmarks.peers.serving import servers, serving
from headrace import topics
from headrace.admin import create_topics
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace_kit.kafka import KafkaPublisher, Message

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MESSAGES, ANSWER_BYTES, TURNS = 5_000, 100, 5
SMALL, HEAVY = (40, 128, 128, 128, 1), (256, 1024, 1024, 1024, 1024, 16)
RAW = """
import json, sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
def rate(rows, width, seconds=2.0):
    values = np.random.default_rng(0).random((rows, width), dtype=np.float32)
    for _ in range(50):
        session.run(["y"], {"x": values})
    runs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        session.run(["y"], {"x": values})
        runs += 1
    return runs * rows / (time.perf_counter() - begun)
width = session.get_inputs()[0].shape[1]
print(json.dumps([rate(int(rows), width) for rows in sys.argv[2:]]))
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """Rows of a request, calls in flight, and what has to be reached."""

    rows: int
    concurrency: int
    door: str = "native"


def main_single() -> None:
    with served(SMALL) as (where, generator, model):
        with inference(where, model) as service:
            wrong = mistakes(service.address, model)
            say(f"rows that differ from ONNX Runtime: {wrong}")
            lone = measure(where, generator, service, model, Bar(1, 1))
            many = measure(where, generator, service, model, Bar(1, 64))
        with inference(where, model, grpc_door="grpcio") as service:
            other = measure(where, generator, service, model, Bar(1, 64))
        path = messages(where, model, 1)
        with constant_door(METHOD, answer_bytes=ANSWER_BYTES) as address:
            constant = generator.run(address, METHOD, path, concurrency=1)
        with grpcio_echo() as address:
            echo = generator.run(address, METHOD, path, concurrency=64)
        peers = peer_loads(where, generator, model, Bar(1, 64))
        (raw,) = raw_rows_per_s(model, 1)
    say(f"the door alone, a constant, 1 in flight: {constant}")
    say(f"grpcio, bare echo, 64 in flight: {echo}")
    say(f"raw ONNX Runtime, single rows: {raw:,.0f} runs/s")
    said = (
        f">= 25,000 req/s and 3.3 x the best peer, p99 <= 8 ms (found {many.p99_ms:.2f}), alone "
        f"p50 <= 0.15 ms (found {lone.p50_ms:.3f} beside {constant.p50_ms:.3f} of the door alone), "
        f"grpcio door >= 6,000 (found {other.calls_per_s:,.0f} beside {echo.calls_per_s:,.0f} of "
        "grpcio's bare echo)"
    )
    rates = {name: load.calls_per_s for name, load in peers.items()}
    ok = (
        many.calls_per_s >= max(25_000, 3.3 * max(rates.values(), default=0.0))
        and many.p99_ms <= 8.0
        and lone.p50_ms <= 0.15
        and other.calls_per_s >= 6_000
        and not many.failed + lone.failed + other.failed + wrong
    )
    say(Outcome("infer_single", many.calls_per_s, "req/s", raw, said, ok, rates).line())


def main_batch() -> None:
    _batches("infer_batch", SMALL, share=0.40)


def main_heavy() -> None:
    _batches("infer_heavy", HEAVY, share=0.85)


def _batches(name: str, sizes: tuple[int, ...], *, share: float) -> None:
    with served(sizes) as (where, generator, model):
        path, bar = messages(where, model, 64), Bar(64, 8)
        loads, raws = list[Load](), raw_rows_per_s(model, 64)
        with inference(where, model) as service:
            wrong = mistakes(service.address, model)
            say(f"rows that differ from ONNX Runtime: {wrong}")
            # By turns: the machine's own speed varies by more than what the bar leaves, for tens of
            # seconds.
            for _ in range(TURNS):
                loads.append(one_load(path, generator, service, bar))
                with service.standing_still():
                    raws += raw_rows_per_s(model, 64)
        peers = peer_loads(where, generator, model, bar)
    say("raw ONNX Runtime: " + ", ".join(f"{raw:,.0f}" for raw in raws) + " rows/s")
    raw = median(raws)
    rates = {name: peer.calls_per_s * 64 for name, peer in peers.items()}
    rows_per_s = middle(loads).calls_per_s * 64
    said = f">= {share} of raw rows/s"
    ok = rows_per_s >= share * raw and not sum(load.failed for load in loads) + wrong
    say(Outcome(name, rows_per_s, "rows/s", raw, said, ok, rates).line())


@dataclass(frozen=True, slots=True)
class Model:
    """The bytes of a network x [rows, width] -> y, and where they lie."""

    path: Path
    digest: str
    width: int
    # Of a version that takes features: their names, and how an entity is named.
    features: tuple[str, ...] = ()
    entity: Mapping[str, object] = field(default_factory=dict)


@contextmanager
def served(sizes: tuple[int, ...]) -> Iterator[tuple[Machine, LoadGenerator, Model]]:
    generator = LoadGenerator.built()
    with machine() as where:
        data = a_network(sizes)
        path = where.folder / "model.onnx"
        path.write_bytes(data)
        yield where, generator, Model(path, sha256(data).hexdigest(), sizes[0])


@contextmanager
def inference(where: Machine, model: Model, **settings: str) -> Iterator[ServiceUnderTest]:
    """The service with the model at the endpoint `bench`, as the registry would have it."""
    define_endpoints(where, "bench", **model.entity)
    keep_artifact(where, model.path.read_bytes())
    roll_out(where, {"bench": model.digest}, version=1, features=model.features)
    with where.service("inference", objects=False, model_threads="1", **settings) as service:
        yield service


def create_endpoint_topics(where: Machine, *names: str) -> None:
    wanted = (topics.INFERENCE_REQUESTS, topics.INFERENCE_PREDICTIONS)
    create_topics(where.bootstrap, [(each.of(name), each) for name in names for each in wanted])


def define_endpoints(where: Machine, *names: str, **entity: object) -> None:
    create_endpoint_topics(where, *names)
    rule = {"canary_percent": 10, "outcomes_min": 1, "outcomes_max": 2, "alpha": 0.05}
    shared = {"kind": "endpoint", "description": "A benchmark.", "model": "network"}
    where.define(*({**shared, **entity, "name": name, "rollout": rule} for name in names))


def keep_artifact(where: Machine, data: bytes) -> str:
    """Puts it into the service's cache, as a download would; its digest."""
    cached, digest = where.data_folder("inference") / "models", sha256(data).hexdigest()
    cached.mkdir(parents=True, exist_ok=True)
    (cached / digest).write_bytes(data)
    return digest


def roll_out(
    where: Machine,
    digest_by_endpoint: Mapping[str, str],
    *,
    version: int,
    features: Sequence[str] = (),
) -> None:
    """Tells the version to serve, as the registry would."""
    publisher = KafkaPublisher(where.bootstrap, client_id="benchmark")
    publisher.publish(
        [
            rollout_of(endpoint, digest, version=version, features=features)
            for endpoint, digest in digest_by_endpoint.items()
        ]
    )
    publisher.close(5.0)


def rollout_of(
    endpoint: str, digest: str, *, version: int, features: Sequence[str] = ()
) -> Message:
    """Of a champion alone."""
    rollout = registry_pb.Rollout(
        endpoint=endpoint,
        model="network",
        generation=version,
        champion=registry_pb.ServedVersion(version=version, digest=digest, features=features),
        change="benchmark",
    )
    value = rollout.SerializeToString()
    return Message(topics.REGISTRY_ROLLOUTS.name, endpoint.encode(), value)


def a_request(values: np.ndarray, endpoint: str = "bench") -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=endpoint)
    request.inputs.add(name="x", datatype="FP32", shape=values.shape)
    request.raw_input_contents.append(values.tobytes())
    return request


def mistakes(address: str, model: Model) -> int:
    """Rows of some requests whose answers differ from the runtime's own."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.path.read_bytes(), providers=["CPUExecutionProvider"]
    )
    stub = oip_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))
    chance, wrong = np.random.default_rng(3), 0
    for rows in (1, 3, 64):
        values = chance.random((rows, model.width), dtype=np.float32)
        answer = stub.ModelInfer(a_request(values), timeout=10)
        (expected,) = session.run(["y"], {"x": values})
        got = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(expected.shape)
        wrong += int((~np.isclose(expected, got, rtol=1e-4, atol=1e-6)).any(axis=1).sum())
    return wrong


def messages(where: Machine, model: Model, rows: int) -> Path:
    values = np.random.default_rng(rows).random((100, rows, model.width), dtype=np.float32)
    return write_messages(
        where.folder / f"infer-{rows}", (a_request(each).SerializeToString() for each in values)
    )


def measure(
    where: Machine, generator: LoadGenerator, service: ServiceUnderTest, model: Model, bar: Bar
) -> Load:
    """Median of three by rate."""
    path = messages(where, model, bar.rows)
    return middle([one_load(path, generator, service, bar) for _ in range(3)])


def one_load(path: Path, generator: LoadGenerator, service: ServiceUnderTest, bar: Bar) -> Load:
    before_s = service.cpu_s()
    load = generator.run(service.address, METHOD, path, concurrency=bar.concurrency, seconds=4.0)
    cpu_us = (service.cpu_s() - before_s) / (load.calls_per_s * 5.0) * 1e6  # 1 s of warm-up
    say(
        f"{bar.rows} rows, {bar.concurrency} in flight: {load}, {cpu_us:.0f} us of CPU a "
        f"request, RSS {service.rss_mb():.0f} MB"
    )
    return load


def middle(loads: Sequence[Load]) -> Load:
    return sorted(loads, key=lambda load: load.calls_per_s)[len(loads) // 2]


def peer_loads(where: Machine, generator: LoadGenerator, model: Model, bar: Bar) -> dict[str, Load]:
    """Of each peer that runs here the median of three, as `measure` takes it of ours."""
    path, found = messages(where, model, bar.rows), {}
    for peer in servers():
        with serving(peer, where, model.path, rows=bar.rows) as address:
            if address is None:
                continue
            say(f"{peer.name}: rows that differ from ONNX Runtime: {mistakes(address, model)}")
            loads = []
            for _ in range(3):
                load = generator.run(
                    address, METHOD, path, concurrency=bar.concurrency, seconds=4.0
                )
                say(f"{peer.name}, {bar.rows} rows, {bar.concurrency} in flight: {load}")
                loads.append(load)
        found[peer.name] = middle(loads)
    return found


def raw_rows_per_s(model: Model, *rows: int) -> list[float]:
    """Rows a second of the runtime alone, one thread on the service's core."""
    command = [*pinned(SERVICE_CORE), sys.executable, "-c", RAW, str(model.path), *map(str, rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: list[float] = json.loads(done.stdout)
    return found
