# SPDX-License-Identifier: Apache-2.0
"""Artifacts: bytes named by their sha256. What runs code when read is refused at the door.

Only ONNX is stored. The digest is checked first, so that a damaged upload is told from a bad file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from headrace.errors import Busy, Corrupt, Invalid
from headrace_registry.domain.name import check_digest
from headrace_registry.domain.onnx_file import check_onnx

# The protocol marker of pickle 2 to 5, which joblib and the old torch format begin with too.
PICKLE_MAGIC = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
# Pickle 0 and 1 have no marker: they begin by opening a container or naming a class to call.
PICKLE_TEXT = (b"(dp", b"(lp", b"(i", b"ccopy_reg\n", b"c__builtin__\n", b"cbuiltins\n", b"cos\n",
               b"cposix\n", b"csubprocess\n")  # fmt: skip
ZIP_MAGIC = b"PK\x03\x04"
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257


@dataclass(frozen=True, slots=True)
class ArtifactMetadata:
    """What the sender says about the bytes that follow."""

    digest: str
    size_bytes: int
    format: str


def artifact_key(digest: str) -> str:
    """Where the bytes lie in the object store; nothing but a checked digest becomes a key."""
    check_digest(digest)
    return f"sha256/{digest}"


def check_metadata(metadata: ArtifactMetadata, *, bytes_max: int) -> None:
    """Raises Invalid BAD_REQUEST or FORMAT, Busy ARTIFACT_TOO_LARGE, before any byte is read."""
    check_digest(metadata.digest)
    if metadata.format != "onnx":
        raise Invalid("FORMAT", format=metadata.format[:64], problem="only onnx is taken")
    if metadata.size_bytes <= 0:
        raise Invalid("BAD_REQUEST", field="size_bytes", problem="must be positive")
    if metadata.size_bytes > bytes_max:
        raise Busy("ARTIFACT_TOO_LARGE", size_bytes=metadata.size_bytes, bytes_max=bytes_max)


def check_digest_of(data: bytes, digest: str) -> None:
    """Raises Corrupt DIGEST_MISMATCH (P8)."""
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise Corrupt("DIGEST_MISMATCH", digest=digest, found=found)


def check_content(data: bytes) -> None:
    """Raises Invalid PICKLE, FORMAT or EXTERNAL_DATA."""
    if data.startswith((*PICKLE_MAGIC, *PICKLE_TEXT)):
        raise Invalid("PICKLE", problem="begins as a pickle does")
    if data.startswith(ZIP_MAGIC):
        # torch.save writes a zip whose data.pkl is unpickled.
        if b"data.pkl" in data:
            raise Invalid("PICKLE", problem="is a torch archive, which holds a pickle")
        raise Invalid("FORMAT", problem="is a zip archive")
    if data[TAR_MAGIC_AT : TAR_MAGIC_AT + len(TAR_MAGIC)] == TAR_MAGIC:
        raise Invalid("FORMAT", problem="is a tar archive")
    check_onnx(data)
