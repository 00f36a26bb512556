# SPDX-License-Identifier: Apache-2.0
"""What is applied, and what was."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.feature_view import View
from headrace.label_definition import LabelDefinition
from headrace_ingest.domain.contract import Contract


class ContractBook(Protocol):
    """The contracts that are applied now."""

    def get(self, stream: str) -> Contract:
        """Raises NotFound STREAM_UNKNOWN."""

    def names(self) -> list[str]:
        """The streams, sorted."""

    def all(self) -> list[Contract]:
        """By the names of their streams, as of one moment: each may be taken back meanwhile."""

    def view(self, name: str) -> tuple[View, int]:
        """The view and its version; raises NotFound VIEW_UNKNOWN."""

    def views(self) -> list[tuple[View, int]]:
        """The views and their versions, by name."""

    def models(self) -> list[str]:
        """The models that recipes and graphs train, sorted."""


@dataclass(frozen=True, slots=True)
class Retracted:
    """What was taken back and is not applied now, as it was last.

    `entity_columns`: what endpoints called the entities that predictions are about.
    """

    contracts: Sequence[Contract] = ()
    views: Sequence[View] = ()
    models: Sequence[str] = ()
    labels: Sequence[LabelDefinition] = ()
    entity_columns: Collection[str] = ()


class RetractedDefinitions(Protocol):
    """What was taken back; the topic of the applied ones holds nothing of it."""

    def look_up(self) -> Retracted:
        """Raises Unavailable SERVICE_UNAVAILABLE."""


class LabelBook(Protocol):
    """The label definitions that are applied now."""

    def get(self, label: str) -> LabelDefinition:
        """Raises NotFound LABEL_UNKNOWN."""

    def all(self) -> list[LabelDefinition]:
        """In any order."""

    def entity_columns(self) -> Collection[str]:
        """Columns that name what predictions or labels of entities are about."""
