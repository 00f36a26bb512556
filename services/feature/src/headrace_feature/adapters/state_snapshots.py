# SPDX-License-Identifier: Apache-2.0
"""Runs and manifests in the object store, where another worker finds them.

    feature/state/<layout id>/runs/<copy>/<file>.<piece>
    feature/state/<layout id>/manifests/<manifest>

A run never changes, so a copy is made once and named by every manifest that needs it. A manifest is
put after its copies. Names begin with the moment in ms: what no manifest names is collected when it
is older than anybody takes from a copy to its manifest.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from headrace.errors import Corrupt, NotFound
from headrace_feature.adapters.run_files import run_paths
from headrace_feature.domain.manifest import PIECE_BYTES, Manifest, RunCopy, outdated
from headrace_kit.clock import Clock
from headrace_kit.failpoints import failpoint
from headrace_kit.objects import ObjectStore

ROOT = "feature/state"
PIECES_AT_ONCE = 4
# A manifest that is no longer the furthest is kept so long for those who are reading it, a copy
# that no manifest names so long for the one who is about to name it.
GRACE_MS = 3_600_000
FRESH_MS = GRACE_MS // 2
SMALL = "run"
Tick = Callable[[], None]


class StateSnapshots:
    """The snapshots of all workers; any thread may call."""

    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects, self._clock = objects, clock
        self._read: dict[str, Manifest | None] = {}

    def manifests(self, layout: bytes) -> list[Manifest]:
        """Those that there are now, each read once. Raises Unavailable."""
        found = []
        for key in self._objects.keys(f"{_folder(layout)}/manifests"):
            try:
                if key not in self._read:
                    self._read[key] = Manifest.from_json(_name(key), self._objects.get(key))
            except NotFound:
                continue  # collected meanwhile
            if (manifest := self._read[key]) is not None:
                found.append(manifest)
        return found

    def put_manifest(self, layout: bytes, manifest: Manifest) -> None:
        failpoint("feature.snapshot.run_uploaded")
        self._objects.put_if_absent(
            f"{_folder(layout)}/manifests/{manifest.name}", manifest.to_json()
        )
        failpoint("feature.snapshot.manifest_written")

    def fresh_name(self) -> str:
        return f"{self._now_ms():013d}-{uuid.uuid4().hex}"

    def fresh(self, copy: RunCopy) -> bool:
        """Whether there is time enough to name it in a manifest."""
        return self._now_ms() - copy.begun_ms < FRESH_MS

    def put_small(self, layout: bytes, stored: bytes) -> RunCopy:
        name = self.fresh_name()
        key = f"{_folder(layout)}/runs/{name}/{SMALL}.0"
        self._objects.put_if_absent(key, stored)
        return RunCopy(name, b"", {SMALL: (_digest(stored),)})

    def put_folder(self, layout: bytes, head: bytes, folder: Path, tick: Tick) -> RunCopy:
        """Raises FileNotFoundError when the folder went before it was opened."""
        name, digests = self.fresh_name(), {}
        with ExitStack() as stack:  # what is open outlives its name
            files = [stack.enter_context(each.open("rb")) for each in run_paths(folder)]
            for file in files:
                file_name = Path(file.name).name
                prefix = f"{_folder(layout)}/runs/{name}/{file_name}"
                digests[file_name] = tuple(self._put_pieces(prefix, _pieces(file.fileno()), tick))
        return RunCopy(name, head, digests)

    def _put_pieces(self, prefix: str, pieces: Iterable[bytes], tick: Tick) -> Iterator[str]:
        for number, piece in enumerate(pieces):
            tick()
            self._objects.put_if_absent(f"{prefix}.{number}", piece)
            yield _digest(piece)

    def get_small(self, layout: bytes, copy: RunCopy) -> bytes:
        return self._get(layout, copy, SMALL, 0)

    def get_folder(self, layout: bytes, copy: RunCopy, folder: Path, tick: Tick) -> None:
        """Several pieces at a time; the files are durable at the end.

        Raises NotFound for a copy that was collected, Corrupt DIGEST_MISMATCH for a bad one.
        """
        folder.mkdir(parents=True)
        with ThreadPoolExecutor(PIECES_AT_ONCE) as pool:
            for file_name, digests in copy.digests_by_file.items():
                with (folder / file_name).open("wb") as file:

                    def fetch(number: int, name: str = file_name, to: int = file.fileno()) -> None:
                        tick()
                        os.pwrite(to, self._get(layout, copy, name, number), number * PIECE_BYTES)

                    list(pool.map(fetch, range(len(digests))))
                    os.fsync(file.fileno())

    def _get(self, layout: bytes, copy: RunCopy, file_name: str, number: int) -> bytes:
        key = f"{_folder(layout)}/runs/{copy.name}/{file_name}.{number}"
        piece = self._objects.get(key)
        if _digest(piece) != copy.digests_by_file[file_name][number]:
            raise Corrupt("DIGEST_MISMATCH", key=key)
        return piece

    def layouts(self) -> set[bytes]:
        """Of which there is anything."""
        return {bytes.fromhex(key.split("/")[2]) for key in self._objects.keys(ROOT)}

    def collect(self, layout: bytes) -> None:
        """Delete what nobody needs any more."""
        manifests = self.manifests(layout)
        gone = [each for each in outdated(manifests) if self._old(each.made_ms)]
        for manifest in gone:
            self._delete(f"{_folder(layout)}/manifests/{manifest.name}")
        named = {run.name for each in manifests if each not in gone for run in each.runs}
        for key in self._objects.keys(f"{_folder(layout)}/runs"):
            name = key.split("/")[-2]
            if name not in named and self._old(int(name.partition("-")[0])):
                self._objects.delete(key)

    def drop(self, layout: bytes, *, idle_ms: int) -> None:
        """Delete all of a layout, unless somebody made a manifest within that time."""
        manifests = self.manifests(layout)
        if self._now_ms() - max((each.made_ms for each in manifests), default=0) > idle_ms:
            for key in self._objects.keys(_folder(layout)):  # manifests come first
                self._delete(key)

    def _delete(self, key: str) -> None:
        self._objects.delete(key)
        self._read.pop(key, None)

    def _old(self, moment_ms: int) -> bool:
        return self._now_ms() - moment_ms > GRACE_MS

    def _now_ms(self) -> int:
        return self._clock.now_us() // 1_000


def _folder(layout: bytes) -> str:
    return f"{ROOT}/{layout.hex()}"


def _name(key: str) -> str:
    return key.rpartition("/")[-1]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pieces(file: int) -> Iterator[bytes]:
    at = 0
    while piece := os.pread(file, PIECE_BYTES, at):
        yield piece
        at += len(piece)
