# SPDX-License-Identifier: Apache-2.0
"""The network as torch modules. What the graph does to raw features travels with the model.

Scaling, absent values (NaN), categories and the mean over members are all inside, so the
served ONNX model takes the feature rows as they are read. Imported by the training process only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from headrace.application import Network


class Preparation(nn.Module):
    """x: [rows, features] float32, NaN = absent -> scaled values, flags, embeddings."""

    def __init__(
        self,
        columns: Sequence[int],
        category_sizes: Mapping[int, int],
        center: Tensor,
        scale: Tensor,
        embedding_size: int,
    ) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.int64))
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)
        self.category_sizes = dict(category_sizes)
        self.embeddings = nn.ModuleList(
            nn.Embedding(size + 1, embedding_size) for size in category_sizes.values()
        )
        self.width = 2 * len(columns) + embedding_size * len(category_sizes)

    def forward(self, x: Tensor) -> Tensor:
        numbers = x[:, self.columns]
        absent = torch.isnan(numbers)
        scaled = (torch.where(absent, self.center, numbers) - self.center) / self.scale
        # Delays have long tails: the logarithm keeps a delay of hours from drowning the others.
        squeezed = torch.sign(scaled) * torch.log1p(torch.abs(scaled))
        parts = [squeezed, absent.to(x.dtype)]
        for (column, size), embedding in zip(
            self.category_sizes.items(), self.embeddings, strict=True
        ):
            code = torch.nan_to_num(x[:, column]).clamp(0, size).to(torch.int64)
            parts.append(embedding(code))
        return torch.cat(parts, dim=1)


class Member(nn.Module):
    """One perceptron: its logit for each row."""

    def __init__(self, preparation: Preparation, network: Network) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = preparation.width
        for hidden in network.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(network.dropout)]
            width = hidden
        self.preparation = preparation
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.preparation(x)).squeeze(1)


class Ensemble(nn.Module):
    """The mean probability of its members."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([torch.sigmoid(member(features)) for member in self.members]).mean(dim=0)
