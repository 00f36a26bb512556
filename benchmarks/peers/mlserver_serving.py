# SPDX-License-Identifier: Apache-2.0
"""MLServer: the network at the endpoint `bench` over gRPC, in its own process, one core.

Arguments: ports of gRPC and HTTP, path of the model, rows of a request. Single rows are gathered by
its adaptive batching, which is then faster; larger requests run alone. Run by the peer's Python.
"""

import asyncio
import sys

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class Network(MLModel):
    """One session, one thread."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = NumpyCodec.decode_input(payload.inputs[0])
        (scores,) = self._session.run(["y"], {"x": values})
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("y", scores)]
        )


async def serve(grpc_port: int, http_port: int, path: str, rows: int) -> None:
    gathered = {"max_batch_size": 16, "max_batch_time": 0.002} if rows == 1 else {}
    model = ModelSettings(
        name="bench",
        implementation="mlserver_serving.Network",
        parameters=ModelParameters(uri=path),
        **gathered,
    )
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_endpoint=None,
        parallel_workers=0,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
