# SPDX-License-Identifier: Apache-2.0
"""Requests and answers over Kafka that lie in the object store: kills between two writes, and the
store away.

Each request is claimed, and so is its answer: the key of its record is the entity of ten thousand
rows, which fit no record.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr
from tests.faults.asker import Asker
from tests.faults.proxies import Proxy

from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace_inference.adapters.object_claims import ObjectClaims
from headrace_inference.domain.claim import Claim
from headrace_kit.clock import SystemClock
from headrace_kit.objects import S3Settings, object_store
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

ROWS = 10_000
KEY_BYTES = 120
CLAIM_BYTES_MAX = 15 << 20


@dataclass
class Claimant(Asker):
    """Stores its requests as ClaimService would, though no worker is there."""

    rows: int = ROWS
    uri: str = ""
    s3: S3Settings | None = None
    worker_settings: dict[str, str] = field(default_factory=dict)

    @property
    def claims(self) -> ObjectClaims:
        return ObjectClaims(
            object_store(self.uri, self.s3),
            clock=SystemClock(),
            bytes_max=CLAIM_BYTES_MAX,
            all_bytes_max=1 << 40,
        )

    def worker(self, name: str, *, fail: str = "", **settings: str) -> Child:
        told = {"OBJECT_STORE_URI": self.uri, "ROWS_MAX": str(ROWS), **self.worker_settings}
        return super().worker(name, fail=fail, **told, **settings)

    def record(self, number: int) -> tuple[bytes, bytes, dict[str, bytes]]:
        key, value, _ = super().record(number)
        claim = self.claims.store(self.endpoint, value)
        headers = {"claim-digest": claim.digest.encode(), "claim-bytes": b"%d" % claim.size_bytes}
        return key.ljust(KEY_BYTES, b"-"), b"", headers

    def whole(self, event: pb.PredictionsMade) -> pb.PredictionsMade:
        assert event.refused or event.HasField("claim")
        if event.refused:
            return event
        claim = Claim(event.claim.digest, event.claim.size_bytes)
        return pb.PredictionsMade.FromString(self.claims.read(self.endpoint, claim))


@pytest.fixture
def claimant(kafka_server, tmp_path) -> Claimant:
    made = Claimant(kafka_server, tmp_path, uri=(tmp_path / "objects").as_uri())
    made.serve()
    return made


@pytest.fixture
def proxy(s3_server) -> Iterator[Proxy]:
    """Between the worker and an S3 server."""
    (port,) = pick_ports(1)
    made = Proxy(port, int(s3_server.endpoint.rsplit(":", 1)[1]), kafka=False)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def start():
    """Starts workers that are ended with the test."""
    started: list[Child] = []

    def begin(claimant: Claimant, *, fail: str = "") -> Child:
        started.append(claimant.worker("one", fail=fail))
        return started[-1]

    yield begin
    for child in started:
        child.stop()


@pytest.mark.parametrize("step", ["inference.claim.read", "inference.claim.kept"])
def test_worker_killed_between_an_object_and_its_record_leaves_each_request_one_answer(
    step, claimant, start
):
    worker = start(claimant, fail=f"{step}:2:kill")
    for _ in range(3):
        claimant.ask(8)
        wait_until(lambda: claimant.all_answered() or worker.died() is not None)
    assert -signal.SIGKILL == wait_until(worker.died)

    start(claimant)
    claimant.await_no_lag()
    assert {} == claimant.wrong()


@pytest.mark.parametrize("fault", ["cut", "unavailable"])
def test_object_store_away_holds_back_what_is_claimed_and_nothing_is_lost(
    fault, claimant, proxy, s3_server, start
):
    claimant.uri = f"s3://headrace/{uuid.uuid4().hex}"
    claimant.s3 = S3Settings(
        s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key)
    )
    claimant.worker_settings = {
        "S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}",
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
    }
    start(claimant)
    claimant.ask(4)
    claimant.await_no_lag()
    proxy.cut() if fault == "cut" else setattr(proxy.faults, fault, True)
    claimant.ask(4)
    log = claimant.folder / "one" / "inference.log"
    wait_until(lambda: b"OBJECT_STORE_UNAVAILABLE" in log.read_bytes())
    assert not claimant.all_answered()
    proxy.mend()

    claimant.await_no_lag()
    assert {} == claimant.wrong()
