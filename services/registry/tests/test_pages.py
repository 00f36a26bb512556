# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from headrace.errors import Invalid
from headrace_registry.domain.description import Description
from headrace_registry.domain.gate import Gate, GateState
from headrace_registry.domain.page import ListVersions, page_of
from headrace_registry.domain.signature import Signature
from headrace_registry.domain.version import ModelVersion
from headrace_registry.testing import a_trained_model


def versions(*numbers: int) -> list[ModelVersion]:
    gate, signature = Gate(GateState.PASSED, ()), Signature((), ())
    model = a_trained_model()
    return [
        ModelVersion(n, f"run-{n}", "delay", "", model, gate, 0, signature, Description())
        for n in numbers
    ]


@pytest.mark.parametrize(("asked", "limit"), [(0, 100), (1, 1), (100, 100), (10**9, 100)])
def test_page_size_is_clamped(asked: int, limit: int) -> None:
    assert limit == ListVersions("delay", asked, "").limit


def test_negative_page_size_is_refused() -> None:
    with pytest.raises(Invalid, match="page_size"):
        _ = ListVersions("delay", -1, "").limit


def test_token_leads_to_the_next_page() -> None:
    page = page_of(ListVersions("delay", 2, ""), versions(9, 8, 7))

    assert [9, 8] == [each.version for each in page.versions]
    assert 8 == ListVersions("delay", 2, page.next_page_token).below


def test_last_page_has_no_token() -> None:
    assert "" == page_of(ListVersions("delay", 2, ""), versions(2, 1)).next_page_token


@pytest.mark.parametrize("change", ["9{}", "{}0", "x", "8", "8.", "-8.{}", "٨.{}", "9" * 400])
def test_changed_token_is_refused(change: str) -> None:
    token = page_of(ListVersions("delay", 2, ""), versions(9, 8, 7)).next_page_token

    with pytest.raises(Invalid, match="page_token"):
        _ = ListVersions("delay", 2, change.format(token)).below


def test_token_of_another_model_is_refused() -> None:
    token = page_of(ListVersions("delay", 2, ""), versions(9, 8, 7)).next_page_token

    with pytest.raises(Invalid, match="page_token"):
        _ = ListVersions("other", 2, token).below
