# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks NAME` (`make bench NAME=...`): measures the bars of one subject.

Run it alone on the machine. The last line is one JSON object, but for `loop`, which prints the
table of RESULTS.md.
"""

from __future__ import annotations

import sys

from benchmarks import (
    cold,
    density,
    entities,
    freshness,
    growth,
    inference,
    ingest,
    loop,
    online,
    pit,
    publish,
    registry,
    requests,
    state,
    stream,
    swap,
)
from benchmarks.outcome import say

BENCHMARKS = {
    "loop": loop.main,
    "stream": stream.main,
    "ingest": ingest.main,
    "freshness": freshness.main,
    "online": online.main,
    "publish": publish.main,
    "state": state.main,
    "growth": growth.main,
    "pit": pit.main,
    "registry": registry.main,
    "registry-followed": registry.main_followed,
    "pit-large": pit.main_large,
    "infer-single": inference.main_single,
    "infer-batch": inference.main_batch,
    "infer-heavy": inference.main_heavy,
    "infer-kafka": requests.main,
    "swap": swap.main,
    "cold": cold.main,
    "density": density.main,
    "infer-entity": entities.main,
}


def main(arguments: list[str]) -> int:
    name = arguments[0] if len(arguments) == 1 else ""
    if name not in BENCHMARKS:
        say(f"Say which one: python -m benchmarks {'|'.join(BENCHMARKS)}")
        return 2
    BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
