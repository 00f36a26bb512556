# SPDX-License-Identifier: Apache-2.0
"""Hot swaps every 2 s for 5 minutes while the service has 80 % of the work that it can do.

A machine that shares its memory with others is slower by a tenth or two for tens of seconds. So
minutes with swaps and steady halves of a minute take turns, and the medians of both are compared,
as what it can do is the median of several looks. Calls begin at their moments. Beside them a
sampler asks one fixed row, and compares each answer with what the version that it names computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import grpc
import numpy as np

from benchmarks.inference import (
    METHOD,
    SMALL,
    a_request,
    define_endpoints,
    keep_artifact,
    roll_out,
    rollout_of,
)
from benchmarks.load import Load, LoadGenerator, write_messages
from benchmarks.machine import Machine, ServiceUnderTest, beside, machine
from benchmarks.models import a_network
from benchmarks.outcome import Outcome, say
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace_kit.kafka import KafkaPublisher

LOAD_SHARE, LOOKS = 0.8, 6
SWAP_EVERY_S, SWAPPED_S, STEADY_S, SAMPLE_EVERY_S = 2.0, 60.0, 30.0, 0.05
TURNS = 5
# Those that a turn may begin within its warm-up are among them.
VERSIONS = 1 + TURNS * (1 + int(SWAPPED_S / SWAP_EVERY_S))
CALLS = "headrace_inference_hot_rpc_seconds_count"
P99_RATIO_MAX, GROWTH_MAX, SWAPPED_MIN = 1.5, 0.05, 0.9


def main() -> None:
    generator = LoadGenerator.built()
    networks = [a_network(SMALL, seed) for seed in range(1, VERSIONS + 1)]
    with machine() as where:
        define_endpoints(where, "bench")
        digests = [keep_artifact(where, network) for network in networks]
        roll_out(where, {"bench": digests[0]}, version=1)
        rows = np.random.default_rng(7).random((100, 1, SMALL[0]), dtype=np.float32)
        path = write_messages(
            where.folder / "rows", (a_request(row).SerializeToString() for row in rows)
        )
        sampler = Sampler(rows[0], [answer_of(network, rows[0]) for network in networks])
        with where.service("inference", objects=False, model_threads="1") as service:
            rate = LOAD_SHARE * full_calls_per_s(generator, service, path)
            swapper = Swapper(where, iter(enumerate(digests[1:], start=2)))
            steady, swapped = list[Load](), list[Load]()
            with beside(lambda ended: sampler.run(service, ended)):
                steady.append(paced(generator, service, path, rate, STEADY_S))
                before_mb = service.rss_mb()
                for _ in range(TURNS):
                    with beside(swapper.run):
                        swapped.append(paced(generator, service, path, rate, SWAPPED_S))
                    steady.append(paced(generator, service, path, rate, STEADY_S))
            growth = service.rss_mb() / before_mb - 1
            say(f"calls by code of gRPC: {service.metrics(CALLS)}")
    say(
        f"{len(sampler.versions)} versions answered, {sampler.wrong} of {sampler.asked} sampled "
        f"answers were not of the version that they name; RSS {growth:+.1%}"
    )
    failed = sum(load.failed for load in (*steady, *swapped)) + sampler.failed
    steady_ms, swapped_ms = (median(load.p99_ms for load in each) for each in (steady, swapped))
    ok = (
        not failed + sampler.wrong
        and swapped_ms <= P99_RATIO_MAX * steady_ms
        and growth <= GROWTH_MAX
        and len(sampler.versions) >= SWAPPED_MIN * VERSIONS
    )
    said = f"0 failed (found {failed}), p99 <= 1.5x steady, RSS <= +5 % ({growth:+.1%})"
    say(Outcome("swap", swapped_ms, "ms p99", steady_ms, said, ok).line())


def full_calls_per_s(generator: LoadGenerator, service: ServiceUnderTest, path: Path) -> float:
    found = [generator.run(service.address, METHOD, path, concurrency=64) for _ in range(LOOKS)]
    for load in found:
        say(f"full: {load}")
    return median(load.calls_per_s for load in found)


def paced(
    generator: LoadGenerator, service: ServiceUnderTest, path: Path, rate: float, seconds: float
) -> Load:
    load = generator.run_paced(service.address, METHOD, path, rate=rate, seconds=seconds)
    say(f"{rate:,.0f} calls/s for {seconds:.0f} s: {load}, RSS {service.rss_mb():.0f} MB")
    return load


@dataclass(frozen=True, slots=True)
class Swapper:
    """Rolls out the versions that are left, one after the other, by the clock."""

    where: Machine
    versions: Iterator[tuple[int, str]]

    def run(self, ended: threading.Event) -> None:
        publisher = KafkaPublisher(self.where.bootstrap, client_id="benchmark")
        due_s = time.monotonic() + SWAP_EVERY_S
        while not ended.wait(due_s - time.monotonic()):
            version, digest = next(self.versions)
            publisher.publish([rollout_of("bench", digest, version=version)])
            due_s += SWAP_EVERY_S
        publisher.close(5.0)


@dataclass(slots=True)
class Sampler:
    """Asks the same row again and again; `expected` is what each version answers to it."""

    row: np.ndarray
    expected: list[float]
    versions: set[int] = field(default_factory=set)
    asked: int = 0
    wrong: int = 0
    failed: int = 0

    def run(self, service: ServiceUnderTest, ended: threading.Event) -> None:
        stub = oip_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(service.address))
        while not ended.wait(SAMPLE_EVERY_S):
            try:
                answer = stub.ModelInfer(a_request(self.row), timeout=10)
            except grpc.RpcError:
                self.failed += 1
                continue
            version = int(answer.model_version)
            (got,) = np.frombuffer(answer.raw_output_contents[0], "<f4")
            self.versions.add(version)
            self.asked += 1
            self.wrong += not np.isclose(got, self.expected[version - 1], rtol=1e-4)


def answer_of(network: bytes, row: np.ndarray) -> float:
    """What ONNX Runtime alone computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    return float(session.run(["y"], {"x": row})[0][0, 0])
