# SPDX-License-Identifier: Apache-2.0
"""Many values of a strategy at once: a Spark task takes seconds, whatever it is told."""

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

# Which values are drawn, the same in every run; another number looks at others.
NUMBER = 21


def drawn(strategy: SearchStrategy, count: int) -> list:
    """`count` values of a strategy."""
    values: list = []

    @seed(NUMBER)
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
