# SPDX-License-Identifier: Apache-2.0
"""ModelStreamInfer with Triton's types: one answer a request, in order, errors among them."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

import grpc
import pytest
from contracts.conformance.inference.asking import outcome, reason, simple_request
from contracts.conformance.inference.conftest import CALL_TIMEOUT_S
from contracts.conformance.inference.models import SIMPLE


@pytest.fixture(autouse=True)
def simple(held, stub) -> str:
    if outcome(lambda: streamed(stub, [])) == grpc.StatusCode.UNIMPLEMENTED:
        pytest.skip("the server does not stream")
    return held(SIMPLE)


def streamed(stub, requests) -> list:
    return list(stub.ModelStreamInfer(iter(requests), timeout=CALL_TIMEOUT_S))


def test_answers_come_in_the_order_of_the_requests(stub):
    ids = [str(number) for number in range(100)]
    answers = streamed(stub, [simple_request(id=each) for each in ids])

    assert ids == [answer.infer_response.id for answer in answers]
    assert {""} == {answer.error_message for answer in answers}


def test_error_is_an_answer_and_the_stream_goes_on(stub):
    bad = simple_request(id="bad")
    bad.inputs[0].datatype = "FP32"
    answers = streamed(stub, [simple_request(id="a"), bad, simple_request(id="b")])

    assert [False, True, False] == [bool(answer.error_message) for answer in answers]
    assert ["a", "b"] == [answers[0].infer_response.id, answers[2].infer_response.id]


def test_answer_comes_before_the_next_request_is_sent(stub):
    waiting: queue.Queue = queue.Queue()

    def requests() -> Iterator:
        while (request := waiting.get(timeout=CALL_TIMEOUT_S)) is not None:
            yield request

    answers = stub.ModelStreamInfer(requests(), timeout=CALL_TIMEOUT_S)
    for number in range(3):
        waiting.put(simple_request(id=str(number)))
        assert str(number) == next(answers).infer_response.id
    waiting.put(None)
    assert [] == list(answers)


def test_final_response_is_marked_when_that_is_asked_for(stub):
    request = simple_request()
    request.parameters["triton_enable_empty_final_response"].bool_param = True

    last = streamed(stub, [request])[-1]
    assert last.infer_response.parameters["triton_final_response"].bool_param


def test_stream_without_requests_ends_without_answers(stub):
    assert [] == streamed(stub, [])


def wait_for_room(stub) -> None:
    """Until streams that were left have ended at the server."""

    def ask() -> None:
        (answer,) = streamed(stub, [simple_request(id="z")])
        assert "z" == answer.infer_response.id

    until_s = time.monotonic() + CALL_TIMEOUT_S
    while (code := outcome(ask)) == grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert time.monotonic() < until_s, "no room"
    assert grpc.StatusCode.OK == code


def test_streams_that_are_cancelled_leave_room_for_others(stub):
    for _ in range(50):
        answers = stub.ModelStreamInfer(iter([simple_request()] * 3), timeout=CALL_TIMEOUT_S)
        outcome(lambda answers=answers: next(answers))
        answers.cancel()

    wait_for_room(stub)


def test_streams_beyond_the_bound_are_refused_and_calls_go_on(stub, call, ours):
    if not ours:
        pytest.skip("how many streams a server takes is its own affair")
    wait_for_room(stub)
    ends: list[queue.Queue] = []

    def opened():
        ends.append(queue.Queue())
        return stub.ModelStreamInfer(iter(ends[-1].get, None), timeout=CALL_TIMEOUT_S)

    streams = [opened() for _ in range(20)]
    for end in ends:
        end.put(simple_request())
    codes = [outcome(lambda stream=stream: next(stream)) for stream in streams]
    assert {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED} == set(codes)
    full = streams[codes.index(grpc.StatusCode.RESOURCE_EXHAUSTED)]
    assert "QUEUE_FULL" == reason(full)
    assert 2 == len(call("ModelInfer", simple_request()).outputs)
    for end in ends:
        end.put(None)
