# SPDX-License-Identifier: Apache-2.0
"""Uploads that may be cut: what came is kept in parts, and the next call goes on behind them.

A call gathers them in a file on disk, with what comes.

The digest of the whole alone makes it an artifact. Bytes that turn out wrong are forgotten with
their parts, so that nobody can spoil a digest for those who have the right ones.
"""

from __future__ import annotations

import os
from typing import IO

import structlog

from headrace.errors import Conflict, Corrupt, Invalid, NotFound
from headrace_kit.clock import Clock
from headrace_kit.failpoints import failpoint
from headrace_registry.domain.artifact import ArtifactMetadata
from headrace_registry.domain.upload import (
    FOLDER,
    PART_BYTES,
    PART_BYTES_MIN,
    PARTS_BYTES_MAX,
    BegunUpload,
    Part,
    parts_of,
    without_gap,
)
from headrace_registry.handlers.artifacts import has_artifact, upload_artifact
from headrace_registry.ports import Acceptor, ArtifactStore, RegistryStore

log = structlog.get_logger(__name__)


def begin_upload(metadata: ArtifactMetadata, *, artifacts: ArtifactStore) -> BegunUpload:
    """What is there of these bytes; `metadata` was checked before."""
    if has_artifact(metadata.digest, artifacts):
        return BegunUpload(stored=True, offset_bytes=metadata.size_bytes)
    chain = without_gap(_parts(metadata.digest, artifacts), end=metadata.size_bytes)
    return BegunUpload(stored=False, offset_bytes=chain[-1].end if chain else 0)


class Upload:
    """A call's upload into an empty file: `add` what comes, then `finish`; `keep` when it was cut.

    Raises Conflict UPLOAD_MOVED unless what was kept before ends at the offset.
    """

    def __init__(
        self,
        metadata: ArtifactMetadata,
        offset_bytes: int,
        *,
        file: IO[bytes],
        artifacts: ArtifactStore,
        clock: Clock,
    ) -> None:
        self._metadata, self._artifacts, self._clock = metadata, artifacts, clock
        self._file = file
        self._fill(offset_bytes)
        self._size_bytes = self._kept_bytes = offset_bytes
        self._room = True

    def add(self, chunk: bytes) -> None:
        """Raises Invalid BAD_REQUEST for more bytes than were announced."""
        if self._size_bytes + len(chunk) > self._metadata.size_bytes:
            raise _other_size()
        self._file.write(chunk)
        self._size_bytes += len(chunk)
        if self._room and self._size_bytes - self._kept_bytes >= PART_BYTES:
            self.keep()

    def keep(self) -> None:
        """Puts what was not kept yet where the next call finds it, if that is worth it."""
        while (left_bytes := self._size_bytes - self._kept_bytes) >= PART_BYTES_MIN:
            first, end = self._kept_bytes, self._kept_bytes + min(left_bytes, PART_BYTES)
            if not self._has_room(end - first):
                return
            part = Part(self._metadata.digest, first, end, self._clock.now_us())
            self._file.seek(first)
            self._artifacts.put_if_absent(part.key, self._file.read(end - first))
            self._file.seek(0, os.SEEK_END)
            self._kept_bytes = end
            failpoint("registry.upload.part_kept")

    def finish(self, *, store: RegistryStore, acceptor: Acceptor) -> str:
        """Stores the artifact; raises Invalid BAD_REQUEST for too few bytes, and as
        `upload_artifact` does.
        """
        if self._size_bytes != self._metadata.size_bytes:
            self.keep()  # gRPC tells some calls that were cut as if they had come to their end
            raise _other_size()
        try:
            digest = upload_artifact(
                self._metadata,
                self._file,
                store=store,
                artifacts=self._artifacts,
                acceptor=acceptor,
            )
        except (Corrupt, Invalid):
            self._forget()
            raise
        failpoint("registry.upload.stored")
        self._forget()
        return digest

    def _fill(self, offset_bytes: int) -> None:
        """With what came before."""
        digest = self._metadata.digest
        parts = _parts(digest, self._artifacts) if offset_bytes else []
        chain = without_gap(parts, end=self._metadata.size_bytes)
        wanted = [part for part in chain if part.end <= offset_bytes]
        if (wanted[-1].end if wanted else 0) != offset_bytes:
            raise Conflict("UPLOAD_MOVED", digest=digest, offset_bytes=offset_bytes)
        try:
            for part in wanted:
                self._file.write(self._artifacts.get(part.key))
        except NotFound as err:  # another call has finished it, or it was too old
            raise Conflict("UPLOAD_MOVED", digest=digest, offset_bytes=offset_bytes) from err

    def _has_room(self, size_bytes: int) -> bool:
        kept = sum(part.size_bytes for part in parts_of(self._artifacts.keys(FOLDER)))
        self._room = kept + size_bytes <= PARTS_BYTES_MAX
        if not self._room:
            log.warning("upload_not_kept", digest=self._metadata.digest, kept_bytes=kept)
        return self._room

    def _forget(self) -> None:
        for part in _parts(self._metadata.digest, self._artifacts):
            self._artifacts.delete(part.key)


def sweep_uploads(*, artifacts: ArtifactStore, clock: Clock) -> int:
    """Forgets the parts that nobody went on with, and tells how many."""
    now_us = clock.now_us()
    old = [part for part in parts_of(artifacts.keys(FOLDER)) if part.outlived(now_us)]
    for part in old:
        artifacts.delete(part.key)
    return len(old)


def _parts(digest: str, artifacts: ArtifactStore) -> list[Part]:
    return parts_of(artifacts.keys(f"{FOLDER}/{digest}"))


def _other_size() -> Invalid:
    return Invalid("BAD_REQUEST", field="size_bytes", problem="differs from the bytes sent")
