# SPDX-License-Identifier: Apache-2.0
"""Artifacts: bytes named by their sha256. What runs code when read is refused at the door.

ONNX and, for weights alone, safetensors are stored. The digest is checked first, so that a damaged
upload is told from a bad file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import IO

from headrace.errors import Busy, Corrupt, Invalid
from headrace_registry.domain.name import check_digest
from headrace_registry.domain.pickle_text import PICKLE_MAGIC, ZIP_MAGIC

# Pickle 0 and 1 have no marker: they begin by opening a container or naming a class to call.
PICKLE_TEXT = (b"(dp", b"(lp", b"(i", b"ccopy_reg\n", b"c__builtin__\n", b"cbuiltins\n", b"cos\n",
               b"cposix\n", b"csubprocess\n")  # fmt: skip
ONNX, SAFETENSORS = "onnx", "safetensors"
# What a container holds would have to be unpacked to be looked at, and somebody would unpack it.
CONTAINERS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
              b"7z\xbc\xaf": "7z", b"\x93NUMPY": "numpy", b"\x89HDF": "hdf5"}  # fmt: skip
TAR_MAGIC, TAR_MAGIC_AT = b"ustar", 257
# What torch.save writes into its zip, to be unpickled.
TORCH_PICKLE = b"data.pkl"
PIECE_BYTES = 1 << 20
# So many bytes of a file tell whether people wrote it.
TEXT_BYTES = 512


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


def suspect_key(digest: str) -> str:
    """What lies here says that the stored bytes of the digest were found changed."""
    check_digest(digest)
    return f"suspects/{digest}"


def check_metadata(metadata: ArtifactMetadata, *, bytes_max: int) -> None:
    """Raises Invalid BAD_REQUEST or FORMAT, Busy ARTIFACT_TOO_LARGE, before any byte is read."""
    check_digest(metadata.digest)
    if metadata.format not in (ONNX, SAFETENSORS):
        problem = "onnx is taken, and safetensors for weights"
        raise Invalid("FORMAT", format=metadata.format[:64], problem=problem)
    if metadata.size_bytes <= 0:
        problem = "is negative" if metadata.size_bytes else "the file is empty"
        raise Invalid("BAD_REQUEST", field="size_bytes", problem=problem)
    if metadata.size_bytes > bytes_max:
        raise Busy("ARTIFACT_TOO_LARGE", size_bytes=metadata.size_bytes, bytes_max=bytes_max)


def check_digest_of(file: IO[bytes], digest: str) -> None:
    """Raises Corrupt DIGEST_MISMATCH (P8)."""
    file.seek(0)
    found = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        found.update(piece)
    if found.hexdigest() != digest:
        raise Corrupt("DIGEST_MISMATCH", digest=digest, found=found.hexdigest())


def check_container(file: IO[bytes]) -> None:
    """Raises Invalid PICKLE for what is unpickled when it is read, FORMAT for what is unpacked."""
    file.seek(0)
    data = file.read(PIECE_BYTES)
    if data.startswith((*PICKLE_MAGIC, *PICKLE_TEXT)):
        raise Invalid("PICKLE", problem="begins as a pickle does")
    if data.startswith(ZIP_MAGIC):
        if _holds(file, TORCH_PICKLE):
            raise Invalid("PICKLE", problem="is a torch archive, which holds a pickle")
        raise Invalid("FORMAT", problem="is a zip archive")
    if data[TAR_MAGIC_AT : TAR_MAGIC_AT + len(TAR_MAGIC)] == TAR_MAGIC:
        raise Invalid("FORMAT", problem="is a tar archive")
    for magic, name in CONTAINERS.items():
        if data.startswith(magic):
            raise Invalid("FORMAT", problem=f"is a {name} file")
    if _text(data[:TEXT_BYTES]):
        raise Invalid("FORMAT", problem="is a text file")


def _text(begun: bytes) -> bool:
    """Whether people wrote it; ONNX and safetensors begin with bytes that no text has."""
    told = begun.decode("utf-8", errors="ignore")
    whole = len(told.encode()) > len(begun) - 4  # a character may be cut
    return bool(told) and whole and all(each.isprintable() or each in "\t\r\n" for each in told)


def _holds(file: IO[bytes], wanted: bytes) -> bool:
    file.seek(0)
    before = b""
    while piece := file.read(PIECE_BYTES):
        if wanted in before + piece:
            return True
        before = piece[-len(wanted) :]
    return False
