# SPDX-License-Identifier: Apache-2.0
"""A compiled graph answers what its steps answer one by one, each row by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headrace.application import Graph, parse_definition
from headrace.errors import Invalid
from headrace.expression import parse_expression
from headrace.graph_plan import plan_graph
from headrace_kit.expressions import to_polars
from headrace_trainer.adapters import onnx_graph
from headrace_trainer.adapters.graph_training import compile_graph
from headrace_trainer.adapters.measuring import open_session
from headrace_trainer.toy_models import (
    ToyModel,
    a_linear_model,
    a_model_that_mixes_rows,
    a_model_that_no_converter_takes,
    a_model_with_an_inner_graph,
    a_multiplying_model,
    a_scaling_model,
    a_two_headed_model,
)

NAN = float("nan")
X = np.array([0.5, -2.5, NAN, 3.0, np.inf, 1e30], np.float32)
Y = np.array([1.0, 0.0, 2.0, NAN, 1.0, 1e30], np.float32)
N = np.array([7, 0, -3, 2, 2**53 + 1, -(2**63)], np.int64)
B = np.array([True, False, True, True, False, False])
S = np.array(["UA", "B6", "", "UA", "AA", "B6"], object)
ROWS = {"x": X, "y": Y, "n": N, "b": B, "s": S}
INPUTS = {"x": "float32", "y": "float32", "n": "int64", "b": "bool", "s": "string"}


def a_graph(
    steps: Mapping[str, Any], outputs: Mapping[str, str], inputs: Mapping[str, str] = INPUTS
) -> Graph:
    graph = parse_definition(
        {
            "kind": "graph",
            "name": "guard",
            "description": "A test's.",
            "inputs": inputs,
            "steps": steps,
            "outputs": outputs,
        }
    )
    assert isinstance(graph, Graph)
    return graph


def compiled(graph: Graph, models: Mapping[str, ToyModel]) -> bytes:
    signatures = {step: model.signature for step, model in models.items()}
    plan = plan_graph(graph, (), signatures)
    files = {step: model.onnx for step, model in models.items()}
    return compile_graph(graph, plan, files, signatures)


def answers(
    steps: Mapping[str, Any],
    *outputs: str,
    rows: Mapping[str, np.ndarray] = ROWS,
    inputs: Mapping[str, str] = INPUTS,
    **models: ToyModel,
) -> list[np.ndarray]:
    graph = a_graph(steps, {f"out_{place}": name for place, name in enumerate(outputs)}, inputs)
    session = open_session(compiled(graph, models))
    taken = {each.name for each in session.get_inputs()}
    found: list[np.ndarray] = session.run(None, {n: a for n, a in rows.items() if n in taken})
    return found


def by_expression(text: str, **more: str) -> np.ndarray:
    (found,) = answers({"a": {"expression": text, **more}}, "a")
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x + y", [1.5, -2.5, NAN, NAN, NAN, 2e30]),
        ("x / y", [0.5, NAN, NAN, NAN, NAN, 1.0]),
        ("x * 1e308 * 1e308", [NAN] * 6),
        ("ROUND(x)", [1, -3, NAN, 3, NAN, 1e30]),
        ("ROUND(0.49999999999999994 + 0 * y)", [0, 0, 0, NAN, 0, 0]),
        ("FLOOR(x) + CEIL(x)", [1, -5, NAN, 6, NAN, 2e30]),
        ("SQRT(x)", [0.5**0.5, NAN, NAN, 3**0.5, NAN, 1e15]),
        ("LN(y)", [0, NAN, np.log(2), NAN, 0, np.log(1e30)]),
        ("EXP(x)", [np.exp(0.5), np.exp(-2.5), NAN, np.exp(3), NAN, NAN]),
        ("ABS(x)", [0.5, 2.5, NAN, 3, NAN, 1e30]),
        ("LEAST(x, y)", [0.5, -2.5, 2, 3, 1, 1e30]),
        ("GREATEST(x, y)", [1, 0, 2, 3, 1, 1e30]),
        ("LEAST(GREATEST(x, 0), 1)", [0.5, 0, 0, 1, 0, 1]),
        ("COALESCE(x, 0)", [0.5, -2.5, 0, 3, 0, 1e30]),
        ("COALESCE(1, x)", [1] * 6),
        ("NULLIF(y, 1)", [NAN, 0, 2, NAN, NAN, 1e30]),
        ("CASE WHEN x > 0 THEN 1 WHEN b THEN 2 ELSE 3 END", [1, 3, 2, 1, 3, 1]),
        ("CASE s WHEN 'UA' THEN 1 WHEN 'B6' THEN 2 END", [1, 2, NAN, 1, NAN, 2]),
        ("CASE WHEN TRUE THEN 1 ELSE x END", [1] * 6),
        ("n % 2", [1, 0, -1, 0, 1, 0]),
        ("7 % n", [0, NAN, 1, 1, 7, 7]),
        ("n - 1 - 1 > 0", [True, False, False, False, True, False]),
        ("n + 9223372036854775807", [NAN, 2.0**63, 2.0**63, NAN, NAN, -1]),
        ("n * n", [49, 0, 9, 4, NAN, NAN]),
        ("-n", [-7, 0, 3, -2, -(2.0**53 + 1), NAN]),
        ("CAST(x AS int64)", [0, -2, NAN, 3, NAN, NAN]),
        ("CAST(b AS int64)", [1, 0, 1, 1, 0, 0]),
        ("x > 0 AND b", [True, False, False, True, False, False]),
        ("x > 0 OR b", [True, False, True, True, False, True]),
        ("NOT (x > 0)", [False, True, False, False, False, False]),
        ("x IS NULL", [False, False, True, False, True, False]),
        ("n IS NULL", [False] * 6),
        ("x BETWEEN 0 AND 3", [True, False, False, True, False, False]),
        ("n IN (7, 2)", [True, False, False, True, False, False]),
        ("s IN ('UA', '')", [True, False, True, True, False, False]),
        ("s <> 'UA'", [False, True, True, False, True, True]),
        ("CASE WHEN b THEN s ELSE 'no' END", ["UA", "no", "", "UA", "no", "no"]),
        ("NULLIF(s, 'UA')", ["", "B6", "", "", "AA", "B6"]),
    ],
)
def test_expression_is_computed_by_row(text: str, expected: list) -> None:
    found = by_expression(text)

    if found.dtype.kind == "f":
        assert np.float32 == found.dtype
        np.testing.assert_allclose(found, np.array(expected, np.float32), rtol=1e-6)
    else:
        assert expected == found.tolist()


def test_number_may_have_another_type() -> None:
    assert [7, 0, -3] == by_expression("COALESCE(n, 0)", type="int64").tolist()[:3]
    assert np.float64(0.1) == by_expression("0.1 + 0 * n", type="float64")[0]


def test_expression_over_a_vector_is_computed_by_column() -> None:
    rows = {"v": np.array([[1, 2, 3], [4, 5, NAN]], np.float32), "k": np.array([10, 0], np.float32)}
    inputs = {"v": "float32[3]", "k": "float32"}
    steps = {
        "scaled": {"expression": "v / 2 + k"},
        "last": {"expression": "scaled_3"},
        "far": {"expression": "scaled > 11"},
    }

    scaled, last, far, first = answers(
        steps, "scaled", "last", "far", "v_1", rows=rows, inputs=inputs
    )

    np.testing.assert_array_equal([[10.5, 11, 11.5], [2, 2.5, NAN]], scaled)
    np.testing.assert_array_equal([11.5, NAN], last)
    assert [[False, False, True], [False, False, False]] == far.tolist()
    assert [1, 4] == first.tolist()


def test_ensembles_take_one_value_of_several() -> None:
    of = {"of": ["x", "y", "z"]}
    steps = {
        "z": {"expression": "x * 0 + 1"},
        "mean": {"ensemble": "mean", **of},
        "weighted": {"ensemble": "weighted", **of, "weights": [1, 2, 5]},
        "least": {"ensemble": "min", **of},
        "most": {"ensemble": "max", **of},
    }

    mean, weighted, least, most = answers(steps, "mean", "weighted", "least", "most")

    np.testing.assert_allclose(mean[:4], [2.5 / 3, -0.5, NAN, NAN], rtol=1e-6)
    np.testing.assert_allclose(weighted[:4], [7.5 / 8, 2.5 / 8, NAN, NAN], rtol=1e-6)
    np.testing.assert_array_equal(least[:4], [0.5, -2.5, 2, 1])
    np.testing.assert_array_equal(most[:4], [1, 1, 2, 3])


def test_vote_is_what_most_say_and_the_first_of_a_tie() -> None:
    rows = {
        name: np.array(values, np.int64)
        for name, values in {"k": [1, 1, 1, 3], "l": [2, 1, 2, 2], "m": [2, 3, 3, 2]}.items()
    }
    steps = {"vote": {"ensemble": "vote", "of": ["k", "l", "m"]}}

    (vote,) = answers(steps, "vote", rows=rows, inputs=dict.fromkeys(rows, "int64"))

    assert ([2, 1, 1, 2], np.int64) == (vote.tolist(), vote.dtype)


def test_vote_of_texts_and_conditions() -> None:
    rows = {"p": S, "q": np.array(["B6"] * 6, object), "c": B, "d": ~B, "e": np.ones(6, bool)}
    inputs = {"p": "string", "q": "string", "c": "bool", "d": "bool", "e": "bool"}
    steps = {
        "word": {"ensemble": "vote", "of": ["q", "p", "p"]},
        "yes": {"ensemble": "vote", "of": ["c", "d", "e"]},
    }

    word, yes = answers(steps, "word", "yes", rows=rows, inputs=inputs)

    assert (S.tolist(), [True] * 6) == (word.tolist(), yes.tolist())


def test_each_row_takes_its_own_branch() -> None:
    one, other = a_linear_model(2), a_linear_model(1)
    steps = {
        "one": {"model": "a/1", "inputs": {"features": ["x", "y"]}},
        "other": {"model": "b/1", "inputs": {"features": ["y"]}},
        "chosen": {
            "branch": [{"when": "n > 2", "then": "one"}, {"when": "b", "then": "other"}],
            "otherwise": "z",
        },
        "z": {"expression": "y * 0"},
    }

    (found,) = answers(steps, "chosen", one=one, other=other)

    with np.errstate(over="ignore"):
        first = one.answer({"features": np.stack([X, Y], axis=1)})["score"]
    second = other.answer({"features": Y[:, None]})["score"]
    expected = np.where(N > 2, first, np.where(B, second, Y * 0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_model_with_several_outputs_is_read_by_name_and_column() -> None:
    model = a_two_headed_model()
    rows = {"v": np.array([[0.1, 2, 1], [3, 0, 0]], np.float32)}
    steps = {
        "risk": {"model": "m/1", "inputs": {"x": "v"}},
        "surest": {"expression": 'GREATEST("risk.chances_1", "risk.chances_2")'},
        "sure": {"expression": '"risk.chances" > 0.5'},
    }

    chances, label, surest, sure = answers(
        steps, "risk.chances", "risk.label", "surest", "sure",
        rows=rows, inputs={"v": "float32[3]"}, risk=model,
    )  # fmt: skip

    expected = model.answer({"x": rows["v"]})
    np.testing.assert_allclose(chances, expected["chances"], rtol=1e-6)
    assert expected["label"].tolist() == label.tolist()
    np.testing.assert_allclose(surest, expected["chances"][:, :2].max(axis=1), rtol=1e-6)
    assert (expected["chances"] > 0.5).tolist() == sure.tolist()


def test_model_whose_inner_graph_reads_its_weights_keeps_them() -> None:
    model = a_model_with_an_inner_graph()
    steps = {"one": {"model": "m/1"}, "two": {"model": "m/1", "inputs": {"x": "one"}}}

    one, two = answers(steps, "one", "two", one=model, two=model)

    np.testing.assert_array_equal(one, X + 5)
    np.testing.assert_array_equal(two, X + 10)


def test_models_of_different_opsets_and_formats_run_together() -> None:
    older = a_linear_model(1, opset=13, ir_version=7)
    newer = a_linear_model(1, opset=21, ir_version=10)
    steps = {name: {"model": "m/1", "inputs": {"features": ["y"]}} for name in ("older", "newer")}
    graph = a_graph(steps, {"one": "older", "two": "newer"})

    data = compiled(graph, {"older": older, "newer": newer})

    found = onnx.ModelProto.FromString(data)
    assert [21] == [each.version for each in found.opset_import]
    one, two = open_session(data).run(None, {n: a for n, a in ROWS.items() if n in INPUTS})
    np.testing.assert_array_equal(one, two)


def test_operators_of_machine_learning_must_be_of_one_version() -> None:
    steps = {name: {"model": "m/1", "inputs": {"x": ["y"]}} for name in ("one", "two")}
    two = a_scaling_model(1)

    (found, _) = answers(steps, "one", "two", one=a_scaling_model(1), two=two)
    np.testing.assert_array_equal(found, Y[:, None] * 2)

    with pytest.raises(Invalid, match=r"OPSET.*ai.onnx.ml 1 beside 3"):
        answers(steps, "one", "two", one=a_scaling_model(3), two=two)


def test_model_that_cannot_be_converted_is_refused() -> None:
    with pytest.raises(Invalid, match=r"OPSET.*step=one.*of opset 6 cannot be converted to 17"):
        answers({"one": {"model": "m/1"}}, "one", one=a_model_that_no_converter_takes())


# A graph is of opset 17 at least, to which an older model is converted.
OLD = {"old": {"model": "m/1"}}


@pytest.fixture
def convert_otherwise(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Gives the converted a first weight that is that many times what it was."""

    def give(times: float) -> None:
        def convert(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
            found = onnx.version_converter.convert_version(model, target)
            weight = found.graph.initializer[0]
            values = onnx.numpy_helper.to_array(weight) * np.float32(times)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
            return found

        monkeypatch.setattr(onnx_graph, "convert_version", convert)

    return give


@pytest.mark.parametrize("times", [0, 1.0003, NAN])
def test_model_that_answers_otherwise_once_converted_is_refused(
    convert_otherwise: Callable[[float], None], times: float
) -> None:
    convert_otherwise(times)

    with pytest.raises(Invalid, match=r"OPSET.*answers otherwise once it is converted"):
        answers(OLD, "old", old=a_multiplying_model(1.0, opset=13))


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_model_may_round_otherwise_once_converted(
    convert_otherwise: Callable[[float], None], size: float
) -> None:
    """By a share of its answers: these are of any size, which scores are not."""
    convert_otherwise(1.00005)

    assert answers(OLD, "old", old=a_multiplying_model(size, opset=13))


def test_graph_of_features_takes_and_gives_what_a_recipes_version_does() -> None:
    model = a_linear_model(2, features=("a:x", "a:y"))
    document = {
        "kind": "graph",
        "name": "guarded",
        "description": "A test's.",
        "recipe": "late",
        "steps": {
            "said": {"model": "late@champion"},
            "cut": {"expression": 'LEAST(said, "a:y")'},
        },
        "outputs": {"score": "cut"},
    }
    graph = parse_definition(document)
    assert isinstance(graph, Graph)
    signatures = {"said": model.signature}
    # In another order than the model's, by name.
    plan = plan_graph(graph, ("a:y", "a:more", "a:x"), signatures)

    session = open_session(compile_graph(graph, plan, {"said": model.onnx}, signatures))

    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert ("features", "tensor(float)", ["rows", 3]) == (taken.name, taken.type, taken.shape)
    assert ("score", "tensor(float)", ["rows"]) == (given.name, given.type, given.shape)
    rows = np.array([[9, 0, 1], [0.1, 0, 2]], np.float32)
    (found,) = session.run(None, {"features": rows})
    expected = model.answer({"features": rows[:, [2, 0]]})["score"]
    np.testing.assert_allclose(found, np.minimum(expected, rows[:, 0]), rtol=1e-6)


def test_model_that_mixes_rows_is_refused() -> None:
    with pytest.raises(Invalid, match=r"BAD_DEFINITION.*depends on the rows beside it"):
        answers({"one": {"model": "m/1"}}, "one", one=a_model_that_mixes_rows())


def test_same_models_and_definition_give_the_same_bytes() -> None:
    steps = {
        "one": {"model": "a/1", "inputs": {"features": ["x", "y"]}},
        "old": {"model": "b/1", "inputs": {"features": ["y"]}},
        "chosen": {"branch": [{"when": "s = 'UA'", "then": "one"}], "otherwise": "old"},
    }

    def digest() -> str:
        models = {"one": a_linear_model(2), "old": a_linear_model(1, opset=13)}
        return hashlib.sha256(compiled(a_graph(steps, {"found": "chosen"}), models)).hexdigest()

    assert digest() == digest()


# --- any small graph ---

FORMS = {
    "float64": ["({a} + {b})", "({a} * {b})", "({a} - {b})", "({a} / {b})", "(- {a})", "ABS({a})",
                "ROUND({a}, 1)", "FLOOR({a})", "SQRT({a})", "COALESCE({a}, {b})",
                "LEAST({a}, {b})", "GREATEST({a}, {b})", "NULLIF({a}, {b})",
                "CASE WHEN {c} THEN {a} ELSE {b} END", "({i} / {a})", "CAST({i} AS float64)"],
    "int64": ["({i} + {j})", "({i} * {j})", "({i} - {j})", "({i} % {j})", "(- {i})", "ABS({i})",
              "CAST({a} AS int64)", "CASE WHEN {c} THEN {i} END", "COALESCE({i}, {j})"],
    "bool": ["({a} < {b})", "({a} = {b})", "({i} >= {j})", "({c} AND {d})", "({c} OR {d})",
             "(NOT {c})", "({a} IS NULL)", "({i} IN (0, 7))", "({a} NOT IN (0.5, 3))",
             "({a} BETWEEN {b} AND 2)", "({s} = 'UA')", "({s} IN ('UA', ''))"],
}  # fmt: skip
LEAVES = {
    "float64": ["x", "y", "0.5", "-3.0", "1e300"],
    "int64": ["n", "k", "2", "0", "-9223372036854775808"],
    "bool": ["b", "TRUE"],
    "string": ["s", "'B6'"],
}
TYPE_OF_HOLE = dict(zip("abijcds", ["float64"] * 2 + ["int64"] * 2 + ["bool"] * 2 + ["string"],
                        strict=True))  # fmt: skip


@st.composite
def texts(draw: st.DrawFn, type_: str, depth: int) -> str:
    if depth == 0 or type_ == "string" or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(LEAVES[type_]))
    form = draw(st.sampled_from(FORMS[type_]))
    asked = {hole: t for hole, t in TYPE_OF_HOLE.items() if f"{{{hole}}}" in form}
    holes = {hole: draw(texts(t, depth - 1)) for hole, t in asked.items()}
    return form.format(**holes)


FLOATS = st.sampled_from([0.0, -0.0, 0.5, -2.5, 3.0, 1e300, NAN]) | st.floats(width=64)
WHOLE = st.sampled_from([0, 1, -1, 7, 2**62, -(2**63), 2**63 - 1]) | st.integers(-9, 9)
rows_of = st.lists(
    st.tuples(FLOATS, FLOATS, WHOLE, WHOLE, st.booleans(), st.sampled_from(["UA", "B6", ""])),
    min_size=1, max_size=5,
)  # fmt: skip
NAMES = ("x", "y", "n", "k", "b", "s")
TYPES = ("float64", "float64", "int64", "int64", "bool", "string")
DTYPES = (np.float64, np.float64, np.int64, np.int64, np.bool_, object)


def columns_of(values: list[tuple]) -> dict[str, np.ndarray]:
    sides = zip(*values, strict=True)
    return {n: np.array(each, t) for n, each, t in zip(NAMES, sides, DTYPES, strict=True)}


def by_polars(text: str, rows: Mapping[str, np.ndarray]) -> list:
    frame = pl.DataFrame({n: pl.Series(n, each.tolist()) for n, each in rows.items()})
    finite = [pl.when(pl.col(n).is_finite()).then(pl.col(n)).alias(n) for n in ("x", "y")]
    expression = parse_expression(text, dict(zip(NAMES, TYPES, strict=True)))
    found: list = frame.with_columns(finite).with_columns(a=to_polars(expression))["a"].to_list()
    return found


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMS)).flatmap(lambda t: texts(t, 3)), rows_of)
def test_any_expression_answers_what_polars_answers(text: str, values: list[tuple]) -> None:
    rows, inputs = columns_of(values), dict(zip(NAMES, TYPES, strict=True))
    expression = parse_expression(text, inputs)
    assume(expression.columns)
    type_ = expression.type
    more = {} if type_ == "bool" else {"type": "float64"}

    (found,) = answers({"a": {"expression": text, **more}}, "a", rows=rows, inputs=inputs)

    expected = by_polars(text, rows)
    if type_ == "bool":
        assert [bool(each) for each in expected] == found.tolist()
    else:
        as_floats = [NAN if each is None else float(each) for each in expected]
        np.testing.assert_array_equal(found, as_floats)


# Steps of numbers over numbers p, q, r and a condition c: what is declared, and the same in numpy.
STEPS: dict[str, tuple[Any, Any]] = {
    "plus": ({"expression": "{p} / 2 + {q}"}, lambda p, q, r, c: p / 2 + q),
    "clipped": ({"expression": "LEAST(GREATEST({p}, -1), 1)"},
                lambda p, q, r, c: np.fmin(np.fmax(p, -1), 1)),
    "mean": ({"ensemble": "mean", "of": ["{p}", "{q}", "{r}"]}, lambda p, q, r, c: (p + q + r) / 3),
    "weighted": ({"ensemble": "weighted", "of": ["{p}", "{q}"], "weights": [1, 3]},
                 lambda p, q, r, c: (p + 3 * q) / 4),
    "max": ({"ensemble": "max", "of": ["{p}", "{q}", "{r}"]},
            lambda p, q, r, c: np.fmax(np.fmax(p, q), r)),
    "branch": ({"branch": [{"when": "{c}", "then": "{p}"}, {"when": "{q} > {r}", "then": "{q}"}],
                "otherwise": "{r}"},
               lambda p, q, r, c: np.where(c, p, np.where(q > r, q, r))),
    "model": ({"model": "toy/1", "inputs": {"features": ["{p}", "{q}"]}}, None),
}  # fmt: skip


def filled(form: Any, names: Mapping[str, str]) -> Any:
    """The form with names in place of its holes."""
    if isinstance(form, str):
        return form.format(**names)
    if isinstance(form, list):
        return [filled(each, names) for each in form]
    if isinstance(form, dict):
        return {key: filled(each, names) for key, each in form.items()}
    return form


@st.composite
def small_graphs(draw: st.DrawFn) -> list[tuple[str, dict[str, str]]]:
    """The kind of each step, and the values that it reads: inputs and steps before it."""
    made = []
    for number in range(draw(st.integers(1, 8))):
        known = ["x", "y", *(f"s{before}" for before in range(number))]
        names = {hole: draw(st.sampled_from(known)) for hole in "pqr"}
        names["c"] = draw(st.sampled_from(["b", f"{names['p']} > 0"]))
        made.append((draw(st.sampled_from(sorted(STEPS))), names))
    return made


@settings(max_examples=60, deadline=None)
@given(small_graphs(), st.lists(st.tuples(*[st.floats(-9, 9, width=32) | st.just(NAN)] * 2,
                                          st.booleans()), min_size=1, max_size=6))  # fmt: skip
def test_any_small_graph_answers_what_its_steps_answer(
    made: list[tuple[str, dict[str, str]]], values: list[tuple]
) -> None:
    toy = a_linear_model(2)
    x, y, b = zip(*values, strict=True)
    known = {"x": np.array(x, np.float32), "y": np.array(y, np.float32), "b": np.array(b)}
    steps, models = {}, {}
    for number, (kind, names) in enumerate(made):
        name, (form, meaning) = f"s{number}", STEPS[kind]
        steps[name] = filled(form, names)
        p, q, r = (known[names[hole]] for hole in "pqr")
        if meaning is None:
            models[name] = toy
            known[name] = toy.answer({"features": np.stack([p, q], axis=1)})["score"]
        else:
            c = known["b"] if names["c"] == "b" else p > 0
            wide = (each.astype(np.float64) for each in (p, q, r))
            known[name] = meaning(*wide, c).astype(np.float32)

    rows = {name: known[name] for name in ("x", "y", "b")}
    inputs = {"x": "float32", "y": "float32", "b": "bool"}
    found = answers(steps, *steps, rows=rows, inputs=inputs, **models)

    for name, answer in zip(steps, found, strict=True):
        np.testing.assert_allclose(answer, known[name], rtol=1e-4, atol=1e-6)
