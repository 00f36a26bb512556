# SPDX-License-Identifier: Apache-2.0
"""Swaps under threads: no request fails, the version named is the one that computed (P9, P10)."""

import gc
import queue
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

from headrace.prediction_log import logged_predictions
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.adapters.kafka_prediction_log import KafkaPredictionLog
from headrace_inference.domain.rollout import Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_inference.handlers import infer, predict, serve_rollout
from headrace_inference.testing import (
    MemoryArtifactStore,
    MemoryFeatureReader,
    a_keys_request,
    a_model,
    a_served_version,
    an_endpoint,
    models_of,
)
from headrace_kit.clock import SystemClock
from headrace_kit.testing import MemoryPublisher

VERSIONS = 30
CALLERS = 6


def serve(table, artifacts, version, *, canary=None):
    for one in (version, canary):
        if one is not None:
            artifacts.upload(a_model(float(one)))
    rollout = Rollout(
        "delay",
        "delay-model",
        version,
        a_served_version(version),
        None if canary is None else a_served_version(canary),
        50,
    )
    table.want(rollout)
    serve_rollout(rollout, table=table, models=models_of(artifacts))


def test_every_answer_names_the_version_that_computed_it_while_versions_change(tmp_path):
    table, artifacts, publisher = ServingTable(), MemoryArtifactStore(), MemoryPublisher()
    counts = AnsweredCounts(tmp_path)
    log = KafkaPredictionLog(publisher, partitions=lambda _: 4, counts=counts)
    table.define(an_endpoint())
    serve(table, artifacts, 1)
    done, answered_by = threading.Event(), queue.SimpleQueue()
    bound = partial(
        predict,
        table=table,
        features=MemoryFeatureReader(),
        clock=SystemClock(),
        rows_max=10,
        explaining=nullcontext,
        on_failed=lambda _: None,
    )

    def call(caller):
        answers = []
        while not done.is_set():
            request = a_keys_request(f"UA-{caller}-{len(answers)}", id=f"{caller}-{len(answers)}")
            answers.append(infer(request, predict=bound, log=log, time_left_s=lambda: 5.0))
            answered_by.put(answers[-1].served.version)
        return answers

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call, caller) for caller in range(CALLERS)]
        for version in range(2, VERSIONS):
            serve(table, artifacts, version, canary=version + 1)
            while answered_by.get(timeout=30) < version:
                pass
        done.set()
        answers = [answer for caller in callers for answer in caller.result(timeout=30)]

    assert {float(a.served.version) for a in answers} == {s for a in answers for s in a.scores}
    assert all(float(a.served.version) == a.scores[0] for a in answers)
    assert len({a.served.version for a in answers}) >= VERSIONS / 2
    log.flush()
    logged = [row for m in publisher.published for row in logged_predictions(m.value)]
    assert len(answers) == len(logged)
    assert all(float(event.version) == event.score for event in logged)
    assert all(
        float(event.shadow_version) == event.shadow_score
        for event in logged
        if event.shadow_version
    )


def test_replaced_model_is_freed():
    table, artifacts = ServingTable(), MemoryArtifactStore()
    table.define(an_endpoint())
    serve(table, artifacts, 1)
    replaced = weakref.ref(table.ready("delay")[1].champion.model)

    serve(table, artifacts, 2)

    gc.collect()
    assert replaced() is None
