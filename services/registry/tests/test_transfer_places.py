# SPDX-License-Identifier: Apache-2.0
"""A transfer whose caller stands still gives way to the first who finds no place, to no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from headrace.errors import Busy
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import FixedClock
from headrace_registry.adapters import transfer_places
from headrace_registry.adapters.grpc_api import DOWNLOADS_MAX, UPLOADS_MAX, ArtifactApi
from headrace_registry.adapters.memory_store import MemoryRegistryStore
from headrace_registry.adapters.transfer_places import STILL_S_MAX, Transfer, TransferPlaces
from headrace_registry.domain.artifact import artifact_key
from headrace_registry.testing import DIGEST, ONNX, ReadingAcceptor, a_file

PLACES = 2


class Call:
    """A call's context, of which the end alone is asked."""

    def __init__(self, on_cancel=lambda: None):
        self.on_cancel, self.cancelled = on_cancel, False

    def cancel(self):
        self.cancelled = True
        self.on_cancel()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def places(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> TransferPlaces:
    monkeypatch.setattr(transfer_places, "GIVE_WAY_S_MAX", 0.0)
    return TransferPlaces("downloads", PLACES, now_s=clock)


@pytest.fixture
def ended() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def waiting_for(caller: Call, places: TransferPlaces, ended: ExitStack) -> Transfer:
    """A transfer whose caller has the turn."""
    transfer = ended.enter_context(places.place(caller))
    ended.enter_context(transfer.caller_waited_for())
    return transfer


def leaving(places: TransferPlaces, ended: ExitStack) -> Call:
    """A call that is waited for, and leaves when it is cancelled."""
    own = ended.enter_context(ExitStack())
    caller = Call(on_cancel=own.close)
    waiting_for(caller, places, own)
    return caller


def test_caller_that_stands_still_longest_gives_way(places, clock, ended):
    first = leaving(places, ended)
    clock.now_s += 1.0
    second = leaving(places, ended)
    clock.now_s += STILL_S_MAX

    ended.enter_context(places.place(Call()))

    assert (True, False) == (first.cancelled, second.cancelled)


def test_callers_that_go_on_keep_their_places(places, clock, ended):
    callers = [leaving(places, ended) for _ in range(PLACES)]
    clock.now_s += STILL_S_MAX - 0.1

    with pytest.raises(Busy, match="QUEUE_FULL"):
        ended.enter_context(places.place(Call()))
    assert [False] * PLACES == [caller.cancelled for caller in callers]


def test_caller_that_stands_still_is_left_alone_while_there_is_a_place(places, clock, ended):
    caller = leaving(places, ended)
    clock.now_s += 10 * STILL_S_MAX

    ended.enter_context(places.place(Call()))

    assert not caller.cancelled


def test_what_we_do_ourselves_is_no_standing_still(places, clock, ended):
    callers = [Call() for _ in range(PLACES)]
    for caller in callers:
        transfer = ended.enter_context(places.place(caller))
        with transfer.caller_waited_for():
            clock.now_s += STILL_S_MAX
    clock.now_s += STILL_S_MAX

    with pytest.raises(Busy, match="QUEUE_FULL"):
        ended.enter_context(places.place(Call()))


def test_one_that_does_not_leave_keeps_its_place_and_is_ended_once(places, clock, ended):
    callers = [Call() for _ in range(PLACES)]
    for caller in callers:
        waiting_for(caller, places, ended)
        clock.now_s += STILL_S_MAX

    for ended_callers in (1, 2, 2):
        with pytest.raises(Busy, match="QUEUE_FULL"):
            ended.enter_context(places.place(Call()))
        assert ended_callers == sum(caller.cancelled for caller in callers)


def test_next_caller_waits_for_the_one_whose_place_it_takes(clock, ended):
    places = TransferPlaces("downloads", 1, now_s=clock)
    told, left = threading.Event(), threading.Event()

    def hold():
        with places.place(Call(on_cancel=told.set)) as transfer, transfer.caller_waited_for():
            left.set()
            assert told.wait(60.0)

    holder = threading.Thread(target=hold)
    holder.start()
    assert left.wait(60.0)
    clock.now_s += STILL_S_MAX
    try:
        ended.enter_context(places.place(Call()))
    finally:
        told.set()
        holder.join(60.0)


@pytest.fixture
def api() -> ArtifactApi:
    artifacts = MemoryObjectStore()
    artifacts.put_if_absent(artifact_key(DIGEST), ONNX)
    return ArtifactApi(
        store=MemoryRegistryStore(),
        artifacts=artifacts,
        acceptor=ReadingAcceptor(),
        spool=a_file,
        clock=FixedClock(0),
        bytes_max=1 << 20,
    )


def begun(download: Iterator[pb.DownloadArtifactResponse]) -> bytes:
    return next(download).chunk


def test_downloads_that_stand_still_keep_no_upload_from_its_place(api):
    request = pb.DownloadArtifactRequest(digest=DIGEST)
    downloads = [api.DownloadArtifact(request, Call()) for _ in range(DOWNLOADS_MAX)]
    assert [ONNX] * DOWNLOADS_MAX == list(map(begun, downloads))
    with pytest.raises(Busy, match="QUEUE_FULL"):
        begun(api.DownloadArtifact(request, Call()))

    metadata = pb.ArtifactMetadata(digest=DIGEST, size_bytes=len(ONNX), format="onnx")
    sent = [pb.UploadArtifactRequest(metadata=metadata), pb.UploadArtifactRequest(chunk=ONNX)]

    assert DIGEST == api.UploadArtifact(iter(sent), Call()).digest


def test_uploads_that_stand_still_keep_no_download_from_its_place(api):
    metadata = pb.ArtifactMetadata(digest=DIGEST, size_bytes=len(ONNX), format="onnx")
    request = pb.DownloadArtifactRequest(digest=DIGEST)
    found = []

    def sent(waiting: int):
        yield pb.UploadArtifactRequest(metadata=metadata)
        if waiting:  # another begins while this one waits
            api.UploadArtifact(sent(waiting - 1), Call())
        else:
            found.append(begun(api.DownloadArtifact(request, Call())))
        yield pb.UploadArtifactRequest(chunk=ONNX)

    api.UploadArtifact(sent(UPLOADS_MAX - 1), Call())

    assert [ONNX] == found
