# SPDX-License-Identifier: Apache-2.0
"""Who vouches for a version: a detached bundle, kept as an artifact and named by its digest."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Signing:
    """The bundle that holds the signature, whose it is, and how many there were with it."""

    bundle_digest: str
    signer: str
    signings: int


UNSIGNED = Signing("", "", 0)


@dataclass(frozen=True, slots=True)
class SignVersion:
    """Keep who vouches for a version, and open its gate if that was all it waited for."""

    request_id: str
    model: str
    version: int
    bundle: bytes
    reason: str = field(default="", repr=False)
