# SPDX-License-Identifier: Apache-2.0
"""Views drawn at random: everything that a definition can say."""

from feature_world import AIR, RIDES
from hypothesis import strategies as st

from headrace.feature_view import StreamView

AGGREGATES = st.sampled_from(
    ["count", "sum", "mean", "std", "min", "max", "first", "last", "last_n", "distinct", "quantile"]
)
WINDOWS = st.sampled_from(
    [
        {"window": "1h"},
        {"window": "90m"},
        {"window": "3h"},
        {"window": "lifetime"},
        {"window": "1h", "tumbling": True},
        {"window": "7m", "tumbling": True},
        {"window": "1d", "tumbling": True, "timezone": "America/New_York"},
        {"window": "2d", "tumbling": True, "timezone": "Asia/Tokyo"},
    ]
)
DEFAULTS = st.none() | st.sampled_from([0.0, -1.5, 1e30])
NUMBERS = ["riders", "fare", "kind", "at"]
FILTERS = st.none() | st.sampled_from(["riders > 0", "fare IS NOT NULL AND kind = 1"])
DERIVED = {"net": "fare - 1", "twice": "riders * 2", "by_bob": "driver = 'bob'"}
WHO = {"who": "LOWER(driver)"}


@st.composite
def window_features(draw, numbers, texts) -> dict[str, object]:
    aggregate = draw(AGGREGATES)
    feature = {"aggregate": aggregate, "default": draw(DEFAULTS), **draw(WINDOWS)}
    if aggregate != "count":
        text = aggregate == "distinct" and draw(st.booleans())
        feature["column"] = draw(st.sampled_from(texts if text else numbers))
    if aggregate == "last_n":
        feature["n"] = draw(st.integers(1, 3))
    if aggregate == "quantile":
        feature["q"] = draw(st.sampled_from([0.0001, 0.1, 0.25, 0.5, 0.9, 0.9999]))
    return feature


AIR_KEYS = st.sampled_from([{"zone": "zone"}, {"zone": "driver"}])
AGES = st.sampled_from(["10m", "1h", "5h"])


@st.composite
def lookups(draw) -> dict[str, object]:
    """One or more of the air, found by one key or by two; the last is a text."""
    names = draw(st.lists(st.sampled_from(["temp", "felt", "sky"]), min_size=1, unique=True))
    return {
        name: {
            "stream": AIR["name"],
            "key": draw(AIR_KEYS),
            "column": "zone" if name == "sky" else "temp",
            "max_age": draw(AGES),
        }
        for name in names
    }


@st.composite
def views(draw, *, looking: bool = False, features_min: int = 1, features_max: int = 4):
    """A view of the rides by `zone`, by `zone` and `kind`, or by `night` and `zone`."""
    looked_up = draw(lookups()) if looking else {}
    numbers = [*NUMBERS, *DERIVED, *sorted(looked_up.keys() - {"sky"}) * 3]
    texts = ["driver", *WHO, *sorted(looked_up.keys() & {"sky"}) * 3]
    each = window_features(numbers, texts)
    drawn = draw(st.lists(each, min_size=features_min, max_size=features_max))
    features = {f"f{number}": feature for number, feature in enumerate(drawn)}
    single = [name for name, feature in features.items() if feature["aggregate"] != "last_n"]
    if single and draw(st.booleans()):
        parts = [draw(st.sampled_from(single)) for _ in range(2)]
        features["ratio"] = {"ratio": parts, "default": draw(DEFAULTS)}
    document = {
        "kind": "view",
        "name": "drawn",
        "description": "Drawn.",
        "stream": RIDES["name"],
        "entity": draw(st.sampled_from([("zone",), ("zone", "kind"), ("night", "zone")])),
        "filter": draw(FILTERS),
        "derive": DERIVED | WHO,
        "lookups": looked_up,
        "ttl": draw(st.none() | st.sampled_from(["20m", "2h"])),
        "features": features,
    }
    return StreamView.model_validate(document)
