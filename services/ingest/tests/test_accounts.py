# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of an account."""

from __future__ import annotations

import pytest

from headrace_ingest.domain.accounts import RECORD_REASONS, Account, account_of

FULL = Account(
    offset=12,
    stored=6,
    late=2,
    repeats=3,
    dead_by_reason={"BAD_TYPE": 2, "EMPTY": 1},
    known_time_us=77,
)


def test_received_is_stored_and_dead_and_repeated():
    assert 12 == FULL.received


def test_counters_read_back_to_the_same_account():
    assert account_of(FULL.counters().get) == FULL


def test_empty_account_has_no_counters():
    assert {} == Account().counters()
    assert Account() == account_of(lambda counter: None)


@pytest.mark.parametrize("reason", RECORD_REASONS)
def test_every_reason_of_records_survives_its_counter(reason):
    account = Account(offset=1, dead_by_reason={reason: 1})

    assert account == account_of(account.counters().get)


def test_sum_of_accounts_adds_counts_and_keeps_the_furthest():
    more = Account(
        offset=15, stored=1, repeats=1, dead_by_reason={"EMPTY": 1, "TOO_LARGE": 1}, known_time_us=5
    )

    assert Account(
        offset=15,
        stored=7,
        late=2,
        repeats=4,
        dead_by_reason={"BAD_TYPE": 2, "EMPTY": 2, "TOO_LARGE": 1},
        known_time_us=77,
    ) == FULL.plus(more)
