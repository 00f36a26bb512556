# SPDX-License-Identifier: Apache-2.0
"""Label tasks about an erased entity: they go with it, and none is put for what it did before.

A task of an entity label names the entity by the column that the label's key is. A task of a
prediction names that alone, so it is nobody's. What people are shown of a prediction goes with the
entity that it names by one column, and with an entity of another column too where a record that
went told of both: what the model took of the one may be of the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from headrace.label_definition import LabelDefinition
from headrace_ingest.domain.erasures import ErasedEvents
from headrace_ingest.domain.label_tasks import Task
from headrace_ingest.ports.definitions import LabelBook, Retracted
from headrace_ingest.ports.labels import TaskStore
from headrace_kit.erased_entities import (
    Entity,
    ErasedEntities,
    entity_key_digest,
    entity_sha256,
)

PAGE_TARGETS = 1_000


@dataclass(frozen=True, slots=True)
class TaskEraser:
    """A pass may be repeated: what is gone is gone."""

    labels: LabelBook
    tasks: TaskStore

    def erase(self, entity: Entity) -> int:
        """How many tasks went; raises Unavailable DATABASE_UNAVAILABLE.

        A task about a prediction stays, without what the prediction was about.
        """
        if entity.key_digest:
            self.tasks.note_erased([entity.key_digest], until_us=entity.erased_at_us)
        self.erase_items(entity)
        return self.erase_of(self.labels.all(), entity)

    def erase_of(self, labels: Collection[LabelDefinition], entity: Entity) -> int:
        """How many tasks of these labels went."""
        return sum(
            self.tasks.erase(label.name, own, until_us=entity.erased_at_us)
            for label in labels
            if label.by == "entity" and label.key == entity.column
            for page in self._targets(label)
            if (own := [each for each in page if _digest(label, each) == entity.sha256])
        )

    def erase_items(self, entity: Entity) -> None:
        """Of the entity, and of what was noted beside it."""
        self.tasks.erase_items(until_us=entity.erased_at_us)

    def key_columns(self, retracted: Retracted) -> Collection[str]:
        """Whose values predictions may be about: what an endpoint that is gone answered stays."""
        of_labels = {each.key for each in retracted.labels if each.by == "entity"}
        return {*self.labels.entity_columns(), *of_labels, *retracted.entity_columns}

    def note(self, events: ErasedEvents) -> None:
        """Before these events go: nobody can tell afterwards what they were about."""
        digests = {entity_key_digest(each) for each in events.keys}
        self.tasks.note_erased(digests, until_us=events.entity.erased_at_us)

    def _targets(self, label: LabelDefinition) -> Iterator[list[str]]:
        after = ""
        while page := self.tasks.targets(label.name, after=after, targets_max=PAGE_TARGETS):
            yield page
            after = page[-1]


def about_erased(
    task: Task, label: LabelDefinition, entity_key: str, erased: ErasedEntities
) -> bool:
    """Whether people may not be asked any more; of a prediction no column says what its key is."""
    columns = {label.key} if label.by == "entity" else erased.columns()
    return any(erased.holds(column, entity_key, task.as_of_us) for column in columns)


def _digest(label: LabelDefinition, target: str) -> str:
    return entity_sha256(label.key, target)
