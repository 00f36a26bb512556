# SPDX-License-Identifier: Apache-2.0
"""What an erasure notes, and whom it tells and asks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from headrace_ingest.domain.erasures import ErasedEvents, Erasure
from headrace_ingest.domain.trained_versions import Training
from headrace_kit.erased_entities import Entity

TellEvents = Callable[[ErasedEvents], None]


class ErasureBook(Protocol):
    """What was erased; each entry is written when it began, when its rows were out, and when
    nothing more can come.

    Raises Unavailable OBJECT_STORE_UNAVAILABLE.
    """

    def get(self, erasure_id: str) -> Erasure | None:
        """As it stands now; raises Corrupt ERASURE_UNREADABLE."""

    def begin(self, erasure: Erasure) -> Erasure:
        """Note it; the answer is the first that was noted under its id."""

    def note_clean(self, erasure_id: str, version_by_stream: Mapping[str, int]) -> None:
        """From these versions of their tables on, streams are without it; the first note counts."""

    def settle(self, erasure_id: str) -> None:
        """Nothing more can come; noted twice is noted."""

    def ids(self) -> list[str]:
        """All of them, sorted."""

    def unsettled(self) -> list[str]:
        """Those that are not settled, sorted."""


class ErasureNews(Protocol):
    """Tells everybody who keeps something of an entity."""

    def tell(self, erasure: Erasure) -> None:
        """Which entity it is. Returns when it cannot be lost; told twice is told.

        Raises Unavailable BROKER_UNAVAILABLE or DELIVERY_UNKNOWN.
        """

    def tell_events(self, events: ErasedEvents) -> None:
        """Which events go with it, the same way; who keeps events need not keep all columns."""


class PublishedRows(Protocol):
    """The newest feature row of each entity, of views that publish them."""

    def count(self, view: str, entity: Entity, *, timeout_s: float) -> int:
        """The entity's. Raises Unavailable BROKER_UNAVAILABLE, or SERVICE_UNAVAILABLE in time."""


class ModelVersions(Protocol):
    """What the registry says about models."""

    def features_of(self, model: str, version: int) -> Sequence[str]:
        """The names of what the version takes, in order; none of one that takes other tensors.

        Raises NotFound VERSION_UNKNOWN, Unavailable SERVICE_UNAVAILABLE.
        """

    def trainings(self, models: Collection[str], after: Mapping[str, int]) -> Iterator[Training]:
        """Of the versions of these models; of one that `after` names, those above that number.

        Raises Unavailable SERVICE_UNAVAILABLE.
        """
