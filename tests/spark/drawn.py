# SPDX-License-Identifier: Apache-2.0
"""Many values of a strategy at once: a Spark task takes seconds, whatever it is told."""

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy


def drawn(strategy: SearchStrategy, count: int, number: int) -> list:
    """`count` values of a strategy, always the same for a number."""
    values: list = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value) -> None:
        values.append(value)

    collect()
    return (values * count)[-count:]
