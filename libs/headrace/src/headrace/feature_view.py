# SPDX-License-Identifier: Apache-2.0
"""What a feature view can say, as frozen and closed types.

Every answer is defined without rounding but the last: sums and squares are exact, a quantile is
one of the values, ties of event time are settled by the event id. So two ways of computing it
(online, SQL) can be held to the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    model_validator,
)

from headrace.definition_types import (
    SECONDS_BY_UNIT,
    Closed,
    ColumnName,
    Name,
    Span,
    duration_s,
    duration_text,
)
from headrace.expression import Expression, parse_expression

# Longer than all event times (1970 to 2199): a window of it sees everything.
LIFETIME_S = 400 * 366 * SECONDS_BY_UNIT["d"]
LAST_N_MAX = 32
# A quantile's share is counted in ten-thousandths, so that its rank is whole arithmetic.
Q_UNITS = 10_000
NAMES_IN_EXPRESSION = re.compile(r'"([^"]+)"|([a-z][a-z0-9_]*)')
Aggregate = Literal[
    "count", "sum", "mean", "std", "min", "max", "first", "last", "last_n", "distinct", "quantile"
]


def _window_s(value: object) -> object:
    return LIFETIME_S if value == "lifetime" else duration_s(value)


def _window_text(value: int) -> str:
    return "lifetime" if value == LIFETIME_S else duration_text(value)


def _window_bound(value: int) -> int:
    if value <= 0:
        raise ValueError("a window is a positive duration or lifetime")
    if value > LIFETIME_S:
        days = LIFETIME_S // SECONDS_BY_UNIT["d"]
        raise ValueError(f"a window is at most {days}d, or lifetime, which sees everything")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, LookupError) as err:
        raise ValueError(f"no time zone is named {value}; write such as Europe/Paris") from err
    return value


Window = Annotated[
    int,
    BeforeValidator(_window_s),
    AfterValidator(_window_bound),
    PlainSerializer(_window_text),
]
ZoneName = Annotated[str, AfterValidator(_zone)]


class WindowFeature(Closed):
    """An aggregate of the entity's records in a window; nulls of `column` are left out.

    A sliding window sees the event times in (as_of - window, as_of], a tumbling one the last
    complete window that began at a whole multiple of its length since 1970 in UTC; with
    `timezone`, at that zone's midnights.

    sum, mean: of the exact sum, rounded to float64 once. std: of the sample (ddof 1), the square
    root of fl(n * sum(x^2) - sum(x)^2) / (n * (n - 1)), where fl rounds the exact number once,
    however large or small it is; absent of fewer than two values. first, last: by (event time, id
    as bytes). last_n: `n` features `<name>_1` to `<name>_<n>`, the newest first. distinct: how many
    different values. quantile: the value of rank ceil(q * n) of the n in order, never between two.
    """

    aggregate: Aggregate
    column: ColumnName | None = None
    window_s: Window = Field(alias="window")
    tumbling: bool = False
    timezone: ZoneName | None = None
    n: int | None = Field(default=None, ge=1, le=LAST_N_MAX)
    q: float | None = Field(default=None, gt=0, lt=1)
    # What is answered where there is no answer.
    default: float | None = None

    @model_validator(mode="after")
    def _arguments_fit(self) -> WindowFeature:
        if (self.column is None) != (self.aggregate == "count"):
            raise ValueError("count takes no column, every other aggregate needs one")
        if (self.n is None) != (self.aggregate != "last_n"):
            raise ValueError("last_n needs n, every other aggregate takes none")
        if (self.q is None) != (self.aggregate != "quantile"):
            raise ValueError("quantile needs q, every other aggregate takes none")
        if self.q is not None and round(self.q * Q_UNITS) / Q_UNITS != self.q:
            raise ValueError("q has four decimals at most")
        return self

    @model_validator(mode="after")
    def _window_fits(self) -> WindowFeature:
        if self.timezone is not None and not self.tumbling:
            raise ValueError("a timezone says when the days of a tumbling window begin")
        if self.timezone is not None and self.window_s % SECONDS_BY_UNIT["d"]:
            raise ValueError("a tumbling window with a timezone is of whole days, such as 1d")
        if self.tumbling and self.window_s == LIFETIME_S:
            raise ValueError("a lifetime does not tumble: take tumbling away")
        return self

    @property
    def looks_back_s(self) -> int:
        """How far before a moment its records may lie; a zone may skip a day of its calendar."""
        day_s = SECONDS_BY_UNIT["d"] * (self.timezone is not None)
        return self.window_s * (1 + self.tumbling) + day_s


class RatioFeature(Closed):
    """The first of two features of the same view divided by the second, in float64.

    Absent where the second is 0 or one of the two is absent; their defaults count.
    """

    ratio: tuple[ColumnName, ColumnName]
    default: float | None = None


def _given(document: Any) -> Mapping[str, Any]:
    return document if isinstance(document, Mapping) else getattr(document, "__dict__", {})


def _feature_kind(feature: Any) -> str:
    return "ratio" if "ratio" in _given(feature) else "window"


StreamFeature = Annotated[
    Annotated[WindowFeature, Tag("window")] | Annotated[RatioFeature, Tag("ratio")],
    Discriminator(_feature_kind),
]


class Lookup(Closed):
    """A column from another stream, for every record of this one.

    Its value in the latest record of `stream` (by event time and id) among those whose key
    columns equal ours, whose `column` is not null, whose event time is in (event time - max_age,
    event time] of our record, and that were known at the as_of of the read: what comes late
    corrects. `key`: their column to ours.
    """

    stream: Name
    key: dict[ColumnName, ColumnName] = Field(min_length=1)
    column: ColumnName
    max_age_s: Span = Field(alias="max_age")


class StreamView(Closed):
    """Features of one entity, answered from a stream.

    `filter`: an expression, true for the records that count. `derive`: columns by expression,
    `lookups`: columns from other streams; both are columns for features, lookups not for
    expressions. `ttl`: an entity without a counted record in (as_of - ttl, as_of] has no features:
    all are absent, counts too. `publish_rows`: the newest row of each entity goes to
    `feature.rows.<view>`, for readers that keep them; the entity is the stream's key.
    """

    kind: Literal["view"] = "view"
    name: Name
    description: str
    stream: Name
    entity: tuple[ColumnName, ...] = Field(min_length=1)
    filter: str | None = None
    derive: dict[ColumnName, str] = Field(default_factory=dict)
    lookups: dict[ColumnName, Lookup] = Field(default_factory=dict)
    ttl_s: Span | None = Field(default=None, alias="ttl")
    publish_rows: bool | None = None  # not said in the JSON of the others
    features: dict[ColumnName, StreamFeature] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> StreamView:
        if twice := sorted({each for each in self.entity if self.entity.count(each) > 1}):
            raise ValueError(f"entity names {twice[0]} twice: once is enough")
        if both := sorted(self.derive.keys() & self.lookups.keys()):
            raise ValueError(f"column {both[0]} is derived and looked up: rename one")
        if self.publish_rows and self.lookups:
            raise ValueError("a view with lookups changes with another stream: publish no rows")
        names = [each for name, one in self.features.items() for each in _answered(name, one)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]} would be two features: rename one")
        for name, feature in self.features.items():
            for part in feature.ratio if isinstance(feature, RatioFeature) else ():
                if part not in names or isinstance(self.features.get(part), RatioFeature):
                    raise ValueError(f"ratio {name} needs {part} to be a feature with a window")
        return self

    def window_features(self) -> Mapping[str, WindowFeature]:
        """By name, those that look at records themselves."""
        found = self.features.items()
        return {name: each for name, each in found if isinstance(each, WindowFeature)}

    def looks_back_s(self) -> Iterator[tuple[str, int]]:
        """The streams that it reads, and how far before a moment their records count."""
        longest_s = max(each.looks_back_s for each in self.window_features().values())
        own_s = max(longest_s, self.ttl_s or 0)
        yield self.stream, own_s
        for lookup in self.lookups.values():
            yield lookup.stream, own_s + lookup.max_age_s


class RequestFeature(Closed):
    """A value computed from the request itself. hour and weekday are local to `timezone`.

    category: 1 + index in `categories`, 0 when not among them. weekday: Monday is 1.
    bucketize: how many of `boundaries` are at most the value.
    """

    transform: Literal["value", "hour", "weekday", "category", "bucketize"]
    column: ColumnName
    timezone: ZoneName | None = None
    categories: tuple[str, ...] | None = None
    boundaries: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _arguments_fit(self) -> RequestFeature:
        if (self.timezone is not None) != (self.transform in ("hour", "weekday")):
            raise ValueError("hour and weekday need a timezone, the others take none")
        if (self.categories is not None) != (self.transform == "category"):
            raise ValueError("category needs categories, the others take none")
        if (self.boundaries is not None) != (self.transform == "bucketize"):
            raise ValueError("bucketize needs boundaries, the others take none")
        if list(self.boundaries or ()) != sorted(set(self.boundaries or ())):
            raise ValueError("boundaries must grow, each once")
        return self


class ExpressionFeature(Closed):
    """An expression over numbers: columns of the request by name, and features of any view.

    A feature's full name stands in double quotes: `distance / "origin-departures:count_1h"`. All
    are float64 before they are rounded, with their defaults. A condition is 1 or 0.
    """

    expression: str
    default: float | None = None

    def parsed(self) -> Expression:
        """Raises Invalid BAD_DEFINITION."""
        names = (quoted or bare for quoted, bare in NAMES_IN_EXPRESSION.findall(self.expression))
        return parse_expression(self.expression, dict.fromkeys(names, "float64"))


def _request_kind(feature: Any) -> str:
    return "expression" if "expression" in _given(feature) else "transform"


class RequestView(Closed):
    """Features computed from the columns of the request, and from other features."""

    kind: Literal["view"] = "view"
    name: Name
    description: str
    features: dict[
        ColumnName,
        Annotated[
            Annotated[RequestFeature, Tag("transform")]
            | Annotated[ExpressionFeature, Tag("expression")],
            Discriminator(_request_kind),
        ],
    ] = Field(min_length=1)


Feature = WindowFeature | RatioFeature | RequestFeature | ExpressionFeature
View = StreamView | RequestView


def _view_kind(view: Any) -> str:
    return "stream" if _given(view).keys() & {"stream", "entity"} else "request"


# Of two kinds of view only that is checked which is meant, so that an error is about it.
AnyView = Annotated[
    Annotated[StreamView, Tag("stream")] | Annotated[RequestView, Tag("request")],
    Discriminator(_view_kind),
]


def features_by_name(view: View) -> dict[str, tuple[Feature, int]]:
    """By the name that is answered, without the view's: the feature, and which of its values.

    last_n of 3 is answered as three: `<name>_1` (the newest, place 0) to `<name>_3`.
    """
    return {
        answered: (feature, place)
        for name, feature in view.features.items()
        for place, answered in enumerate(_answered(name, feature))
    }


def feature_names(view: View) -> list[str]:
    """ "<view>:<feature>" for each value that the view can answer."""
    return [f"{view.name}:{name}" for name in features_by_name(view)]


def _answered(name: str, feature: Feature) -> Iterator[str]:
    if isinstance(feature, WindowFeature) and feature.n is not None:
        yield from (f"{name}_{number}" for number in range(1, feature.n + 1))
    else:
        yield name
