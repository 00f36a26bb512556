# SPDX-License-Identifier: Apache-2.0
"""What a caller asks for is bounded at every door."""

from __future__ import annotations

import pytest

from headrace.errors import Invalid
from headrace.ingest.v1 import dead_letter_service_pb2 as letters_pb
from headrace.ingest.v1 import label_service_pb2 as labels_pb
from headrace_ingest.adapters.dead_letter_api import DeadLetterApi
from headrace_ingest.adapters.label_api import LabelApi
from headrace_ingest.domain.asked import bounded


@pytest.mark.parametrize(("asked", "got"), [(0, 50), (1, 1), (500, 500), (501, 500)])
def test_number_is_clamped_and_0_takes_the_default(asked, got):
    assert got == bounded("page_size", asked, default=50, most=500)


@pytest.mark.parametrize("asked", [-1, -2, -(1 << 31)])
def test_negative_page_of_tasks_is_refused(asked):
    api = LabelApi(
        labels=None,
        contracts=None,
        records=None,
        tasks=None,
        publisher=None,
        clock=None,
        models=None,
    )
    with pytest.raises(Invalid, match="page_size"):
        api.ListTasks(labels_pb.ListTasksRequest(page_size=asked), None)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListDeadLetters", letters_pb.ListDeadLettersRequest(page_size=-1), "page_size"),
        (
            "GetDeadLetter",
            letters_pb.GetDeadLetterRequest(id="0-0", value_bytes_max=-1),
            "value_bytes_max",
        ),
        ("RedriveDeadLetters", letters_pb.RedriveDeadLettersRequest(letters_max=-1), "letters_max"),
    ],
)
def test_negative_number_of_dead_letters_is_refused(method, request_, field):
    api = DeadLetterApi(
        log=None, contracts=None, publisher=None, decode=None, archived=None, erased=None, seal=None
    )
    with pytest.raises(Invalid, match=field):
        list(getattr(api, method)(request_, None))
