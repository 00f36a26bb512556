# SPDX-License-Identifier: Apache-2.0
"""KServe's model server: the network at the endpoint `bench` over gRPC, one process.

Arguments: ports of gRPC and HTTP, path of the model. Run by the peer's own Python.
"""

import sys

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Network(Model):
    """One session, one thread."""

    def __init__(self, path: str) -> None:
        super().__init__("bench")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: object = None, response_headers: object = None
    ) -> InferResponse:
        (scores,) = self._session.run(["y"], {"x": payload.inputs[0].as_numpy()})
        output = InferOutput("y", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


server = ModelServer(
    grpc_port=int(sys.argv[1]),
    http_port=int(sys.argv[2]),
    workers=1,
    enable_grpc=True,
    enable_latency_logging=False,
)
server.start([Network(sys.argv[3])])
