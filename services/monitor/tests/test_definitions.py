# SPDX-License-Identifier: Apache-2.0
"""What is watched follows `registry.definitions`, also where something is taken back."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_kit.testing import a_record
from headrace_monitor.adapters.definitions import Definitions
from headrace_monitor.domain.watch import Watch
from headrace_monitor.testing import Scene, a_definition


def test_monitor_that_was_taken_back_watches_nothing() -> None:
    scene, told = Scene(), list[Mapping[str, Watch]]()
    definitions = Definitions(on_change=told.append)
    for document in scene.documents():
        message = a_definition(document)
        definitions.take(a_record(message.value, key=message.key))
    assert {scene.name} == definitions.watches().keys()

    definitions.take(a_record(None, key=f"monitor/{scene.name}".encode()))

    assert {} == definitions.watches() == told[-1]
