# SPDX-License-Identifier: Apache-2.0
"""The protocol over HTTP as `curl` speaks it: paths, JSON, statuses."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection

import pytest
from contracts.conformance.inference.asking import VALUES
from contracts.conformance.inference.conftest import CALL_TIMEOUT_S
from contracts.conformance.inference.models import SIMPLE, echo_name
from hypothesis import given
from hypothesis import strategies as st

from headrace.reasons import REASONS

# No value beyond int64, no zero with a sign: JSON numbers, as most decoders take them.
IN_JSON = {**VALUES, "UINT64": [0, 2**63 - 1], "FP16": [0.5, -2.0], "FP32": [0.5, -1.0]}


@pytest.fixture(autouse=True)
def simple(held) -> str:
    return held(SIMPLE)


@pytest.fixture
def ask(rest):
    """(status, body) of a request; a body that is no bytes is sent as JSON."""

    def asked(method: str, path: str, body=None, **headers: str):
        host, _, port = rest.rpartition(":")
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with closing(HTTPConnection(host, int(port), timeout=CALL_TIMEOUT_S)) as connection:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=sent, headers=names)
            response = connection.getresponse()
            return response.status, response.read()

    return asked


def infer_body(first=1) -> dict:
    data = {"INPUT0": [first] * 16, "INPUT1": [1] * 16}
    return {
        "id": "r-1",
        "inputs": [
            {"name": name, "datatype": "INT32", "shape": [1, 16], "data": values}
            for name, values in data.items()
        ],
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        f"/v2/models/{SIMPLE}",
        f"/v2/models/{SIMPLE}/ready",
        f"/v2/models/{SIMPLE}/versions/1",
        f"/v2/models/{SIMPLE}/versions/1/ready",
        f"/v2/models/{SIMPLE}/config",
        f"/v2/models/{SIMPLE}/stats",
        "/v2/models/stats",
    ],
)
def test_path_answers(ask, path):
    assert 200 == ask("GET", path)[0]


def test_metadata_has_shapes_of_numbers(ask):
    told = json.loads(ask("GET", f"/v2/models/{SIMPLE}")[1])

    assert [{"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}] == [
        {key: tensor[key] for key in ("name", "datatype", "shape")}
        for tensor in told["inputs"]
        if tensor["name"] == "INPUT0"
    ]


@pytest.mark.parametrize("path", [f"/v2/models/{SIMPLE}", f"/v2/models/{SIMPLE}/versions/1"])
def test_inference_by_json(ask, path):
    status, body = ask("POST", f"{path}/infer", infer_body(41))

    told = json.loads(body)
    assert (200, SIMPLE, "1", "r-1") == (
        status,
        told["model_name"],
        told["model_version"],
        told["id"],
    )
    data = {output["name"]: output["data"] for output in told["outputs"]}
    assert {"OUTPUT0": [42] * 16, "OUTPUT1": [40] * 16} == data


@pytest.mark.parametrize("datatype", sorted(IN_JSON))
def test_types_in_json(ask, held, datatype):
    values = IN_JSON[datatype]
    tensor = {"name": "INPUT", "datatype": datatype, "shape": [1, 2], "data": [values]}
    path = f"/v2/models/{held(echo_name(datatype))}/infer"
    status, body = ask("POST", path, {"inputs": [tensor]})

    assert 200 == status, body
    (output,) = json.loads(body)["outputs"]
    assert (datatype, [1, 2], values) == (output["datatype"], output["shape"], output["data"])


@pytest.mark.parametrize(
    ("method", "path", "body", "statuses"),
    [
        ("GET", "/v2/models/no-such-model", None, (404,)),
        ("GET", f"/v2/models/{SIMPLE}/versions/999", None, (404,)),
        ("POST", "/v2/models/no-such-model/infer", infer_body(), (404,)),
        ("GET", "/v2/no/such/path", None, (404,)),
        ("GET", f"/v2/models/{SIMPLE}/infer", None, (400, 404, 405)),
        ("POST", f"/v2/models/{SIMPLE}/infer", b"{", (400,)),
        ("POST", f"/v2/models/{SIMPLE}/infer", b"", (400,)),
        ("POST", f"/v2/models/{SIMPLE}/infer", {"inputs": []}, (400,)),
        ("POST", f"/v2/models/{SIMPLE}/infer", infer_body("x"), (400,)),
        ("POST", f"/v2/models/{SIMPLE}/infer", infer_body(2**31), (400,)),
        ("GET", "/v2/systemsharedmemory/status", None, (200, 501)),
        ("GET", "/v2/models/no-such-model/ready", None, (400, 404, 503)),
    ],
)
def test_mistake_has_a_status_and_a_text(ask, ours, method, path, body, statuses):
    status, answer = ask(method, path, body)

    assert status in statuses, answer
    if status != 200 and not path.endswith("/ready"):
        assert json.loads(answer)["error"]
        assert not ours or json.loads(answer)["reason"] in REASONS


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.just("INPUT"), json_values),
        "datatype": st.one_of(st.sampled_from(sorted(IN_JSON)), json_values),
        "shape": st.one_of(st.just([1, 2]), json_values),
        "data": json_values,
        "parameters": st.one_of(
            st.fixed_dictionaries({"binary_data_size": json_values}), json_values
        ),
    },
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "inputs": st.one_of(st.lists(tensors, max_size=3), json_values),
        "outputs": st.one_of(st.lists(json_values, max_size=3), json_values),
        "parameters": json_values,
    },
)


@given(body=bodies, json_bytes=st.one_of(st.none(), st.integers(-1, 300)))
def test_hostile_body_is_the_callers_mistake(rest, body, json_bytes):
    host, _, port = rest.rpartition(":")
    headers = {} if json_bytes is None else {"Inference-Header-Content-Length": str(json_bytes)}
    with closing(HTTPConnection(host, int(port), timeout=CALL_TIMEOUT_S)) as connection:
        path = f"/v2/models/{echo_name('FP32')}/infer"
        connection.request("POST", path, json.dumps(body).encode(), headers)
        status = connection.getresponse().status

    assert status in (200, 400, 404, 413, 429), body
