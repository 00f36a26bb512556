# SPDX-License-Identifier: Apache-2.0
"""What a graph computes between its models, as trees of the one expression language.

An ensemble and a branch are such trees too, so whoever compiles a graph knows expressions and
models, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

from headrace.expression import ColumnType, Node
from headrace.graph_definition import Element

EXPRESSION_TYPE: dict[Element, ColumnType] = {
    "bool": "bool",
    "int32": "int64",
    "int64": "int64",
    "float32": "float64",
    "float64": "float64",
    "string": "string",
}
NUMBERS = ("int64", "float64")
# Texts are compared and chosen among, no more: models of the runtime know no others.
TEXT_OPERATIONS = frozenset({"column", "literal", "null", "equal", "unequal", "in", "is_null",
                             "case", "coalesce"})  # fmt: skip
NO_OPERATIONS = frozenset({"like", "lower", "upper", "trim", "length", "substring", "concat"})


def refused_part(tree: Node) -> str | None:
    """What of the language a graph cannot compute, if the tree holds any."""
    for node in all_nodes(tree):
        if node.type == "timestamp":
            return "a timestamp; give times as int64 microseconds"
        if node.op in NO_OPERATIONS:
            return f"{node.op.upper()} of texts; do that in a feature view"
        texts = "string" in (node.type, *(each.type for each in node.args))
        if texts and node.op not in TEXT_OPERATIONS:
            return f"{node.op.upper()} of texts; =, <>, IN, CASE and COALESCE take them"
    return None


def may_be_null(node: Node) -> bool:
    """Whether the value may be null, by what it is made of alone."""
    arguments = [may_be_null(each) for each in node.args]
    if node.op == "column":
        return node.type == "float64"
    if node.op == "case":
        return any((*arguments[1::2], arguments[-1]))
    if node.op in ("coalesce", "least", "greatest"):
        return all(arguments)
    whole = node.type == "int64" and node.op in ("add", "subtract", "multiply", "negate", "abs")
    cut = node.op == "cast" and (node.args[0].type, node.type) == ("float64", "int64")
    return whole or cut or node.op in ("null", "remainder", "finite") or any(arguments)


def ensemble_tree(kind: str, members: Sequence[Node], weights: Sequence[float]) -> Node:
    """`members` are of one type; `weights` has one for each, or is empty."""
    if kind == "vote":
        return _vote(members)
    if kind in ("min", "max"):
        op = "least" if kind == "min" else "greatest"
        return Node(op, members[0].type, tuple(members))
    shares = weights or [1.0] * len(members)
    parts = [_times(_float(each), share) for each, share in zip(members, shares, strict=True)]
    mean = Node("divide", "float64", (reduce(_plus, parts), _number(sum(shares))))
    return Node("finite", "float64", (mean,))


def branch_tree(cases: Sequence[tuple[Node, Node]], otherwise: Node) -> Node:
    """`cases` holds conditions and the values where they are the first to hold."""
    pairs = [node for case in cases for node in case]
    return Node("case", otherwise.type, (*pairs, otherwise))


def _vote(members: Sequence[Node]) -> Node:
    """What most members say; of those that as many say, what the first of them says."""
    one, none = _number(1.0), _number(0.0)
    votes = [
        reduce(_plus, [Node("case", "float64", (_equal(each, other), one, none))
                       for other in members])
        for each in members
    ]  # fmt: skip
    cases = [
        (reduce(_both, [Node("greater_equal", "bool", (votes[place], later))
                        for later in votes[place + 1 :]]), members[place])
        for place in range(len(members) - 1)
    ]  # fmt: skip
    return branch_tree(cases, members[-1])


def all_nodes(tree: Node) -> Iterator[Node]:
    """The tree and all below it, once for each place."""
    yield tree
    for each in tree.args:
        yield from all_nodes(each)


def _float(node: Node) -> Node:
    return node if node.type == "float64" else Node("cast", "float64", (node,))


def _number(value: float) -> Node:
    return Node("literal", "float64", value=value)


def _times(node: Node, share: float) -> Node:
    return node if share == 1.0 else Node("multiply", "float64", (node, _number(share)))


def _plus(left: Node, right: Node) -> Node:
    return Node("add", "float64", (left, right))


def _equal(left: Node, right: Node) -> Node:
    return Node("equal", "bool", (left, right))


def _both(left: Node, right: Node) -> Node:
    return Node("and", "bool", (left, right))
