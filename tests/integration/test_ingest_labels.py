# SPDX-License-Identifier: Apache-2.0
"""Labels read from the archive on disk, by keys that may say anything."""

from __future__ import annotations

import pytest

from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_rows import DeltaRows
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.testing import a_contract, a_raw
from headrace_kit.json_strict import decode
from headrace_kit.testing import a_batch

pytestmark = pytest.mark.integration

KEYS = ["UA1", "O'Hare", "x') or ('1'='1", '"; drop table records', "Zürich"]


@pytest.fixture
def rows(folder):
    """Rows of an archive with one record for each key."""
    contract, archive = a_contract(), DeltaArchive(folder.uri, folder.options)
    archive.open(contract, "t", [0], ids_max=1)
    records = [
        a_raw(number, record={"key": key.encode()}, flight=key) for number, key in enumerate(KEYS)
    ]
    found = judge(a_batch(records), contract, decode=decode).rows
    kept = found.select(*ARCHIVE_COLUMNS, *contract.stream.columns)
    archive.append(contract, kept, {0: Account()}, {0: Account(5)})
    return contract, DeltaRows(folder.uri, folder.options)


@pytest.mark.parametrize("key", KEYS)
def test_key_finds_its_own_record_and_no_other(key, rows):
    contract, records = rows

    found = records.of_keys(contract, ["_event_id", "flight"], key="flight", keys=[key])

    assert [key] == found["flight"].to_list()


def test_stream_without_records_and_column_without_values_are_empty(rows):
    contract, records = rows
    other = a_contract(name="others")
    columns = contract.stream.model_dump(mode="json", exclude_none=True)["columns"]
    wider = a_contract(2, columns=columns | {"gate": {"type": "string"}})

    assert 0 == records.of_keys(other, ["flight"], key="flight", keys=KEYS).height
    found = records.of_keys(wider, ["flight", "gate"], key="flight", keys=["UA1"])
    assert [("UA1", None)] == found.rows()
