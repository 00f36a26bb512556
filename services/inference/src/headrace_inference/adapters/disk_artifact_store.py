# SPDX-License-Identifier: Apache-2.0
"""ArtifactStore that keeps downloads in a folder of bounded size and trusts no byte of it.

A file gets its name, the digest, only when it is complete, and is hashed again at every load (P8):
a half or changed one is fetched anew. A full disk costs the cache, not the load.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import structlog

from headrace.errors import Busy, Corrupt, Invalid
from headrace_kit.failpoints import failpoint

DIGEST = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger(__name__)


class ArtifactSource(Protocol):
    def chunks(self, digest: str) -> Iterator[bytes]:
        """The artifact's bytes. Raises NotFound ARTIFACT_UNKNOWN, Unavailable."""


class DiskArtifactStore:
    """ArtifactStore over a source; the folder holds at most `cache_bytes_max`."""

    def __init__(
        self, source: ArtifactSource, folder: Path, *, cache_bytes_max: int, artifact_bytes_max: int
    ) -> None:
        self._source = source
        self._folder = folder
        self._cache_bytes_max = cache_bytes_max
        self._artifact_bytes_max = artifact_bytes_max

    def get(self, digest: str) -> bytes:
        if not DIGEST.fullmatch(digest):
            raise Invalid("BAD_REQUEST", field="digest")
        kept = self._read(digest)
        if kept is not None and sha256(kept).hexdigest() == digest:
            return kept
        data = self._download(digest)
        if sha256(data).hexdigest() != digest:
            raise Corrupt("DIGEST_MISMATCH", digest=digest)
        self._keep(digest, data)
        return data

    def _download(self, digest: str) -> bytes:
        data = bytearray()
        for chunk in self._source.chunks(digest):
            data += chunk
            failpoint("inference.model.download_half")
            if len(data) > self._artifact_bytes_max:
                raise Busy("ARTIFACT_TOO_LARGE", digest=digest, bytes_max=self._artifact_bytes_max)
        return bytes(data)

    def _read(self, digest: str) -> bytes | None:
        file = self._folder / digest
        try:
            os.utime(file)  # the least recently loaded goes first
            return file.read_bytes()
        except OSError:
            return None

    def _keep(self, digest: str, data: bytes) -> None:
        part = self._folder / f"{digest}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._folder / digest)
        except OSError as err:
            with contextlib.suppress(OSError):
                part.unlink()
            log.warning("model_cache_not_written", digest=digest, error=err.strerror)

    def _make_room(self, size_bytes: int) -> None:
        files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        used_bytes = sum(file.stat().st_size for file in files)
        for file in files:
            if used_bytes + size_bytes <= self._cache_bytes_max:
                return
            used_bytes -= file.stat().st_size
            file.unlink()
