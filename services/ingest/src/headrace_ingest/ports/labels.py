# SPDX-License-Identifier: Apache-2.0
"""Predictions that people label, and the rows that labelling functions look at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import polars as pl

from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.label_tasks import Item, Settled, Task, TaskState
from headrace_kit.kafka import Message


class RecordRows(Protocol):
    """Archived records, as they are stored now."""

    def of_keys(
        self, contract: Contract, columns: Sequence[str], *, key: str, keys: Sequence[str]
    ) -> pl.DataFrame:
        """These columns of the records whose column `key`, as text, is one of `keys`.

        Raises Unavailable OBJECT_STORE_UNAVAILABLE.
        """

    def between(
        self,
        contract: Contract,
        *,
        from_us: int,
        until_us: int,
        rows_max: int,
        having: Mapping[str, str] = {},
    ) -> pl.DataFrame:
        """`_event_id`, `_event_time_us`, `_known_time_us` and the contract's columns, by event time
        in [from, until); of those `having` these texts.

        Raises Unavailable OBJECT_STORE_UNAVAILABLE.
        """


class TaskStore(Protocol):
    """Predictions that people label. Every method raises Unavailable DATABASE_UNAVAILABLE."""

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        """Positions are about the topics with these ids; those of another one are forgotten."""

    def positions(self) -> Mapping[tuple[str, int], int]:
        """The next offset by topic and partition, as `add` stored it."""

    def add(
        self,
        tasks: Sequence[tuple[Task, Item]],
        open_max: Mapping[str, int],
        positions: Mapping[tuple[str, int], int],
    ) -> int:
        """Store new tasks with their items, by label at most so many open ones, and the positions,
        in one.

        A position never goes back in one topic. Returns how many tasks were new.
        """

    def listed(
        self, label: str, state: TaskState, *, after: tuple[int, str], tasks_max: int
    ) -> Sequence[tuple[int, Task]]:
        """Oldest first, each with its time; those after this time and id."""

    def claim(self, label: str, labeller: str, *, lease_s: int) -> Task | None:
        """Hold the oldest open task that the labeller has not answered, for this long.

        Never more places are held and answered together than the task wants answers.
        """

    def get(self, task_id: str) -> Task:
        """Raises NotFound TASK_UNKNOWN."""

    def submit(
        self,
        task_id: str,
        labeller: str,
        choice: str,
        settle: Callable[[Sequence[str], int], Settled],
        message: Callable[[Task], Message],
        *,
        claimed: bool,
    ) -> tuple[Task, bool]:
        """Store the answer and what `settle` makes of all; an accepted task's message, in one.

        The task, and whether the answer is new: the same one again changes nothing. Raises
        NotFound TASK_UNKNOWN, Conflict TASK_ANSWERED or TASK_SETTLED, and LEASE_LOST when it is
        `claimed` and the lease is over, or was given back; else it counts in place of a skip.
        """

    def skip(self, task_id: str, labeller: str) -> None:
        """Give the task back; this labeller does not get it again. Once more changes nothing.

        Raises NotFound TASK_UNKNOWN, Conflict LEASE_LOST, also for one that the labeller has
        answered.
        """

    def answers_of(self, task_ids: Collection[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Labellers and their choices, by task."""

    def items_of(self, task_ids: Collection[str]) -> Mapping[str, Item]:
        """What the tasks are about, by task, as far as it is kept."""

    def answers(self, label: str) -> Sequence[Sequence[str]]:
        """The answers to each of the newest 10,000 tasks."""

    def counts(self, label: str) -> Mapping[TaskState, int]:
        """Tasks by state."""

    def targets(self, label: str, *, after: str, targets_max: int) -> list[str]:
        """The first targets behind this one, in order, each once."""

    def erase(self, label: str, targets: Collection[str], *, until_us: int) -> int:
        """Forget the tasks of these targets as of that moment or earlier; how many there were."""

    def note_erased(self, entities: Collection[str], *, until_us: int) -> None:
        """From now on no item is kept of predictions about these, as of that moment or earlier.

        They are named as items name theirs, and remembered for as long as a task.
        """

    def erase_items(self, *, until_us: int) -> None:
        """Forget the items of predictions about those that are noted up to this moment."""
