# SPDX-License-Identifier: Apache-2.0
import errno

import grpc
import pytest
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

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
from headrace.rpc import error_of, retry_delay_s
from headrace_kit.error_status import to_status

# Of more than the 512 bytes that a value holds.
LIST = "\n".join(f"column c{number}: was optional, is required" for number in range(50))


class Call(grpc.RpcError):
    """The error that a client gets for a status."""

    def __init__(self, code, details="", trailers=()):
        self._code, self._details, self._trailers = code, details, trailers

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return self._trailers


def called(error):
    status = rpc_status.to_status(to_status(error))
    return Call(status.code, status.details, status.trailing_metadata)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("TENSOR_NAME", input="x"), "INVALID_ARGUMENT"),
        (NotFound("MODEL_UNKNOWN", model="delay"), "NOT_FOUND"),
        (Conflict("GATE_NOT_PASSED", version=3), "FAILED_PRECONDITION"),
        (Conflict("ALIAS_MOVED", generation=7), "ABORTED"),
        (Conflict("REQUEST_REUSED", request_id="r"), "ALREADY_EXISTS"),
        (Corrupt("DIGEST_MISMATCH", digest="abc"), "DATA_LOSS"),
        (Busy("QUEUE_FULL"), "RESOURCE_EXHAUSTED"),
        (Unavailable("RECORDS_BEHIND", until_us=5), "UNAVAILABLE"),
        (Unavailable("STREAM_STALLED"), "DEADLINE_EXCEEDED"),
        (Invalid("UNSUPPORTED", problem="no shared memory"), "UNIMPLEMENTED"),
        (HeadraceError("MODEL_NONFINITE", version=2), "INTERNAL"),
        (Conflict("CONTRACT_INCOMPATIBLE", stream="s", changes="a\n\nb\n"), "FAILED_PRECONDITION"),
        (Conflict("CONTRACT_INCOMPATIBLE", stream="s", changes=LIST), "FAILED_PRECONDITION"),
    ],
)
def test_error_survives_the_way_over_grpc(error, code):
    call = called(error)
    received = error_of(call)

    assert code == call.code().name
    assert type(error) is type(received)
    assert (error.reason, error.metadata) == (received.reason, received.metadata)


def test_bug_gives_nothing_of_itself_away():
    call = called(KeyError("/secret/path"))

    assert grpc.StatusCode.INTERNAL is call.code()
    assert "secret" not in call.details()
    assert "INTERNAL" == error_of(call).reason


def test_delay_is_sent_for_what_may_be_tried_again_only():
    assert 0.2 == retry_delay_s(called(Busy("QUEUE_FULL")))
    assert 1.0 == retry_delay_s(called(Unavailable("RESTORING")))
    assert retry_delay_s(called(Busy("BATCH_TOO_LARGE"))) is None
    assert retry_delay_s(called(Busy("TOO_MANY_INPUTS"))) is None
    assert retry_delay_s(called(Invalid("BAD_REQUEST"))) is None


def test_list_is_cut_at_a_line_where_the_trailers_hold_no_more():
    changes = "\n".join([LIST] * 9)

    call = called(Conflict("CONTRACT_INCOMPATIBLE", changes=changes))

    assert sum(len(value) for _, value in call.trailing_metadata()) < 7_000
    assert set(error_of(call).metadata["changes"].split("\n")) == set(LIST.split("\n"))


def test_names_that_end_in_numbers_stay_apart():
    metadata = {"a-2": "two", "b": "one", "b-3": "three"}

    assert metadata == error_of(called(Conflict("TAG_MOVED", **metadata))).metadata


def test_half_a_surrogate_pair_in_what_is_wrong_is_shown_by_its_escape():
    error = error_of(called(Invalid("FORMAT", problem="\ud800 is no name")))

    assert ("FORMAT", "\\ud800 is no name") == (error.reason, error.metadata["problem"])


def test_long_metadata_is_cut_so_that_the_trailers_hold_it():
    error = Invalid("BAD_DEFINITION", **{f"field{n}": "ü" * 5_000 for n in range(20)})

    trailers = called(error).trailing_metadata()

    assert sum(len(value) for _, value in trailers) < 6_000
    assert "BAD_DEFINITION" == error_of(called(error)).reason


@pytest.mark.parametrize(
    ("code", "details", "branch", "reason"),
    [
        ("UNAVAILABLE", "connection refused", Unavailable, "SERVICE_UNAVAILABLE"),
        ("DEADLINE_EXCEEDED", "", Unavailable, "SERVICE_UNAVAILABLE"),
        ("CANCELLED", "", Unavailable, "SERVICE_UNAVAILABLE"),
        ("RESOURCE_EXHAUSTED", "message larger than max", Busy, "MESSAGE_TOO_LARGE"),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit", Busy, "QUEUE_FULL"),
        ("INVALID_ARGUMENT", "no", Invalid, "BAD_REQUEST"),
        ("UNAUTHENTICATED", "no client certificate", Denied, "TOKEN_UNKNOWN"),
        ("PERMISSION_DENIED", "not this host", Denied, "ACTION_FORBIDDEN"),
        ("UNIMPLEMENTED", "", HeadraceError, "INTERNAL"),
    ],
)
def test_error_that_is_not_ours_becomes_the_nearest(code, details, branch, reason):
    received = error_of(Call(grpc.StatusCode[code], details))

    assert (branch, reason) == (type(received), received.reason)


def test_field_that_is_named_is_a_field_violation():
    status = to_status(Invalid("BAD_REQUEST", field="items", problem="is empty"))
    [told] = [detail for detail in status.details if detail.Is(BadRequest.DESCRIPTOR)]
    found = BadRequest()
    told.Unpack(found)

    [violation] = found.field_violations
    assert ("items", "is empty") == (violation.field, violation.description)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_process_without_file_descriptors_is_at_a_limit(number: int) -> None:
    status = to_status(OSError(number, "Too many open files", "/secret/path"))

    assert code_pb2.RESOURCE_EXHAUSTED == status.code
    assert status.message.startswith("FILES_EXHAUSTED")
    assert "/secret/path" not in status.message


def test_other_errors_of_the_system_are_bugs() -> None:
    assert code_pb2.INTERNAL == to_status(OSError(errno.EIO, "broken")).code
