# SPDX-License-Identifier: Apache-2.0
"""What the features must be: a plain fold over the set of stored events, one entity at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

WINDOW_US_BY_NAME = {"1h": 3_600_000_000, "30d": 30 * 86_400_000_000}
AGGREGATES = ("count", "sum", "mean", "min", "max", "last")


@dataclass(frozen=True, slots=True)
class Order:
    """A stored event, as its publisher made it."""

    event_id: str
    customer: str
    shop: str
    amount: float
    at_us: int


def feature_names(view: str) -> list[str]:
    return [
        f"{view}:{aggregate}_{window}" for aggregate in AGGREGATES for window in WINDOW_US_BY_NAME
    ]


def answers(orders: Iterable[Order], as_of_us: int) -> dict[tuple[str, str], float]:
    """By (entity, feature), for both views; rounded to float32 as they are served."""
    by_entity: dict[tuple[str, str], list[Order]] = {}
    for order in orders:
        by_entity.setdefault(("customer", order.customer), []).append(order)
        by_entity.setdefault(("shop", order.shop), []).append(order)
    return {
        (entity, f"{view}:{aggregate}_{window}"): float(np.float32(value))
        for (view, entity), own in by_entity.items()
        for window, span_us in WINDOW_US_BY_NAME.items()
        for aggregate, value in _fold(own, as_of_us - span_us, as_of_us).items()
    }


def _fold(orders: list[Order], after_us: int, until_us: int) -> Mapping[str, float]:
    inside = sorted(
        (order for order in orders if after_us < order.at_us <= until_us),
        key=lambda order: (order.at_us, order.event_id.encode()),
    )
    amounts = [order.amount for order in inside]
    if not amounts:
        return {name: 0.0 if name == "count" else math.nan for name in AGGREGATES}
    total = math.fsum(amounts)
    return {
        "count": float(len(amounts)),
        "sum": total,
        "mean": total / len(amounts),
        "min": min(amounts),
        "max": max(amounts),
        "last": amounts[-1],
    }
