# SPDX-License-Identifier: Apache-2.0
"""Bytes by digest; an ONNX file is looked through before anything may name it.

Files lie on disk while they are checked, and go from there to whoever wants them: how large they
are does not show in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import IO

import structlog

from headrace.errors import Busy, Conflict, Corrupt, Invalid, NotFound, Unavailable
from headrace_registry.domain.acceptance import Acceptance
from headrace_registry.domain.artifact import (
    ONNX,
    SAFETENSORS,
    ArtifactMetadata,
    artifact_key,
    check_container,
    check_digest_of,
    suspect_key,
)
from headrace_registry.domain.safetensors_file import begins_as_safetensors, check_safetensors
from headrace_registry.ports import Acceptor, ArtifactStore, RegistryStore, Spool

log = structlog.get_logger(__name__)


def upload_artifact(
    metadata: ArtifactMetadata,
    file: IO[bytes],
    *,
    store: RegistryStore,
    artifacts: ArtifactStore,
    acceptor: Acceptor,
) -> str:
    """Stores the file under its digest and returns it; a repeat finds it there already.

    Bytes that were changed where they lie are replaced: the right ones are at hand now.

    `metadata` was checked before the bytes were read. Raises Corrupt DIGEST_MISMATCH, Invalid
    PICKLE, FORMAT, EXTERNAL_DATA, OPSET or VALIDATION_LIMIT, and then nothing is stored.
    """
    check_digest_of(file, metadata.digest)
    check_container(file)
    if metadata.format == SAFETENSORS:
        check_safetensors(file)
    else:
        _accept(metadata.digest, file, store, acceptor)
    _store(metadata.digest, file, artifacts)
    return metadata.digest


def has_artifact(digest: str, artifacts: ArtifactStore) -> bool:
    """Whether the bytes are there, and nobody found them changed."""
    there = artifacts.exists(artifact_key(digest))
    return there and not artifacts.exists(suspect_key(digest))


@contextmanager
def downloaded(
    digest: str, *, artifacts: ArtifactStore, spool: Spool, offset_bytes: int = 0
) -> Iterator[IO[bytes]]:
    """A file that was verified whole, at the offset.

    Raises NotFound ARTIFACT_UNKNOWN, Corrupt DIGEST_MISMATCH for bytes that were changed, Invalid
    BAD_REQUEST for an offset outside them.
    """
    with spool() as file:
        file.writelines(artifacts.pieces(artifact_key(digest)))
        size_bytes = file.tell()
        with _suspecting(digest, artifacts):
            check_digest_of(file, digest)
        if not 0 <= offset_bytes <= size_bytes:
            raise Invalid("BAD_REQUEST", field="offset_bytes", problem="lies outside the artifact")
        file.seek(offset_bytes)
        yield file


def acceptance_of(
    digest: str, store: RegistryStore, artifacts: ArtifactStore, acceptor: Acceptor, spool: Spool
) -> Acceptance:
    """What was found in the file; one of before acceptance is looked through now.

    One that was looked through is verified as it is read: it needs no room on disk. Raises Conflict
    ARTIFACT_NOT_UPLOADED, and what `downloaded` raises besides.
    """
    known = _known(digest, store)
    try:
        if known is not None:
            with _suspecting(digest, artifacts):
                _check_stored(digest, artifacts)
            return known
        with downloaded(digest, artifacts=artifacts, spool=spool) as file:
            return _accept(digest, file, store, acceptor)
    except NotFound as err:
        raise Conflict("ARTIFACT_NOT_UPLOADED", digest=digest) from err


def _store(digest: str, file: IO[bytes], artifacts: ArtifactStore) -> None:
    key = artifact_key(digest)
    if not artifacts.put_file_if_absent(key, file):
        try:
            _check_stored(digest, artifacts)
        except Corrupt:
            log.error("stored_artifact_replaced", digest=digest)
            artifacts.put_file(key, file)  # never a delete: another may have replaced them by now
    artifacts.delete(suspect_key(digest))


def _check_stored(digest: str, artifacts: ArtifactStore) -> None:
    found = sha256()
    for piece in artifacts.pieces(artifact_key(digest)):
        found.update(piece)
    if found.hexdigest() != digest:
        raise Corrupt("DIGEST_MISMATCH", digest=digest, found=found.hexdigest())


@contextmanager
def _suspecting(digest: str, artifacts: ArtifactStore) -> Iterator[None]:
    """Leaves a mark when the stored bytes are found changed."""
    try:
        yield
    except Corrupt:
        with suppress(Busy, Unavailable):  # who reads them next would find it again
            artifacts.put_if_absent(suspect_key(digest), digest.encode())
        raise


def _known(digest: str, store: RegistryStore) -> Acceptance | None:
    with store.reading() as reader:
        return reader.acceptance(digest)


def _accept(digest: str, file: IO[bytes], store: RegistryStore, acceptor: Acceptor) -> Acceptance:
    known = _known(digest, store)
    if known is not None:
        return known
    try:
        found = acceptor.accept(file)
    except Invalid as err:
        if err.reason == "FORMAT" and begins_as_safetensors(file):
            problem = "it is safetensors: weights alone, which answer nothing"
            raise Invalid("FORMAT", format=ONNX, problem=problem) from err
        raise
    with store.transaction() as transaction:
        transaction.add_acceptance(digest, found)
    return found
