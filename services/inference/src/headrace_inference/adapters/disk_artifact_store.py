# SPDX-License-Identifier: Apache-2.0
"""ArtifactStore that keeps downloads in a folder of bounded size and trusts no byte of it.

A file gets its name, the digest, only when it is complete, and is hashed again at every load (P8):
a half or changed one is fetched anew. A full disk costs the cache, not the load. Several processes
may share the folder: who downloads a digest has its part locked, the others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from headrace.errors import Busy, Corrupt, Invalid
from headrace_kit.failpoints import failpoint

PART = ".part"
TOO_LARGE_MAX = 1_000
# For the download of another process; whoever has waited so long downloads it for itself.
WAIT_S_MAX = 60.0
LOOK_INTERVAL_S = 0.05
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
        # Digests of what is not downloaded again to see how large it is, the last ones.
        self._too_large: dict[str, None] = {}
        for part in folder.glob(f"*{PART}"):
            with _claimed(part):  # gone after that, if it is of a process that was killed
                pass

    def fetch(self, digest: str) -> None:
        """Brings it to disk, chunk by chunk; where the disk takes nothing, `get` downloads it."""
        if not _touched(self._file(digest)):
            self._keep(digest, self._chunks(digest), wait_s=WAIT_S_MAX)

    def get(self, digest: str) -> bytes:
        kept = self._read(digest)
        if kept is not None:
            if sha256(kept).hexdigest() == digest:
                return kept
            self._forget(digest)
        data = b"".join(self._chunks(digest))
        _check(digest, sha256(data).hexdigest())
        self._keep(digest, [data])
        return data

    def _chunks(self, digest: str) -> Iterator[bytes]:
        if digest in self._too_large:
            raise self._refusal(digest)
        size_bytes = 0
        for chunk in self._source.chunks(digest):
            size_bytes += len(chunk)
            if size_bytes > self._artifact_bytes_max:
                self._note_too_large(digest)
                raise self._refusal(digest)
            yield chunk
            failpoint("inference.model.download_half")

    def _note_too_large(self, digest: str) -> None:
        if len(self._too_large) >= TOO_LARGE_MAX:
            del self._too_large[next(iter(self._too_large))]
        self._too_large[digest] = None

    def _refusal(self, digest: str) -> Busy:
        return Busy("ARTIFACT_TOO_LARGE", digest=digest, bytes_max=self._artifact_bytes_max)

    def _file(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise Invalid("BAD_REQUEST", field="digest")
        return self._folder / digest

    def _read(self, digest: str) -> bytes | None:
        file = self._file(digest)
        try:
            return file.read_bytes() if _touched(file) else None
        except OSError:
            return None

    def _forget(self, digest: str) -> None:
        with contextlib.suppress(OSError):
            self._file(digest).unlink()

    def _keep(self, digest: str, chunks: Iterable[bytes], *, wait_s: float = 0.0) -> None:
        """Unless another does. Not forced to disk: what a power cut tore is found by its hash."""
        file, part = self._folder / digest, self._folder / f"{digest}{PART}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _claimed(part, wait_s=wait_s) as claimed:
                if claimed is None or file.exists():
                    return
                _check(digest, _written(claimed, chunks))
                with _alone_in(self._folder):
                    self._make_room(part.stat().st_size)
                    part.replace(file)
        except OSError as err:
            log.warning("model_cache_not_written", digest=digest, error=err.strerror)

    def _make_room(self, size_bytes: int) -> None:
        kept = [file for file in self._folder.iterdir() if file.suffix != PART]
        files = sorted(kept, key=lambda file: file.stat().st_mtime_ns)
        used_bytes = sum(file.stat().st_size for file in files)
        for file in files:
            if used_bytes + size_bytes <= self._cache_bytes_max:
                return
            used_bytes -= file.stat().st_size
            file.unlink()


def _touched(file: Path) -> bool:
    """Whether it is there; if so it is the last to go."""
    try:
        os.utime(file)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _claimed(part: Path, *, wait_s: float = 0.0) -> Iterator[BinaryIO | None]:
    """The part, empty, of this caller alone until it is gone at the end; None when another has it.

    A process that is killed lets go of it.
    """
    until_s = time.monotonic() + wait_s
    while (file := _claim(part)) is None and time.monotonic() < until_s:
        time.sleep(LOOK_INTERVAL_S)
    if file is None:
        yield None
        return
    with file:
        try:
            yield file
        finally:
            part.unlink(missing_ok=True)


def _claim(part: Path) -> BinaryIO | None:
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(part.open("ab"))
        # Where another has it, or has just made it a whole file, it is not to be had.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if part.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                opened.pop_all()
                return file
    return None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time, for as long as it takes to look at the files."""
    fileno = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fileno, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fileno)


def _written(file: BinaryIO, chunks: Iterable[bytes]) -> str:
    """The digest of what was written."""
    found = sha256()
    for chunk in chunks:
        file.write(chunk)
        found.update(chunk)
    file.flush()
    return found.hexdigest()


def _check(digest: str, found: str) -> None:
    if found != digest:
        raise Corrupt("DIGEST_MISMATCH", digest=digest)
