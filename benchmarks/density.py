# SPDX-License-Identifier: Apache-2.0
"""200 models of 5 MB under a budget of 300 MB: Zipf traffic, and 1,000 loads in turn.

A probe asks the most popular endpoint beside the traffic: once while the traffic asks alone what
fits into memory, once while it asks all of them at the same rate: what differs are the loads.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np

from benchmarks.inference import METHOD, a_request, define_endpoints, keep_artifact, roll_out
from benchmarks.load import Load, LoadGenerator, write_messages
from benchmarks.machine import Machine, ServiceUnderTest, beside, machine
from benchmarks.models import a_network
from benchmarks.outcome import Outcome, say
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc

SIZES = (256, 1024, 1024, 16)
MODELS, BUDGET_BYTES, ZIPF_EXPONENT, MESSAGES = 200, 300_000_000, 1.1, 5_000
FITTING = 40
CALLS_PER_S, PROBES_PER_S, TRAFFIC_S, CALL_S = 30.0, 50.0, 40.0, 30.0
CYCLES, CYCLES_A_SAMPLE = 1_000, 20
P50_RATIO_MAX, GROWTH_MAX = 1.25, 0.05
LOADS = "headrace_inference_model_loads_total"
RESIDENT = "headrace_inference_models_resident_count"
RESIDENT_BYTES = "headrace_inference_models_resident_bytes"
ENDPOINTS = [f"model-{number:03}" for number in range(MODELS)]


def main() -> None:
    generator = LoadGenerator.built()
    with machine() as where:
        define_endpoints(where, *ENDPOINTS)
        digests = {
            name: keep_artifact(where, a_network(SIZES, seed))
            for seed, name in enumerate(ENDPOINTS)
        }
        roll_out(where, digests, version=1)
        settings = {"model_threads": "1", "model_memory_bytes_max": str(BUDGET_BYTES)}
        with where.service("inference", objects=False, **settings) as service:
            tell(service)
            fitting = popular(where, FITTING)
            paced(generator, service, fitting, CALLS_PER_S, TRAFFIC_S / 4)  # they come into memory
            calm, calm_failed = probed(generator, service, where, fitting)
            before = service.metric(LOADS)
            busy, failed = probed(generator, service, where, popular(where, MODELS))
            loads_per_s = (service.metric(LOADS) - before) / TRAFFIC_S
            say(f"{loads_per_s:.1f} loads/s beside the probe")
            taken_bytes = tell(service)
            growth, cycle_loads = cycled(service)
            taken_bytes = max(taken_bytes, tell(service))
    errors = calm_failed + failed + calm.failed + busy.failed
    ok = (
        not errors
        and busy.p50_ms <= P50_RATIO_MAX * calm.p50_ms
        and growth <= GROWTH_MAX
        and loads_per_s > 0
        and cycle_loads == CYCLES
        and taken_bytes <= BUDGET_BYTES
    )
    said = (
        f"0 errors (found {errors}), p50 of a resident model as without loads, RSS slope ~0 "
        f"({growth:+.1%} in {CYCLES:,} loads, found {cycle_loads:,.0f}), loads beside the probe "
        f"(found {loads_per_s:.1f}/s), at most {BUDGET_BYTES:,} bytes (found {taken_bytes:,.0f})"
    )
    say(Outcome("density", busy.p50_ms, "ms p50", calm.p50_ms, said, ok).line())


def popular(where: Machine, endpoints: int) -> Path:
    """Requests to the first so many, by Zipf's law."""
    chance = np.random.default_rng(3)
    shares = 1.0 / np.arange(1, endpoints + 1) ** ZIPF_EXPONENT
    places = chance.choice(endpoints, MESSAGES, p=shares / shares.sum())
    row = chance.random((1, SIZES[0]), dtype=np.float32)
    return write_messages(
        where.folder / f"zipf-{endpoints}",
        (a_request(row, ENDPOINTS[place]).SerializeToString() for place in places),
    )


def probed(
    generator: LoadGenerator, service: ServiceUnderTest, where: Machine, traffic: Path
) -> tuple[Load, int]:
    """What the most popular endpoint's own callers find beside the traffic, whose failures too."""
    probe, failed = popular(where, 1), []

    def others(_: object) -> None:
        failed.append(paced(generator, service, traffic, CALLS_PER_S, TRAFFIC_S).failed)

    with beside(others):
        found = paced(generator, service, probe, PROBES_PER_S, TRAFFIC_S)
    return found, failed[0]


def paced(
    generator: LoadGenerator, service: ServiceUnderTest, path: Path, rate: float, seconds: float
) -> Load:
    load = generator.run_paced(service.address, METHOD, path, rate=rate, seconds=seconds)
    say(f"{path.name}, {rate:.0f} calls/s: {load}, RSS {service.rss_mb():.0f} MB")
    return load


def tell(service: ServiceUnderTest) -> float:
    """The bytes that models take."""
    count, taken_bytes = service.metric(RESIDENT), service.metric(RESIDENT_BYTES)
    say(f"{count:.0f} models in memory: {taken_bytes:,.0f} bytes, RSS {service.rss_mb():.0f} MB")
    return taken_bytes


def cycled(service: ServiceUnderTest) -> tuple[float, float]:
    """By how much the memory of 1,000 loads grows, as a line through it tells, to the whole; and
    how many loads there were.
    """
    stub = oip_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(service.address))
    row, found = np.zeros((1, SIZES[0]), np.float32), []
    for cycle in range(-MODELS, CYCLES):
        # In turn, so that each was let go before it is asked again; once before it counts.
        if cycle == 0:
            before = service.metric(LOADS)
        stub.ModelInfer(a_request(row, ENDPOINTS[cycle % MODELS]), timeout=CALL_S)
        if cycle >= 0 and cycle % CYCLES_A_SAMPLE == 0:
            found.append(service.rss_mb())
    slope, start = np.polyfit(np.arange(len(found)) * CYCLES_A_SAMPLE, found, 1)
    loads = service.metric(LOADS) - before
    say(f"{loads:.0f} loads in turn: RSS {start:.0f} MB {slope * 1e3:+.1f} kB a load")
    return float(slope * CYCLES / start), loads
