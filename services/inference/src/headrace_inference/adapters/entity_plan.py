# SPDX-License-Identifier: Apache-2.0
"""How requests of one form by entity keys are read: names, types and shapes are checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.application import Endpoint
from headrace_inference.adapters.tensor_codec import DATATYPES, Values, decode_elements
from headrace_inference.domain.request import InferRequest, Tensor, entity_batch
from headrace_inference.domain.serving import Serving
from headrace_inference.handlers import FeatureRequest


@dataclass(frozen=True, slots=True, eq=False)
class EntityPlan:
    """`inputs` in their order in the message, without values."""

    endpoint: Endpoint
    serving: Serving
    version: int | None
    inputs: tuple[Tensor, ...]
    rows: int
    outputs: tuple[str, ...]
    priority: int
    timeout_s: float | None

    def read(self, id_: str, contents: Sequence[bytes], now_us: int) -> FeatureRequest:
        """As the handlers' `read_rows`. Raises Invalid TENSOR_*, KEY_MISSING, BAD_ID."""
        inputs = {
            tensor.name: _filled(tensor, content)
            for tensor, content in zip(self.inputs, contents, strict=True)
        }
        request = InferRequest(self.endpoint.name, self.version, id_, inputs, self.outputs)
        batch = entity_batch(inputs, self.endpoint, np.full(self.rows, now_us, dtype=np.int64))
        choice = self.serving.choose(
            version=self.version, sticky_key=batch.entity_keys[0] or id_, tensors=False
        )
        return FeatureRequest(request, self.endpoint, self.serving, choice, batch)


def _filled(tensor: Tensor, content: bytes) -> Tensor:
    """Columns are vectors, and the sizes of numbers were checked."""
    values: Values
    if tensor.datatype == "BYTES":
        values = decode_elements(tensor.name, tensor.shape[0], content)
    else:
        values = np.frombuffer(content, dtype=DATATYPES[tensor.datatype].array)
    return Tensor(tensor.name, tensor.datatype, tensor.shape, values)
