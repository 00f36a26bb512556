# SPDX-License-Identifier: Apache-2.0
"""ModelInfer by entity keys: the server reads 10 features of the entity and runs a small model.

Single rows in a closed loop over one connection; inference has a core, the feature service, the
generator and the broker share the other. The raw limit is the feature service, asked for one entity
at a time where it is.
"""

from __future__ import annotations

import time
from hashlib import sha256

import numpy as np

from benchmarks import online
from benchmarks.inference import METHOD, Model, inference
from benchmarks.load import Load, LoadGenerator, write_messages
from benchmarks.machine import OTHER_CORE, Machine, ServiceUnderTest, machine
from benchmarks.online import ENTITIES, FEATURES, VIEW
from benchmarks.outcome import Outcome, say
from benchmarks.stream import STREAM_DEFINITION, TOPIC
from headrace import topics
from headrace.admin import create_topics
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.testing import a_model

CONCURRENCY, CALLS_PER_S_MIN, P99_MS_MAX = 64, 8_000, 20.0


def main() -> None:
    generator, now_us = LoadGenerator.built(), time.time_ns() // 1000
    with machine() as where:
        create_topics(where.bootstrap, [(TOPIC, topics.INGEST_RECORDS)])
        events = online.fill(where, now_us)
        where.define(STREAM_DEFINITION, VIEW)
        with where.service("feature", cores=(OTHER_CORE,), keep_days="3650") as feature:
            online.wait_for(where, feature, len(events))
            raw = online.reads(where, generator, feature, entities=1, concurrency=CONCURRENCY)
            with inference(where, a_scorer(where), feature_address=feature.address) as service:
                load = measure(where, generator, service)
    said = f">= {CALLS_PER_S_MIN:,} req/s, p99 <= {P99_MS_MAX} ms (found {load.p99_ms:.2f})"
    ok = load.calls_per_s >= CALLS_PER_S_MIN and load.p99_ms <= P99_MS_MAX and not load.failed
    say(Outcome("infer_entity", load.calls_per_s, "req/s", raw.calls_per_s, said, ok).line())


def a_scorer(where: Machine) -> Model:
    data = a_model(1.0, width=len(FEATURES))
    path = where.folder / "scorer.onnx"
    path.write_bytes(data)
    entity = {"entity_key": "user", "columns": {"user": "string"}}
    return Model(path, sha256(data).hexdigest(), len(FEATURES), tuple(FEATURES), entity)


def measure(where: Machine, generator: LoadGenerator, service: ServiceUnderTest) -> Load:
    """Median of three by rate."""
    users = np.random.default_rng(2).integers(0, ENTITIES, 5_000).tolist()
    path = write_messages(where.folder / "infer-entity", map(a_request, users))
    found = []
    for _ in range(3):
        before_s = service.cpu_s()
        load = generator.run(service.address, METHOD, path, concurrency=CONCURRENCY, seconds=4.0)
        cpu_us = (service.cpu_s() - before_s) / (load.calls_per_s * 5.0) * 1e6  # 1 s of warm-up
        say(f"by entity, {CONCURRENCY} in flight: {load}, {cpu_us:.0f} us of CPU a request")
        found.append(load)
    return sorted(found, key=lambda load: load.calls_per_s)[1]


def a_request(user: int) -> bytes:
    key = b"user-%d" % user
    request = oip.ModelInferRequest(model_name="bench")
    request.inputs.add(name="user", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(key).to_bytes(4, "little") + key)
    return request.SerializeToString()
