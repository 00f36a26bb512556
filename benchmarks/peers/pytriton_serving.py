# SPDX-License-Identifier: Apache-2.0
"""PyTriton: the network at the endpoint `bench`, Triton's server with a function in Python behind.

Arguments: ports of gRPC and HTTP, path of the model. Its own batcher gathers what waits. Run by
the peer's own Python.
"""

import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[3], options, providers=["CPUExecutionProvider"])
width = session.get_inputs()[0].shape[1]
height = session.get_outputs()[0].shape[1]


@batch
def infer(x: np.ndarray) -> list[np.ndarray]:
    return session.run(["y"], {"x": x})


config = TritonConfig(grpc_port=int(sys.argv[1]), http_port=int(sys.argv[2]), allow_metrics=False)
with Triton(config=config) as triton:
    triton.bind(
        model_name="bench",
        infer_func=infer,
        inputs=[Tensor(name="x", dtype=np.float32, shape=(width,))],
        outputs=[Tensor(name="y", dtype=np.float32, shape=(height,))],
        config=ModelConfig(max_batch_size=512, batcher=DynamicBatcher()),
        strict=False,
    )
    triton.serve()
