# SPDX-License-Identifier: Apache-2.0
"""Archived departures, and a stream of reviews whose weak labels are archived as they come."""

from __future__ import annotations

import json

from headrace.application import parse_definition
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.adapters.label_book import AppliedLabels
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.domain.labels import Target
from headrace_ingest.handlers.look_up_labels import LookUpLabels, look_up_labels
from headrace_ingest.handlers.weak_labels import ApplyWeakLabels, apply_weak_labels
from headrace_ingest.testing import NOW_US, SetClock, a_contract, a_raw
from headrace_kit.json_strict import decode
from headrace_kit.testing import MemoryPublisher, a_batch, a_record

LATE = {"when": "delay > 30", "label": "late"}
REVIEWED = {
    "name": "flights.reviewed",
    "key": "flight",
    "id": "id",
    "event_time": "asked_at",
    "known_time": "known_at",
    "columns": {
        "id": {"type": "string", "required": True},
        "flight": {"type": "string", "required": True},
        "asked_at": {"type": "timestamp", "required": True},
        "known_at": {"type": "timestamp"},
        "verdict": {"type": "string", "one_of": ["late", "on-time"]},
        "origin": {"type": "string"},
        "votes": {"type": "string"},
    },
}


def a_label(name="late", **changes):
    document = {
        "kind": "label",
        "name": name,
        "description": "Was it late?",
        "stream": "flights.reviewed",
        "key": "flight",
        "value": "verdict = 'late'",
        "window": "2h",
    }
    return parse_definition(document | changes)


def a_weak_label(functions):
    weak = {"stream": "flights.departed", "key": "flight", "answer": "verdict", "votes": "votes"}
    return a_label(origin="origin", weak=weak | {"functions": functions})


class WeakWorld:
    """`archive` and `records` are of one store; each `apply` is a second after the one before."""

    def __init__(self, archive, records, **reviewed):
        self.departed, self.reviewed = a_contract(), a_contract(**(REVIEWED | reviewed))
        self.archive, self.records = archive, records
        self.contracts, self.labels = AppliedContracts(), AppliedLabels()
        self.clock, self.publisher = SetClock(), MemoryPublisher()
        self.archived, self.ids = {}, set()
        for contract in (self.departed, self.reviewed):
            self.contracts.put(contract)
            archive.open(contract, "t", [0], ids_max=1)
        flights = {"UA1": 60.0, "UA2": 60.0, "UA3": -3.0}
        self.store(
            self.departed,
            [
                a_raw(number, record={"key": flight.encode()}, flight=flight, delay=delay)
                for number, (flight, delay) in enumerate(flights.items())
            ],
        )

    def store(self, contract, records):
        """As the sink does: what is no record of the contract, or a repeat, is left out."""
        rows = judge(a_batch(records), contract, decode=decode).rows
        fresh = rows.filter(~rows["_event_id"].is_in(list(self.ids)))
        self.ids.update(fresh["_event_id"])
        before = self.archived.get(contract.name, 0)
        self.archived[contract.name] = after = before + max(1, len(records))
        kept = fresh.select(*ARCHIVE_COLUMNS, *contract.stream.columns)
        self.archive.append(contract, kept, {0: Account(before)}, {0: Account(after)})

    def apply(self, functions, *, archived=True):
        """What the functions do now; what they publish is `archived`."""
        self.labels.put(a_weak_label(functions))
        self.clock.us += 1_000_000
        self.publisher.published.clear()
        self.report = apply_weak_labels(
            ApplyWeakLabels("late", 0, NOW_US + 1),
            labels=self.labels,
            contracts=self.contracts,
            records=self.records,
            publisher=self.publisher,
            clock=self.clock,
        )
        if archived:
            self.archive_reviews([each.value for each in self.publisher.published])
        return self.report.labelled, self.report.taken_back

    def archive_reviews(self, values):
        self.store(
            self.reviewed,
            [
                a_record(
                    value,
                    key=json.loads(value)["flight"].encode(),
                    offset=number,
                    timestamp_ms=NOW_US // 1_000,
                )
                for number, value in enumerate(values)
            ],
        )

    def look_up(self, *flights, label="late", known_until_us=None):
        """Verdict and origin of each flight's label, weak ones too."""
        found = look_up_labels(
            LookUpLabels(
                label,
                [Target(flight, NOW_US) for flight in flights],
                known_until_us or self.clock.us,
                with_weak=True,
            ),
            labels=self.labels,
            contracts=self.contracts,
            records=self.records,
        )
        return [(each.value, each.origin) for each in found]
