# SPDX-License-Identifier: Apache-2.0
"""From the text of an expression to its typed tree: sqlglot parses, an allow-list decides.

A node that sqlglot may give and that is not in `_RULES` is refused, as is every argument that a
rule does not name. What our semantics ask for is put into the tree here, so that a compiler has no
decision left: numbers are cast to one type, and a float result is checked to be finite before
anything but further arithmetic sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from headrace.errors import Invalid
from headrace.expression import (
    DEPTH_MAX,
    NODES_MAX,
    TEXT_CHARACTERS_MAX,
    ColumnType,
    Node,
)
from headrace.expression_typing import (
    INT64_MAX,
    NUMBERS,
    Refused,
    alike,
    all_alike,
    as_float,
    compared,
    concrete,
    instead,
    microseconds,
    moment,
    number,
    number_literal,
    only,
    position,
    refuse,
    settled,
    shown,
    type_of,
    typed,
    whole_argument,
)

KNOWN_NAMES_MAX = 12

ROUND_DIGITS_MAX = 15
LIST_VALUES_MAX = 256
SPLIT = "split it, as by a derived column"
TOO_DEEP = f"nests deeper than {DEPTH_MAX} steps; {SPLIT}"
# What a compiler writes twice (see NODES_MAX).
WRITTEN_TWICE = frozenset({"finite", "remainder", "floor", "ceil", "coalesce", "cast"})
CASTS = {
    ("int64", "float64"), ("int64", "string"), ("int64", "timestamp"), ("float64", "int64"),
    ("bool", "int64"), ("bool", "string"), ("timestamp", "int64"), ("string", "int64"),
    ("string", "float64"),
}  # fmt: skip


def check(text: str, types: Mapping[str, str]) -> Node:
    """The typed tree; Invalid BAD_DEFINITION as `parse_expression` says."""
    return _Checker(text, types).tree()


class _Checker:
    def __init__(self, text: str, types: Mapping[str, str]) -> None:
        self._text, self._types = text, types

    def tree(self) -> Node:
        try:
            parsed = self._parsed()
            tree = settled(self._node(parsed))
            if isinstance(parsed.unnest(), exp.Null):
                refuse("NULL alone has no type; write CAST(NULL AS int64) or another type", parsed)
            _check_size(tree, parsed)
        except Refused as err:
            raise self._invalid(err.problem, position(err.at)) from err
        except RecursionError as err:
            raise self._invalid(TOO_DEEP, 1) from err
        return tree

    def _parsed(self) -> exp.Expr:
        if len(self._text) > TEXT_CHARACTERS_MAX:
            refuse(f"is longer than {TEXT_CHARACTERS_MAX} characters; {SPLIT}", None)
        if re.search("[\0\ud800-\udfff]", self._text):
            refuse("holds a character that is none", None)
        try:
            return sqlglot.parse_one(self._text, read="duckdb")
        except ParseError as err:
            raise self._invalid(*self._fault(err)) from err
        except (SqlglotError, ValueError) as err:
            problem = "is no expression: a quote is not closed, or a character is wrong"
            raise self._invalid(problem, 1) from err

    def _fault(self, error: ParseError) -> tuple[str, int]:
        """What the parser found and where, in words that need no knowledge of it."""
        if not error.errors:
            return "is no expression: it is empty", 1
        first = error.errors[0]
        said = str(first["description"])
        problem = next((words for part, words in _FAULTS.items() if part in said), _UNEXPECTED)
        before = self._text.split("\n")[: int(str(first.get("line") or 1)) - 1]
        at = sum(len(line) + 1 for line in before) + int(str(first.get("col") or 1))
        found = str(first.get("highlight") or "the end")
        return f"is no expression: {problem.format(found=found)}", at

    def _invalid(self, problem: str, position: int) -> Invalid:
        shown = self._text if len(self._text) <= 200 else self._text[:197] + "..."
        return Invalid("BAD_DEFINITION", expression=shown, position=position, problem=problem)

    def _node(self, at: exp.Expr | None) -> Node:
        """The node, its float value perhaps not checked to be finite yet."""
        rule = _RULES.get(type(at)) if at is not None else None
        if at is None or rule is None:
            told = _INSTEAD.get(type(at)) if at is not None else None
            refuse(told or f"{shown(at)} is not part of the language; see docs/expressions.md", at)
        return rule(self, at)

    def _value(self, at: exp.Expr | None) -> Node:
        """The node, settled: a float value is finite or null."""
        return settled(self._node(at))

    def _values(self, ats: Sequence[exp.Expr]) -> list[Node]:
        return [self._value(at) for at in ats]

    def _bool(self, at: exp.Expr) -> Node:
        return typed(self._value(at), "bool", at, "a condition")

    def _string(self, at: exp.Expr) -> Node:
        return typed(self._value(at), "string", at, "a text")

    def _float(self, at: exp.Expr) -> Node:
        """A number as float64, perhaps not finite."""
        return as_float(number(self._node(at), at))

    # --- leaves ---

    def _paren(self, at: exp.Expr) -> Node:
        return self._node(at.this)

    def _column(self, at: exp.Expr) -> Node:
        only(at, "this")
        name = at.name
        found = self._types.get(name)
        if found is None:
            names = sorted(self._types)
            more = len(names) - KNOWN_NAMES_MAX
            known = ", ".join(names[:KNOWN_NAMES_MAX]) or "none"
            known += f" and {more} more" if more > 0 else ""
            refuse(f"column {name} is unknown; known are {known}; a text is put in ' '", at)
        return Node("column", cast(ColumnType, found), value=name)

    def _literal(self, at: exp.Expr) -> Node:
        text = str(at.this)
        if at.args.get("is_string"):
            return Node("literal", "string", value=text)
        return number_literal(text, at)

    def _boolean(self, at: exp.Expr) -> Node:
        return Node("literal", "bool", value=bool(at.this))

    def _null(self, at: exp.Expr) -> Node:
        # Of a type that whoever meets it may change.
        return Node("null", "bool")

    # --- arithmetic ---

    def _negate(self, at: exp.Expr) -> Node:
        if isinstance(at.this, exp.Literal) and not at.this.args.get("is_string"):
            return number_literal(f"-{at.this.this}", at)
        inner = number(self._node(at.this), at)
        return Node("negate", inner.type, (inner,))

    def _arithmetic(self, at: exp.Expr) -> Node:
        op = _OPS[type(at)]
        left, right = self._node(at.this), self._node(at.expression)
        if "timestamp" in (left.type, right.type):
            return moment(op, left, right, at)
        left, right = alike(number(left, at), number(right, at))
        return Node(op, left.type, (left, right))

    def _divide(self, at: exp.Expr) -> Node:
        return Node(
            "divide", "float64", (self._float(at.this), settled(self._float(at.expression)))
        )

    def _remainder(self, at: exp.Expr) -> Node:
        left, right = (concrete(self._value(each), "int64") for each in (at.this, at.expression))
        if (left.type, right.type) != ("int64", "int64"):
            refuse(f"{shown(at)}: % takes int64 only; CAST both sides to int64", at)
        return Node("remainder", "int64", (left, right))

    def _abs(self, at: exp.Expr) -> Node:
        inner = number(self._node(at.this), at)
        return Node("abs", inner.type, (inner,))

    def _whole(self, at: exp.Expr) -> Node:
        only(at, "this")
        op = "floor" if isinstance(at, exp.Floor) else "ceil"
        inner = number(self._value(at.this), at)
        return inner if inner.type == "int64" else Node(op, "float64", (inner,))

    def _round(self, at: exp.Expr) -> Node:
        """To n digits: ROUND(x * 10^n) / 10^n, which is the same in every engine."""
        only(at, "this", "decimals")
        inner = number(self._value(at.this), at)
        digits = whole_argument(at.args.get("decimals"), 0, ROUND_DIGITS_MAX, default=0)
        if inner.type == "int64":
            return inner
        if digits == 0:
            return Node("round", "float64", (inner,))
        scale = Node("literal", "float64", value=float(10**digits))
        scaled = settled(Node("multiply", "float64", (inner, scale)))
        return Node("divide", "float64", (Node("round", "float64", (scaled,)), scale))

    def _rooted(self, at: exp.Expr) -> Node:
        """SQRT and LN: null outside their domain."""
        op, compare = ("sqrt", "greater_equal") if isinstance(at, exp.Sqrt) else ("ln", "greater")
        inner = settled(self._float(at.this))
        inside = Node(compare, "bool", (inner, Node("literal", "float64", value=0.0)))
        return Node(
            "case",
            "float64",
            (inside, Node(op, "float64", (inner,)), Node("null", "float64")),
        )

    def _exp(self, at: exp.Expr) -> Node:
        return Node("exp", "float64", (settled(self._float(at.this)),))

    # --- conditions ---

    def _comparison(self, at: exp.Expr) -> Node:
        op = _OPS[type(at)]
        return compared(op, self._value(at.this), self._value(at.expression), at)

    def _between(self, at: exp.Expr) -> Node:
        only(at, "this", "low", "high")
        value, low, high = self._values([at.this, at.args["low"], at.args["high"]])
        above, below = (
            compared("greater_equal", value, low, at),
            compared("less_equal", value, high, at),
        )
        return Node("and", "bool", (above, below))

    def _connective(self, at: exp.Expr) -> Node:
        op = "and" if isinstance(at, exp.And) else "or"
        return Node(op, "bool", (self._bool(at.this), self._bool(at.expression)))

    def _not(self, at: exp.Expr) -> Node:
        return Node("not", "bool", (self._bool(at.this),))

    def _is(self, at: exp.Expr) -> Node:
        if not isinstance(at.expression, exp.Null):
            refuse(f"{shown(at)}: IS takes NULL or NOT NULL only; a bool is a condition", at)
        return Node("is_null", "bool", (self._value(at.this),))

    def _in(self, at: exp.Expr) -> Node:
        only(at, "this", "expressions")
        value, given = self._value(at.this), self._values(at.args.get("expressions") or [])
        if not 0 < len(given) <= LIST_VALUES_MAX or any(each.op != "literal" for each in given):
            refuse(f"IN takes 1 to {LIST_VALUES_MAX} literals, none of them NULL", at)
        floats = value.type in NUMBERS and any(each.type == "float64" for each in given)
        value = as_float(value) if floats else value
        alike = [compared("equal", value, each, at).args[1] for each in given]
        return Node("in", "bool", (value,), value=tuple(each.value for each in alike))

    def _like(self, at: exp.Expr) -> Node:
        only(at, "this", "expression")
        pattern = self._value(at.expression)
        if (pattern.op, pattern.type) != ("literal", "string") or "\\" in str(pattern.value):
            refuse("LIKE takes a text in ' ' without backslash: % is any text, _ one sign", at)
        return Node("like", "bool", (self._string(at.this),), value=pattern.value)

    # --- choices ---

    def _case(self, at: exp.Expr) -> Node:
        only(at, "this", "ifs", "default")
        given = at.args.get("this")
        subject = None if given is None else self._value(given)
        conditions, results = [], []
        for branch in at.args["ifs"]:
            if subject is None:
                conditions.append(self._bool(branch.this))
            else:
                conditions.append(compared("equal", subject, self._value(branch.this), branch))
            results.append(self._value(branch.args["true"]))
        default = at.args.get("default")
        results.append(self._value(default) if default is not None else Node("null", "bool"))
        results = all_alike(results, at)
        pairs = [node for pair in zip(conditions, results, strict=False) for node in pair]
        return Node("case", results[0].type, (*pairs, results[-1]))

    def _choice(self, at: exp.Expr) -> Node:
        op = _OPS[type(at)]
        args = all_alike(self._values([at.this, *at.expressions]), at)
        if op != "coalesce" and args[0].type == "bool":
            refuse(f"{shown(at)}: bools have no order; write AND or OR", at)
        return Node(op, args[0].type, tuple(args)) if len(args) > 1 else args[0]

    def _nullif(self, at: exp.Expr) -> Node:
        value, other = self._values([at.this, at.expression])
        equal = compared("equal", value, other, at)
        return Node("case", value.type, (equal, Node("null", value.type), value))

    # --- texts ---

    def _of_text(self, at: exp.Expr) -> Node:
        only(at, "this")
        op = type(at).__name__.lower()
        return Node(op, "int64" if op == "length" else "string", (self._string(at.this),))

    def _substring(self, at: exp.Expr) -> Node:
        only(at, "this", "start", "length")
        start = whole_argument(at.args.get("start"), 1, INT64_MAX)
        given = at.args.get("length")
        length = None if given is None else whole_argument(given, 0, INT64_MAX)
        return Node("substring", "string", (self._string(at.this),), value=(start, length))

    def _concat(self, at: exp.Expr) -> Node:
        parts = [at.this, at.expression] if isinstance(at, exp.DPipe) else at.expressions
        return Node("concat", "string", tuple(self._string(part) for part in parts))

    # --- casts ---

    def _cast(self, at: exp.Expr) -> Node:
        only(at, "this", "to", "_type")
        wanted = type_of(cast(exp.Cast, at))
        inner = self._value(at.this)
        if inner.op == "null":
            return Node("null", wanted)
        if wanted == "timestamp" and (inner.op, inner.type) == ("literal", "string"):
            return Node("literal", "timestamp", value=microseconds(str(inner.value), at))
        if inner.type == wanted:
            return inner
        if (inner.type, wanted) not in CASTS:
            refuse(f"{inner.type} cannot be cast to {wanted}; {instead(inner.type)}", at)
        return Node("cast", wanted, (inner,))


# What the parser says, and what it means to who wrote the text.
_UNEXPECTED = "{found} is not expected here"
_FAULTS = {
    "Required keyword": "a value is missing at {found}",
    "Expecting )": "a ) is missing",
    "Expected END": "a CASE ends with END",
    "after CAST": "write CAST(x AS int64) or another type",
    "number of provided arguments": "the function takes fewer values",
}
# What is written in SQL, or by mistake, and how it is written here.
_INSTEAD: dict[type[exp.Expr], str] = {
    exp.Alias: "between two values an operator is missing, such as + or AND",
    exp.Block: "one expression is taken, without a semicolon",
    exp.If: "IF is written CASE WHEN x > 0 THEN 1 ELSE 0 END",
    exp.ILike: "ILIKE is written LOWER(x) LIKE 'pattern'",
    exp.IntDiv: "// is written FLOOR(x / y)",
    exp.Pow: "a power is written out, as x * x",
    exp.TryCast: "TRY_CAST is written CAST: a text that is no number is null",
}
_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "equal",
    exp.NEQ: "unequal",
    exp.LT: "less",
    exp.LTE: "less_equal",
    exp.GT: "greater",
    exp.GTE: "greater_equal",
}
_OPS: dict[type[exp.Expr], str] = _COMPARISONS | {
    exp.Add: "add",
    exp.Sub: "subtract",
    exp.Mul: "multiply",
    exp.Coalesce: "coalesce",
    exp.Least: "least",
    exp.Greatest: "greatest",
}
_RULES: dict[type[exp.Expr], Callable[[_Checker, exp.Expr], Node]] = {
    exp.Paren: _Checker._paren,
    exp.Column: _Checker._column,
    exp.Literal: _Checker._literal,
    exp.Boolean: _Checker._boolean,
    exp.Null: _Checker._null,
    exp.Neg: _Checker._negate,
    exp.Add: _Checker._arithmetic,
    exp.Sub: _Checker._arithmetic,
    exp.Mul: _Checker._arithmetic,
    exp.Div: _Checker._divide,
    exp.Mod: _Checker._remainder,
    exp.Abs: _Checker._abs,
    exp.Floor: _Checker._whole,
    exp.Ceil: _Checker._whole,
    exp.Round: _Checker._round,
    exp.Sqrt: _Checker._rooted,
    exp.Ln: _Checker._rooted,
    exp.Exp: _Checker._exp,
    **dict.fromkeys(_COMPARISONS, _Checker._comparison),
    exp.Between: _Checker._between,
    exp.And: _Checker._connective,
    exp.Or: _Checker._connective,
    exp.Not: _Checker._not,
    exp.Is: _Checker._is,
    exp.In: _Checker._in,
    exp.Like: _Checker._like,
    exp.Case: _Checker._case,
    exp.Coalesce: _Checker._choice,
    exp.Least: _Checker._choice,
    exp.Greatest: _Checker._choice,
    exp.Nullif: _Checker._nullif,
    exp.Lower: _Checker._of_text,
    exp.Upper: _Checker._of_text,
    exp.Trim: _Checker._of_text,
    exp.Length: _Checker._of_text,
    exp.Substring: _Checker._substring,
    exp.Concat: _Checker._concat,
    exp.DPipe: _Checker._concat,
    exp.Cast: _Checker._cast,
}


def _check_size(tree: Node, at: exp.Expr) -> None:
    steps, depth = _size(tree, {})
    if depth > DEPTH_MAX:
        refuse(TOO_DEEP, at)
    if steps > NODES_MAX:
        refuse(f"has {steps} steps when written out, {NODES_MAX} are allowed; {SPLIT}", at)


def _size(node: Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Nodes when written out, and depth; a node that is shared is looked at once."""
    if id(node) not in known:
        sizes = [_size(each, known) for each in node.args]
        copies = 2 if node.op in WRITTEN_TWICE else 1
        steps = 1 + copies * sum(steps for steps, _ in sizes)
        known[id(node)] = steps, 1 + max((depth for _, depth in sizes), default=0)
    return known[id(node)]
