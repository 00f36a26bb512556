# SPDX-License-Identifier: Apache-2.0
"""An oracle in plain Python: it answers from the list of events by the sentences of the docs.

It shares no code with the service: exact rationals, one event after the other.
"""

import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from feature_world import NIGHT_BY_KIND, VIEWS, Event

from headrace.feature_view import LIFETIME_S, RatioFeature, StreamView, WindowFeature

SECOND_US = 1_000_000
# What the expressions of the tests mean.
MEANINGS = {
    "riders > 0": lambda e: e.riders is not None and e.riders > 0,
    "fare IS NOT NULL AND kind = 1": lambda e: e.fare is not None and e.kind == 1,
    "fare - 1": lambda e: None if e.fare is None else e.fare - 1,
    "riders * 2": lambda e: (
        None if e.riders is None or not -(2**62) <= e.riders < 2**62 else e.riders * 2
    ),
    "driver = 'bob'": lambda e: None if e.driver is None else e.driver == "bob",
    "LOWER(driver)": lambda e: None if e.driver is None else e.driver.lower(),
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Oracle:
    """What views answer, said event by event."""

    def __init__(self, *views: StreamView) -> None:
        self._views = {view.name: view for view in views or VIEWS}

    def answer(self, events, features, zone, kind, as_of) -> list[bytes]:
        """Bits of each feature (`<view>:<name>`) for one entity at one moment."""
        return [_bits(self._one(events, name, zone, kind, as_of)) for name in features]

    def _one(self, events, full_name, zone, kind, as_of) -> float:
        view_name, _, name = full_name.partition(":")
        view = self._views[view_name]
        known = _once_each(event for event in events if event.known <= as_of)
        counted = [event for event in known if _is_of(view, event, zone, kind)]
        return _answer(view, name, counted, as_of)


def _once_each(events) -> list[Event]:
    """Of repeats the first known."""
    first: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: event.known):
        first.setdefault(event.id, event)
    return list(first.values())


def _is_of(view: StreamView, event: Event, zone, kind) -> bool:
    asked = {"zone": zone, "kind": kind, "night": NIGHT_BY_KIND.get(kind)}
    for column in view.entity:
        value = getattr(event, column)
        if value is None or value == "" or value != asked[column]:
            return False
    return view.filter is None or MEANINGS[view.filter](event)


def _answer(view: StreamView, name: str, events: Sequence[Event], as_of: int) -> float:
    spec, place = _spec(view, name)
    if isinstance(spec, RatioFeature):
        above, below = (_answer(view, part, events, as_of) for part in spec.ratio)
        value = math.nan if below == 0 else _divided(above, below)
    elif view.ttl_s is not None and not any(
        as_of - view.ttl_s * SECOND_US < event.at <= as_of for event in events
    ):
        value = math.nan
    else:
        inside = [event for event in events if _inside(spec, event.at, as_of)]
        value = _aggregate(spec, place, inside, view.derive.get(spec.column))
    return spec.default if math.isnan(value) and spec.default is not None else value


def _spec(view: StreamView, name: str):
    if name in view.features:
        return view.features[name], 1
    stem, _, number = name.rpartition("_")
    return view.features[stem], int(number)


def _divided(above: float, below: float) -> float:
    try:
        return above / below
    except OverflowError:
        return math.copysign(math.inf, above) * math.copysign(1, below)


def _inside(spec: WindowFeature, at: int, as_of: int) -> bool:
    length = spec.window_s * SECOND_US
    if spec.window_s == LIFETIME_S:
        return at <= as_of
    if not spec.tumbling:
        return as_of - length < at <= as_of
    if spec.timezone is None:
        return at // length == as_of // length - 1
    days = spec.window_s // 86_400
    return _day(at, spec.timezone) // days == _day(as_of, spec.timezone) // days - 1


def _day(moment: int, timezone: str) -> int:
    local = (EPOCH + timedelta(microseconds=moment)).astimezone(ZoneInfo(timezone))
    return local.date().toordinal() - EPOCH.date().toordinal()


def _aggregate(
    spec: WindowFeature, place: int, events: Sequence[Event], made_by: str | None
) -> float:
    if spec.aggregate == "count":
        return float(len(events))
    ordered = sorted(events, key=lambda event: (event.at, event.id.encode()))
    value_of = MEANINGS[made_by] if made_by else lambda event: getattr(event, spec.column)
    held = [value_of(event) for event in ordered]
    values = [value for value in held if value is not None]
    if spec.aggregate == "distinct":
        return float(len(set(values)))
    if not values:
        return math.nan
    total = sum(map(Fraction, values), Fraction())
    match spec.aggregate:
        case "sum":
            return _float(total)
        case "mean":
            return _float(total) / len(values)
        case "std":
            return _std(values)
        case "min":
            return float(min(values))
        case "max":
            return float(max(values))
        case "first":
            return float(values[0])
        case "last":
            return float(values[-1])
        case "last_n":
            return float(values[-place]) if place <= len(values) else math.nan
        case "quantile":
            rank = math.ceil(Fraction(str(spec.q)) * len(values))
            return float(sorted(values)[rank - 1])
    raise AssertionError(spec.aggregate)


def _std(values) -> float:
    n = len(values)
    if n < 2:
        return math.nan
    mean = sum(map(Fraction, values), Fraction()) / n
    squares = sum(((value - mean) ** 2 for value in map(Fraction, values)), Fraction())
    spread = squares * n
    fours = (spread.numerator.bit_length() - spread.denominator.bit_length()) // 2
    root = math.sqrt(_float(spread / Fraction(4) ** fours) / (n * (n - 1)))
    return _float(Fraction(root) * Fraction(2) ** fours)


def _float(exact: Fraction) -> float:
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return 1.7976931348623157e308 if exact > 0 else -1.7976931348623157e308


def _bits(value: float) -> bytes:
    if math.isnan(value):
        return b"\x00\x00\xc0\x7f"
    largest = 3.4028234663852886e38
    return struct.pack("<f", min(max(value, -largest), largest) + 0.0)
