# SPDX-License-Identifier: Apache-2.0
"""What a contract makes of a record, step by step, and what is left of personal data."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from headrace.errors import Invalid
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.judging import judge
from headrace_ingest.testing import a_contract, a_raw, a_stream_document
from headrace_kit.json_strict import decode
from headrace_kit.testing import a_batch

KEY = b"a key of the tests, 32 bytes long"


def a_contract_with(rules: dict[str, str] | None = None, **columns: dict[str, Any]) -> Contract:
    """The departures with more columns, and a key for personal data."""
    document = a_stream_document()
    stream = a_contract(columns=document["columns"] | columns, rules=rules or {}).stream
    return Contract(stream, 1, KEY)


def stored(contract: Contract, **sent: Any) -> dict[str, Any]:
    """The row of a record that brings this."""
    judged = judge(a_batch([a_raw(**sent)]), contract, decode=decode)
    assert {} == judged.refused
    return judged.rows.row(0, named=True)


def reasons(contract: Contract, **sent: Any) -> str:
    return judge(a_batch([a_raw(**sent)]), contract, decode=decode).refused[0]


def test_unit_is_converted():
    contract = a_contract_with(wind={"type": "float64", "unit": "m/s", "unit_from": "kn"})

    assert 1852 / 360 == stored(contract, wind=10)["wind"]


def test_scale_with_another_zero_is_converted():
    contract = a_contract_with(warm={"type": "float64", "unit": "degC", "unit_from": "degF"})

    assert pytest.approx(100) == stored(contract, warm=212)["warm"]


@pytest.mark.parametrize("sent", [..., None, "NA"])
def test_default_stands_for_what_is_absent(sent):
    gates = {"type": "int64", "default": 7, "map": {"NA": None}}

    assert 7 == stored(a_contract_with(gates=gates), gates=sent)["gates"]


@pytest.mark.parametrize(("sent", "kept"), [(-5, 0), (5, 5), (15, 10)])
def test_value_is_clipped_instead_of_refused(sent, kept):
    contract = a_contract_with(gates={"type": "int64", "min": 0, "max": 10, "clip": True})

    assert kept == stored(contract, gates=sent)["gates"]


@pytest.mark.parametrize(("sent", "kept"), [("12", 12), (" -3 ", -3), (4, 4)])
def test_number_sent_as_text_is_taken_where_the_contract_says_so(sent, kept):
    contract = a_contract_with(gates={"type": "int64", "cast": True, "trim": True})

    assert kept == stored(contract, gates=sent)["gates"]


@pytest.mark.parametrize("sent", ["12.5", "twelve", "9223372036854775808", "", True])
def test_text_that_is_no_such_number_is_refused(sent):
    contract = a_contract_with(gates={"type": "int64", "cast": True})

    assert "BAD_TYPE:gates" == reasons(contract, gates=sent)


def test_steps_follow_one_another():
    """Map, cast, unit, default, clip: 5 km are 5000 m, clipped to 3000; none is 1000."""
    far = {"type": "float64", "map": {"NA": None}, "cast": True, "unit": "m", "unit_from": "km",
           "default": 1000.0, "max": 3000, "clip": True}  # fmt: skip
    contract = a_contract_with(far=far)

    assert [3000.0, 1000.0, 2000.0] == [
        stored(contract, far=sent)["far"] for sent in ("5", "NA", 2)
    ]


def test_derived_column_is_computed_from_cleansed_ones_in_any_order():
    contract = a_contract_with(
        a_twice={"type": "float64", "derive": "b_hours * 2"},
        b_hours={"type": "float64", "derive": "delay / 60"},
    )

    row = stored(contract, delay=90, b_hours="ignored")
    assert (1.5, 3.0) == (row["b_hours"], row["a_twice"])


def test_event_time_may_be_derived():
    document = a_stream_document()
    columns = document["columns"] | {
        "at": {"type": "timestamp", "derive": "departed_at - 60000000"}
    }
    contract = a_contract(columns=columns, event_time="at")

    row = stored(contract)
    assert row["departed_at"] - 60_000_000 == row["_event_time_us"]


def test_rule_is_broken_where_it_is_false_and_not_where_it_is_null():
    contract = a_contract_with(rules={"delay_fits": "delay < clock"})

    assert "RULE_BROKEN:delay_fits" == reasons(contract, delay=600, clock=500)
    assert stored(contract, delay=None)["delay"] is None


def test_personal_data_is_hashed_with_the_key():
    pii = {"category": "contact", "treatment": "hash"}
    contract = a_contract_with(email={"type": "string", "pii": pii})

    expected = hmac.new(KEY, b"a@b.c", hashlib.sha256).hexdigest()
    row = stored(contract, email="a@b.c")
    assert expected == row["email"]
    assert b"a@b.c" not in row["_value"]


def test_dropped_column_is_checked_read_and_not_stored():
    pii = {"category": "health", "treatment": "drop"}
    contract = a_contract_with(
        age={"type": "int64", "min": 0, "pii": pii},
        adult={"type": "bool", "derive": "age >= 18"},
    )

    row = stored(contract, age=30)
    assert (None, True) == (row["age"], row["adult"])
    assert "OUT_OF_RANGE:age" == reasons(contract, age=-1)


def test_contract_with_a_hash_needs_a_key():
    pii = {"category": "contact", "treatment": "hash"}
    stream = a_contract_with(email={"type": "string", "pii": pii}).stream

    with pytest.raises(Invalid, match="INGEST_PII_KEY"):
        Contract(stream, 1).check_usable()


def test_contract_that_asks_for_nothing_has_no_step():
    assert ([], []) == (a_contract().steps, a_contract().protection)
