# SPDX-License-Identifier: Apache-2.0
"""Bytes by ordered bytes, and the consumed offsets beside them: one durable batch holds both.

A crash therefore finds the values and the offsets of the same moment, and replaying from these
offsets repeats nothing and skips nothing.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from headrace.errors import Busy
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition

KEY_BYTES_MAX = 511  # LMDB's own bound
ROOM_BYTES_MIN = 1 << 20


class StateStore(Protocol):
    """An ordered map of one writer and any number of readers."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the keys, in their order, all of one moment."""

    def scan(self, first: bytes, last_excluded: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values with first <= key < last_excluded, in order, all of one moment."""

    def commit(
        self,
        puts: Mapping[bytes, bytes],
        deletes: Collection[bytes],
        offsets: Mapping[Partition, int],
    ) -> None:
        """Store all or nothing, durably: the deletes, then the puts, and the offsets given.

        Raises Busy STATE_FULL when the store has reached its cap, DISK_FULL when its disk is full.
        """

    def offsets(self) -> dict[Partition, int]:
        """The next offset of every partition that a commit named."""

    def close(self) -> None:
        """Let go of the files."""


class LmdbStateStore:
    """StateStore on LMDB: readers never wait for the writer; each commit is synced to disk."""

    def __init__(self, path: Path, *, map_bytes_max: int) -> None:
        import lmdb  # the extra `state`: not every service has a state store

        path.mkdir(parents=True, exist_ok=True)
        self._path, self._bytes_max = path, map_bytes_max
        self._full: type[Exception] = lmdb.MapFullError
        self._error: type[Exception] = lmdb.Error
        self._env: Any = lmdb.open(str(path), map_size=map_bytes_max, max_dbs=2, readahead=False)
        self._values = self._env.open_db(b"values")
        self._offsets = self._env.open_db(b"offsets")

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin(self._values) as transaction:
            found: bytes | None = transaction.get(key)
            return found

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._env.begin(self._values) as transaction:
            return [transaction.get(key) for key in keys]

    def scan(self, first: bytes, last_excluded: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._env.begin(self._values) as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(first):
                return
            for key, value in cursor:
                if key >= last_excluded:
                    return
                yield key, value

    def commit(
        self,
        puts: Mapping[bytes, bytes],
        deletes: Collection[bytes],
        offsets: Mapping[Partition, int],
    ) -> None:
        try:
            with self._env.begin(write=True) as transaction:
                for key in deletes:
                    transaction.delete(key, db=self._values)
                with transaction.cursor(self._values) as cursor:
                    cursor.putmulti(sorted(puts.items()))
                for partition, offset in offsets.items():
                    transaction.put(_partition_key(partition), b"%d" % offset, db=self._offsets)
                failpoint("kit.state.in_batch")
        except self._full as err:
            raise Busy("STATE_FULL", path=self._path.name, bytes_max=self._bytes_max) from err
        except self._error as err:
            # A write that a full disk cuts short is an I/O error to LMDB, and takes what was left.
            if shutil.disk_usage(self._path).free >= ROOM_BYTES_MIN:
                raise
            raise Busy("DISK_FULL", path=self._path.name) from err

    def offsets(self) -> dict[Partition, int]:
        with self._env.begin(self._offsets) as transaction, transaction.cursor() as cursor:
            return {_key_partition(key): int(value) for key, value in cursor}

    def close(self) -> None:
        self._env.close()


class MemoryStateStore:
    """StateStore of a test: nothing outlives it."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._offsets: dict[Partition, int] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock:
            return [self._values.get(key) for key in keys]

    def scan(self, first: bytes, last_excluded: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            found = sorted(
                (key, value) for key, value in self._values.items() if first <= key < last_excluded
            )
        yield from found

    def commit(
        self,
        puts: Mapping[bytes, bytes],
        deletes: Collection[bytes],
        offsets: Mapping[Partition, int],
    ) -> None:
        with self._lock:
            for key in deletes:
                self._values.pop(key, None)
            self._values.update(puts)
            self._offsets.update(offsets)

    def offsets(self) -> dict[Partition, int]:
        return dict(self._offsets)

    def close(self) -> None:
        """There is nothing to let go of."""


def _partition_key(partition: Partition) -> bytes:
    return f"{partition.topic}:{partition.number}".encode()


def _key_partition(key: bytes) -> Partition:
    topic, _, number = key.decode().rpartition(":")
    return Partition(topic, int(number))
