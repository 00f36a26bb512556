# SPDX-License-Identifier: Apache-2.0
"""What a benchmark says at its end: one line of JSON that others read."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Outcome:
    """`value` in `unit` beside the raw limit of the same run; `peers` by name, `bar` in words."""

    name: str
    value: float
    unit: str
    raw: float
    bar: str
    ok: bool
    peers: Mapping[str, float] = field(default_factory=dict)

    def ratio_to_best_peer(self) -> float | None:
        """None where no peer ran."""
        return round(self.value / max(self.peers.values()), 4) if self.peers else None

    def line(self) -> str:
        return json.dumps(
            {
                "name": self.name,
                "value": round(self.value, 3),
                "unit": self.unit,
                "raw": round(self.raw, 3),
                "ratio_raw": round(self.value / self.raw, 4),
                "peers": {name: round(value, 3) for name, value in self.peers.items()},
                "ratio_to_best_peer": self.ratio_to_best_peer(),
                "bar": self.bar,
                "ok": self.ok,
            }
        )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
