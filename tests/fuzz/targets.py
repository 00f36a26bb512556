# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: where its files come from, what judges them, and its share of the time.

Each is imported when it is asked for, as a process that is forked for each file must be small.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.fuzz.campaign import Target
from tests.fuzz.mutators import ANY, JSON, PROTOBUF


def _of(place: str) -> Callable[[], Any]:
    module, name = place.split(".")
    return lambda: getattr(import_module(f"tests.fuzz.{module}"), name)()


TARGETS = {
    name: Target(name, _of(corpus), mutators, _of(judge), share)
    for name, corpus, mutators, judge, share in (
        ("hot", "requests.messages", PROTOBUF, "requests.hot_judge", 0.15),
        ("records", "requests.messages", PROTOBUF, "requests.record_judge", 0.1),
        ("rest", "requests.bodies", JSON, "requests.rest_judge", 0.07),
        ("safetensors", "parsers.safetensors_files", JSON, "parsers.safetensors_judge", 0.04),
        ("bundles", "parsers.bundles", JSON, "parsers.bundle_judge", 0.03),
        ("claims", "parsers.claims", ANY, "parsers.claim_judge", 0.01),
        ("onnx", "acceptance.corpus", PROTOBUF, "acceptance.Acceptances", 0.6),
    )
}
