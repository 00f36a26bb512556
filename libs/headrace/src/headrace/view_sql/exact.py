# SPDX-License-Identifier: Apache-2.0
"""Exact sums in SQL: a number is digits of 26 bits at places, `amount * 2**(26 * place)`.

A float is cut into three digits, which loses no bit; digits of one place are added as whole
numbers. Two passes of carrying leave digits of at most 2**25 + 1 (Avizienis, Signed-Digit Number
Representations, 1961): then all below a place is smaller than one there and has the sign of its
first digit. So the four highest digits and that sign are enough to round the sum once, and no carry
has to travel through all places, which SQL could not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

from headrace.view_sql.steps import Steps, by_slot, chosen, exploded

BITS = 26
BASE = 1 << BITS
HALF = BASE >> 1
# Digits of a value, and of its square: the highest is at `top`.
VALUE_PARTS, SQUARE_PARTS = 3, 6
QUESTION = ("entity", "as_of_us")
FLOAT64_MAX = "1.7976931348623157e308"


@dataclass(frozen=True, slots=True)
class Amount:
    """What is added up in a slot: a column's digits, or those of its squares, in a window."""

    inside: str
    column: str
    kind: Literal["d", "s"]

    @property
    def parts(self) -> int:
        return VALUE_PARTS if self.kind == "d" else SQUARE_PARTS


def digits_of_whole(column: str) -> list[list[str]]:
    """Layers of columns, each over those before: the digits of an int64."""
    above = f"({column} >> {BITS})"
    highest = f"({column} >> {2 * BITS})"
    return [
        [
            f"CAST(2 AS BIGINT) AS {column}_top",
            f"{highest} AS {column}_d0",
            f"{above} - {highest} * {BASE} AS {column}_d1",
            f"{column} - {above} * {BASE} AS {column}_d2",
        ]
    ]


def digits_of_float(column: str) -> list[list[str]]:
    """The place is found by the logarithm, a little too low rather than too high: the highest
    digit is then one bit longer, and the lowest still holds the last bit.
    """
    power = f"POWER(2e0, -{BITS // 2} * {column}_top)"
    place = f"(LN(NULLIF(ABS({column}), 0e0)) / 0.6931471805599453e0 - 1e-9) / {BITS}e0"
    scaled = f"{column}_scaled"
    rest = f"(({scaled} - FLOOR({scaled})) * {BASE}e0)"
    return [
        [f"COALESCE(CAST(FLOOR({place}) AS BIGINT), 0) AS {column}_top"],
        # In two steps, for a power alone may leave the range of floats.
        [f"{column} * {power} * {power} AS {scaled}"],
        [
            f"CAST(FLOOR({scaled}) AS BIGINT) AS {column}_d0",
            f"CAST(FLOOR({rest}) AS BIGINT) AS {column}_d1",
            f"CAST(({rest} - FLOOR({rest})) * {BASE}e0 AS BIGINT) AS {column}_d2",
        ],
    ]


def digits_of_square(column: str) -> list[str]:
    """Columns over those of the value; products are cut in two, so that many can be added."""
    d0, d1, d2 = (f"{column}_d{part}" for part in range(VALUE_PARTS))
    products = [
        f"{d0} * {d0}",
        f"2 * {d0} * {d1}",
        f"2 * {d0} * {d2} + {d1} * {d1}",
        f"2 * {d1} * {d2}",
        f"{d2} * {d2}",
    ]
    over = [f"({product}) >> {BITS}" for product in products]
    cut = [f"({p}) - (({p}) >> {BITS}) * {BASE}" for p in products]
    parts = [
        over[0],
        *(f"{low} + ({high})" for low, high in zip(cut, over[1:], strict=False)),
        cut[-1],
    ]
    return [f"{part} AS {column}_s{number}" for number, part in enumerate(parts)]


def totals(steps: Steps, source: str, amounts: dict[int, Amount]) -> str:
    """Digits of the sums of many slots; `held`: how many values each added up."""
    parts = max(each.parts for each in amounts.values())
    held = steps.add(
        "held",
        chosen(
            "entity",
            "as_of_us",
            exploded(_amount(slot, each, parts) for slot, each in amounts.items()),
        ).from_(source),
    )
    sums = [f"SUM(each.p{part}) AS total_{part}" for part in range(parts)]
    added = (
        chosen(*QUESTION, "each.slot AS slot", "each.top AS top", "COUNT(*) AS held", *sums)
        .from_(held)
        .where("each.holds")
        .group_by(*QUESTION, "each.slot", "each.top")
    )
    # By the question and the slot it stays divided among workers for all that is done to digits.
    counted = "CAST(SUM(held) OVER (PARTITION BY entity, as_of_us, slot) AS BIGINT) AS held"
    whole = [f"CAST(total_{part} AS BIGINT) AS total_{part}" for part in range(parts)]
    summed = steps.add(
        "added", chosen(*QUESTION, "slot", "top", counted, *whole).from_(added.subquery("tops"))
    )
    digits = [_digit(f"top - {part}", f"total_{part}") for part in range(parts)]
    return carried(steps, "digits", _cut(summed, digits))


def _amount(slot: int, amount: Amount, parts: int) -> dict[str, str]:
    """All have as many parts, those that a value lacks are 0."""
    digits = [f"{amount.column}_{amount.kind}{part}" for part in range(amount.parts)]
    digits += ["CAST(0 AS BIGINT)"] * (parts - amount.parts)
    return {
        "slot": f"{slot}",
        "holds": f"{amount.inside} AND NOT {amount.column} IS NULL",
        "top": f"{amount.column}_top" if amount.kind == "d" else f"2 * {amount.column}_top + 1",
        **{f"p{part}": digit for part, digit in enumerate(digits)},
    }


def carried(steps: Steps, name: str, amounts: exp.Select) -> str:
    """Amounts below 2**62 at places, of any number at each: one digit at each."""
    above = f"((amount + {HALF}) >> {BITS})"
    highest = f"(({above} + {HALF}) >> {BITS})"
    balanced = [
        _digit("place", f"amount - {above} * {BASE}"),
        _digit("place + 1", f"{above} - {highest} * {BASE}"),
        _digit("place + 2", highest),
    ]
    for turn in ("once", "twice"):
        grouped = steps.add(f"{name}_{turn}", _grouped(amounts))
        amounts = _cut(grouped, balanced)
    return steps.add(name, _grouped(amounts))


def _grouped(amounts: exp.Select) -> exp.Select:
    """Digits at one place become one; a 0 is none."""
    key = (*QUESTION, "slot", "held", "each.place")
    return (
        chosen(*key[:-1], "each.place AS place", "CAST(SUM(each.amount) AS BIGINT) AS amount")
        .from_(amounts.subquery("amounts"))
        .where("each.amount <> 0")
        .group_by(*key)
        .having("SUM(each.amount) <> 0")
    )


def _cut(source: str, digits: list[dict[str, str]]) -> exp.Select:
    """Each row as several digits."""
    return chosen(*QUESTION, "slot", "held", exploded(digits)).from_(source)


def _digit(place: str, amount: str) -> dict[str, str]:
    return {"place": place, "amount": amount}


def spreads(steps: Steps, digits: str, squares: dict[int, int]) -> str:
    """Adds n * sum(x^2) - sum(x)^2 in place of the sum of squares, `squares` by slot of the sum.

    Every digit of a sum meets every one of the same sum, and a partner that is none.
    """
    partners = (
        "ARRAY_AGG({'place': place, 'amount': amount}) OVER (PARTITION BY entity, as_of_us, slot)"
    )
    alone = "[{'place': CAST(0 AS BIGINT), 'amount': CAST(NULL AS BIGINT)}]"
    found = chosen("*", f"{partners} AS partners").from_(digits)
    met = chosen("*", f"UNNEST(LIST_CONCAT(partners, {alone})) AS partner")
    sums, of_squares = (", ".join(map(str, each)) for each in (squares, squares.values()))
    slots = by_slot({sums: f"{slot}" for sums, slot in squares.items()})
    single = f"CASE WHEN slot IN ({of_squares}) THEN amount * held ELSE amount END"
    product = f"CASE WHEN slot IN ({sums}) THEN -(amount * partner.amount) ELSE 0 END"
    terms = chosen(
        *QUESTION,
        f"CASE WHEN partner.amount IS NULL THEN slot ELSE {slots} END AS slot",
        "held",
        exploded(
            [
                _digit(
                    "place + partner.place",
                    f"CASE WHEN partner.amount IS NULL THEN {single} ELSE {product} END",
                )
            ]
        ),
    )
    terms = terms.from_(met.from_(found.subquery("found")).subquery("met"))
    return carried(steps, "spreads", terms)


def rounded(steps: Steps, source: str, squares: dict[int, int]) -> str:
    """`value`: each slot's number, rounded once to float64; a number that is 0 has no row. Where
    there was a sum of squares, `squares` as in `spreads`, it is the std.

    The sum of two floats that are exact is rounded once (IEEE 754), and the sign of the rest is
    half of the lowest digit's unit: it moves the sum off a tie and never to another float.
    """
    topped = chosen("*", "MAX(place) OVER (PARTITION BY entity, as_of_us, slot) AS top")
    ends = (
        f"SUM(CASE top - place WHEN {first} THEN amount * {BASE} WHEN {first + 1} THEN amount"
        f" ELSE 0 END) AS {column}"
        for first, column in ((0, "high"), (2, "low"))
    )
    key = (*QUESTION, "slot", "held", "top")
    rest = "ARG_MAX(amount, place) FILTER (WHERE place < top - 3) AS rest"
    cut = chosen(*key, *ends, rest).from_(topped.from_(source).subquery("topped")).group_by(*key)
    sign = "CASE WHEN rest > 0 THEN 0.5e0 WHEN rest < 0 THEN -0.5e0 ELSE 0e0 END"
    high, low = "CAST(high AS DOUBLE)", "CAST(low AS DOUBLE)"
    near_one = f"{high} * {1 << 2 * BITS}e0 + ({low} + {sign}) AS near_one"
    nearly = chosen("*", near_one).from_(cut.subquery("cut"))
    value = _scaled("near_one", f"{BITS} * (top - 3)")
    if squares:
        # The spread may be far beyond the range where its root is within: the root is scaled.
        of_squares = ", ".join(map(str, squares.values()))
        pairs = "(CAST(held AS DOUBLE) * CAST(held - 1 AS DOUBLE))"
        root = _scaled(f"SQRT(near_one / {pairs})", f"{BITS // 2} * (top - 3)")
        value = f"CASE WHEN slot IN ({of_squares}) THEN {root} ELSE {value} END"
    valued = chosen(*QUESTION, "slot", f"{value} AS value").from_(nearly.subquery("nearly"))
    return steps.add(
        "sums",
        chosen(*QUESTION, "slot", f"{bounded('value', FLOAT64_MAX)} AS value").from_(
            valued.subquery("valued")
        ),
    )


def _scaled(value: str, power: str) -> str:
    """Times 2**power. In two steps, for a power alone may leave the range of floats: at most the
    second rounds.
    """
    half = f"FLOOR(({power}) / 2e0)"
    return f"({value}) * POWER(2e0, {half}) * POWER(2e0, {power} - {half})"


def bounded(value: str, most: str) -> str:
    """Beyond the range is its end."""
    beyond = f"WHEN {value} > {most} THEN {most} WHEN {value} < -{most} THEN -{most}"
    return f"CASE {beyond} ELSE {value} END"
