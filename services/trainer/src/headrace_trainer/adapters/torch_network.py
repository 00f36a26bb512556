# SPDX-License-Identifier: Apache-2.0
"""The network as a torch module. What the graph does to raw features travels with the model.

Scaling, absent values (NaN), categories and the mean over members are all inside, so the served
ONNX model takes the feature rows as they are read. The members are one batched product: a fourth
of the graph and of the time that four networks would take. Imported by the training process only.

A row's score is the same bit for bit whatever rows share its run, so that neither load nor a kill
shows in an answer (ADR 50). ONNX Runtime rounds the ends of an array in other ways than its middle,
and products with one row or one column in other ways than larger ones: so there are no such.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from headrace.application import Network

EMBEDDING_SPREAD = 0.1
# Numbers that the widest vector units (AVX-512) take at once.
LANES = 16


class Ensemble(nn.Module):
    """Perceptrons that differ by seed; forward: features [rows, n] float32 -> mean score [rows].

    `category_sizes` maps a column to the number of its categories; 0 is the unknown one.
    """

    def __init__(
        self,
        columns: Sequence[int],
        category_sizes: Mapping[int, int],
        center: Tensor,
        scale: Tensor,
        network: Network,
    ) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.int64))
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)
        self.category_sizes = dict(category_sizes)
        self.members, self.dropout = network.members, network.dropout
        random = torch.Generator().manual_seed(network.seed)
        size = network.embedding_size
        self.embeddings = nn.ParameterList(
            EMBEDDING_SPREAD * torch.randn(self.members, count + 1, size, generator=random)
            for count in category_sizes.values()
        )
        widths = [2 * len(columns) + size * len(category_sizes), *network.hidden, 1]
        # He's initialisation (2015), for layers that end in a ReLU.
        self.weights = nn.ParameterList(
            math.sqrt(2 / before) * torch.randn(self.members, before, after, generator=random)
            for before, after in itertools.pairwise(widths)
        )
        self.biases = nn.ParameterList(torch.zeros(self.members, 1, after) for after in widths[1:])

    def forward(self, features: Tensor) -> Tensor:
        numbers, codes = self.prepare(nn.functional.pad(features, (0, 0, 0, 1)))  # never one row
        rows = numbers.expand(self.members, -1, -1)
        logits = self.logits(rows, [c.expand(self.members, -1) for c in codes])
        return torch.sigmoid(logits).mean(0)[:-1]

    def prepare(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scaled numbers and absence flags [rows, 2 x numbers], and a code [rows] a category."""
        numbers = features[:, self.columns]
        absent = torch.isnan(numbers)
        scaled = (torch.where(absent, self.center, numbers) - self.center) / self.scale
        # Delays have long tails: the logarithm keeps a delay of hours from drowning the others.
        width = scaled.shape[1]
        whole = nn.functional.pad(torch.abs(scaled), (0, -width % LANES))
        squeezed = torch.sign(scaled) * torch.log1p(whole)[:, :width]
        codes = [
            torch.nan_to_num(features[:, column]).clamp(0, size).to(torch.int64)
            for column, size in self.category_sizes.items()
        ]
        return torch.cat([squeezed, absent.to(features.dtype)], dim=1), codes

    def logits(self, numbers: Tensor, codes: Sequence[Tensor]) -> Tensor:
        """numbers [members, rows, width], codes each [members, rows] -> [members, rows]."""
        looked_up = [
            torch.stack([table[member][code[member]] for member in range(self.members)])
            for table, code in zip(self.embeddings, codes, strict=True)
        ]
        layer = torch.cat([numbers, *looked_up], dim=2)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            layer = torch.relu(torch.baddbmm(bias, layer, weight))
            layer = nn.functional.dropout(layer, self.dropout, self.training)
        # Never one column.
        weight = nn.functional.pad(self.weights[-1], (0, 1))
        bias = nn.functional.pad(self.biases[-1], (0, 1))
        return torch.baddbmm(bias, layer, weight)[:, :, 0]
