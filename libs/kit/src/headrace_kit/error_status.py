# SPDX-License-Identifier: Apache-2.0
"""HeadraceError to gRPC status, without loss; `headrace.rpc.error_of` makes the way back.

The reason travels in `google.rpc.ErrorInfo` of the domain "headrace", the delay of what may be
tried again in `google.rpc.RetryInfo`, a named field in `google.rpc.BadRequest` (https://google.aip.dev/193).
A list, a line for each entry, may need several values: `changes` goes on in `changes-2`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from headrace.errors import (
    Busy,
    Conflict,
    Corrupt,
    Denied,
    HeadraceError,
    Invalid,
    NotFound,
    Unavailable,
)
from headrace.reasons import REASONS
from headrace.rpc import DOMAIN, part_name

# A repeat with other content, and a compare-and-set that lost; other conflicts are preconditions.
REASONS_BY_CODE = {
    code_pb2.ALREADY_EXISTS: (
        "DUPLICATE_CONFLICT",
        "REQUEST_REUSED",
        "RUN_CONFLICT",
        "ALREADY_RUNNING",
    ),
    code_pb2.ABORTED: ("ALIAS_MOVED", "ROLLOUT_MOVED", "TAG_MOVED"),
    code_pb2.DEADLINE_EXCEEDED: ("DEADLINE_UNMET", "STREAM_STALLED"),
    code_pb2.UNIMPLEMENTED: ("UNSUPPORTED",),
    code_pb2.UNAUTHENTICATED: ("TOKEN_UNKNOWN",),
}
CODE_BY_REASON = {reason: code for code, those in REASONS_BY_CODE.items() for reason in those}
CODE_BY_BRANCH: dict[type[HeadraceError], int] = {
    Invalid: code_pb2.INVALID_ARGUMENT,
    Denied: code_pb2.PERMISSION_DENIED,
    NotFound: code_pb2.NOT_FOUND,
    Conflict: code_pb2.FAILED_PRECONDITION,
    Corrupt: code_pb2.DATA_LOSS,
    Busy: code_pb2.RESOURCE_EXHAUSTED,
    Unavailable: code_pb2.UNAVAILABLE,
    HeadraceError: code_pb2.INTERNAL,
}
# Ends of the reasons whose request is over a limit by itself, whoever else asks.
NO_RETRY = ("TOO_LARGE", "TOO_MANY_INPUTS", "DEVICE_MEMORY")
# A status travels in the trailers, which hold 8 KiB after their encoding.
METADATA_ITEMS_MAX = 8
TEXT_BYTES_MAX = 512
BUG = "INTERNAL: A bug. Report it with the log."


def status_code(error: HeadraceError) -> int:
    """The gRPC code of an error, as a number of google.rpc.Code."""
    if error.reason in CODE_BY_REASON:
        return CODE_BY_REASON[error.reason]
    return next(code for branch, code in CODE_BY_BRANCH.items() if isinstance(error, branch))


def as_limit(error: BaseException) -> BaseException:
    """A process that may open no more files has reached a limit, wherever that shows: no bug."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Busy("FILES_EXHAUSTED")
    return error


def retry_after_s(error: BaseException) -> float | None:
    """What a caller is told to wait; None where the same request would be too large again."""
    if not isinstance(error, HeadraceError) or error.reason.endswith(NO_RETRY):
        return None
    return error.retry_delay_s


def to_status(error: BaseException) -> Status:
    """The status of an error; a bug gives away nothing of itself."""
    error = as_limit(error)
    if not isinstance(error, HeadraceError):
        error_info = ErrorInfo(reason="INTERNAL", domain=DOMAIN)
        return Status(code=code_pb2.INTERNAL, message=BUG, details=[_packed(error_info)])
    shown = [part for name, value in error.metadata.items() for part in _spread(name, value)]
    metadata = dict(shown[:METADATA_ITEMS_MAX])
    details = [_packed(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))]
    if "field" in metadata:
        about = metadata.get("problem", REASONS[error.reason].means)
        violation = BadRequest.FieldViolation(field=metadata["field"], description=about)
        details.append(_packed(BadRequest(field_violations=[violation])))
    delay_s = retry_after_s(error)
    if delay_s is not None:
        delay = Duration()
        delay.FromMilliseconds(int(delay_s * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    return Status(code=status_code(error), message=_cut(str(error)), details=details)


def _spread(name: str, value: str) -> Iterator[tuple[str, str]]:
    """Whole lines as far as a value holds them; what is one line is cut."""
    number, held = 1, ""
    for line in map(_cut, value.split("\n")):
        longer = f"{held}\n{line}" if held else line
        if len(longer.encode()) > TEXT_BYTES_MAX:
            yield part_name(name, number), held
            number, held = number + 1, line
        else:
            held = longer
    yield part_name(name, number), held


def _cut(text: str) -> str:
    """Half a surrogate pair, which JSON can name and UTF-8 has not, is shown by its escape."""
    return text.encode(errors="backslashreplace")[:TEXT_BYTES_MAX].decode(errors="ignore")


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
