# SPDX-License-Identifier: Apache-2.0
"""A process that was busy gives memory back when it rests, once."""

from headrace_inference.adapters.resting_memory import RestingMemory
from headrace_inference.domain.statistics import Execution, Statistics

ONE = Execution(
    endpoint="delay",
    version=1,
    rows=1,
    totals_ns=[1],
    queues_ns=[0],
    compute_input_ns=0,
    compute_infer_ns=1,
    compute_output_ns=0,
    ended_at_us=0,
)


def test_memory_is_given_back_once_behind_each_time_of_work():
    statistics, given = Statistics(), []
    memory = RestingMemory(statistics, lambda: given.append(True))

    def looked(*, answered):
        for _ in range(answered):
            statistics.record(ONE)
        memory.look()
        return len(given)

    assert [0, 0] == [looked(answered=0) for _ in range(2)]
    assert [0, 0] == [looked(answered=2) for _ in range(2)]
    assert [1, 1] == [looked(answered=0) for _ in range(2)]
    assert [1, 2] == [looked(answered=1), looked(answered=0)]
