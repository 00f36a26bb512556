# SPDX-License-Identifier: Apache-2.0
"""A write carries a request id; a repeat gets the first answer, other content is a conflict."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """The id of a write and the digest of what it asked."""

    id: str
    digest: str


def request_of(command: object, request_id: str) -> Request:
    """`command` is a frozen dataclass, so its repr holds all that it asks and nothing else.

    A reason that a command came to have later is left out: a repeat of a request that the service
    of the version before has answered is known.
    """
    return Request(request_id, hashlib.sha256(repr(command).encode()).hexdigest())
