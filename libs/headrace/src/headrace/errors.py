# SPDX-License-Identifier: Apache-2.0
"""The error tree of Headrace: an error is one branch, one reason of the closed list, and metadata.

HeadraceError   what went wrong            gRPC                              consumer
├─ Invalid      the sender's fault         INVALID_ARGUMENT                  dead letter
├─ Denied       the caller may not         UNAUTHENTICATED, PERMISSION_…     dead letter
├─ NotFound     a named thing is absent    NOT_FOUND                         dead letter
├─ Conflict     state forbids it, or done  ABORTED or FAILED_PRECONDITION    dead letter
├─ Corrupt      bytes do not match         DATA_LOSS                         dead letter
├─ Busy         our own limit is reached   RESOURCE_EXHAUSTED, retry delay   pause, no commit
└─ Unavailable  a dependency is down       UNAVAILABLE, retry delay          back off, no commit
anything else   a bug                      INTERNAL, opaque text             stop at the same offset

The reasons stand in `contracts/errors.yaml`; `headrace.reasons` is generated from it.
"""

from __future__ import annotations

from headrace.reasons import REASONS

# The one reason that many ask for: what waits for a topic goes on once that is there.
TOPIC_MISSING = "TOPIC_MISSING"


class HeadraceError(Exception):
    """An error with a reason from the closed list; `metadata` holds what the message names."""

    def __init__(self, reason: str, **metadata: object) -> None:
        self.reason = reason
        self.metadata = {name: str(value) for name, value in metadata.items()}
        super().__init__(reason, self.metadata)

    @property
    def retry_delay_s(self) -> float | None:
        """Seconds to wait before trying again; None when trying again cannot help."""
        return None

    def __str__(self) -> str:
        entry = REASONS[self.reason]
        details = ", ".join(f"{name}={value}" for name, value in self.metadata.items())
        return f"{self.reason}: {entry.means} {entry.next}" + (f" ({details})" if details else "")


class Invalid(HeadraceError):
    """The sender's fault: the same request can never succeed."""


class Denied(HeadraceError):
    """The caller is not known, or may not do this."""


class NotFound(HeadraceError):
    """A named thing is absent."""


class Conflict(HeadraceError):
    """The state forbids it, or it was done already."""


class Corrupt(HeadraceError):
    """Bytes do not match the digest that names them."""


class Busy(HeadraceError):
    """A limit of ours is reached."""

    @property
    def retry_delay_s(self) -> float | None:
        return 0.2


class Unavailable(HeadraceError):
    """A dependency is down or late; the outcome may be unknown."""

    @property
    def retry_delay_s(self) -> float | None:
        return 1.0


_BRANCHES = (Invalid, Denied, NotFound, Conflict, Corrupt, Busy, Unavailable)
_BRANCH_BY_KIND = {branch.__name__: branch for branch in _BRANCHES}


def error_by_reason(reason: str, **metadata: object) -> HeadraceError:
    """The error of a reason that arrived as text, in the branch of its kind.

    A reason that this version does not know is told as INTERNAL, with the reason beside it.
    """
    if reason not in REASONS:
        return HeadraceError("INTERNAL", unknown_reason=reason, **metadata)
    return _BRANCH_BY_KIND.get(REASONS[reason].kind, HeadraceError)(reason, **metadata)
