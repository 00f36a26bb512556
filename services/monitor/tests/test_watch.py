# SPDX-License-Identifier: Apache-2.0
"""What a monitor watches, as far as the definitions are known."""

from itertools import combinations

from headrace.application import parse_definition
from headrace_kit.kafka import Record
from headrace_monitor import testing
from headrace_monitor.adapters.definitions import Definitions
from headrace_monitor.domain.watch import watches

SCENE = testing.Scene()


def as_record(message, value=True) -> Record:
    return Record(message.topic, 0, 0, message.key, message.value if value else None, {}, 0)


def test_monitor_is_watched_when_its_endpoint_and_recipe_are_known():
    known = SCENE.definitions()
    needed = {("monitor", "delay"), ("endpoint", "delay"), ("recipe", "delay")}
    for size in range(4):
        for some in combinations(sorted(needed), size):
            found = watches({key: known[key] for key in some})
            assert (size == 3) == bool(found)


def test_endpoints_asked_by_the_same_key_are_compared():
    known = SCENE.definitions()
    other = {**SCENE.documents()[1], "name": "other", "entity_key": "airport",
             "columns": {"airport": "string"}}  # fmt: skip
    known["endpoint", "other"] = parse_definition(other)

    assert {"delay", "delay-static"} == watches(known)["delay"].endpoints


def test_window_holds_its_beginning_and_not_its_end():
    watch = SCENE.a_watch()
    hour = testing.HOUR_US

    assert testing.at_us(1) == watch.window_end_us(testing.START_US)
    assert testing.at_us(1) == watch.window_end_us(testing.START_US + hour - 1)
    assert testing.at_us(2) == watch.window_end_us(testing.START_US + hour)


def test_definitions_tell_of_each_change_and_of_removal():
    seen = []
    definitions = Definitions(on_change=lambda found: seen.append(set(found)))
    for document in SCENE.documents():
        definitions.take(as_record(testing.a_definition(document)))
    assert {"delay"} == seen[-1]

    removed = testing.a_definition(SCENE.documents()[-1])
    definitions.take(as_record(removed, value=False))
    assert set() == seen[-1]
    assert {} == definitions.watches()
