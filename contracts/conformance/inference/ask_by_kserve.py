# SPDX-License-Identifier: Apache-2.0
"""Asks the server at GRPC-ADDRESS REST-ADDRESS by the clients of kserve; prints answers as JSON.

Runs in an environment of its own: kserve and tritonclient register the same message names.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "simple"


def request() -> InferRequest:
    first = np.arange(16, dtype=np.int32).reshape(1, 16)
    inputs = []
    for name, values in (("INPUT0", first), ("INPUT1", np.ones_like(first))):
        inputs.append(InferInput(name, list(values.shape), "INT32"))
        inputs[-1].set_data_from_numpy(values, binary_data=True)
    return InferRequest(MODEL, inputs, request_id="r-1")


def told(response: Any) -> dict[str, Any]:
    outputs = {output.name: output.as_numpy().ravel().tolist() for output in response.outputs}
    return {"id": response.id, "outputs": outputs}


async def ask_by_grpc(address: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(MODEL),
            **told(await client.infer(request())),
        }


async def ask_by_rest(address: str) -> dict[str, Any]:
    client, base = InferenceRESTClient(RESTConfig(protocol="v2")), f"http://{address}"
    try:
        return {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model_ready": await client.is_model_ready(base, MODEL),
            **told(await client.infer(base, request(), model_name=MODEL)),
        }
    finally:
        await client.close()


async def main(grpc_address: str, rest_address: str) -> None:
    answers = {"grpc": await ask_by_grpc(grpc_address)}
    if rest_address:
        answers["rest"] = await ask_by_rest(rest_address)
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
