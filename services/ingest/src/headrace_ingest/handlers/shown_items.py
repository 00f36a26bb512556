# SPDX-License-Identifier: Apache-2.0
"""What people are shown of the predictions that they label: what was logged, by its names.

The log has numbers alone; what a version calls them says the registry. It is asked when a task is
shown, and where it does not answer the numbers are shown without names: people can go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from headrace.errors import Busy, HeadraceError, Unavailable
from headrace_ingest.domain.label_tasks import Item, Task
from headrace_ingest.ports.erasures import ModelVersions
from headrace_ingest.ports.labels import TaskStore

VERSIONS_MAX = 256

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ShownItem:
    """`names` are those of the item's features, in their order; empty: they are not known now."""

    item: Item
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class ShownItems:
    """Names of a version never change: those of the first `VERSIONS_MAX` are kept."""

    tasks: TaskStore
    models: ModelVersions
    _names: dict[tuple[str, int], Sequence[str]] = field(default_factory=dict)

    def of(self, tasks: Sequence[Task]) -> Mapping[str, ShownItem]:
        """By task; of one of before items were kept, or whose entity was erased, there is none.

        Raises Unavailable DATABASE_UNAVAILABLE.
        """
        items = self.tasks.items_of([task.task_id for task in tasks])
        found = [(task, items[task.task_id]) for task in tasks if task.task_id in items]
        names = self._names_of({(item.model, task.version) for task, item in found})
        return {
            task.task_id: ShownItem(item, names.get((item.model, task.version), ()))
            for task, item in found
        }

    def _names_of(self, versions: set[tuple[str, int]]) -> Mapping[tuple[str, int], Sequence[str]]:
        known = {each: self._names[each] for each in versions if each in self._names}
        for each in sorted(versions - known.keys()):
            try:
                known[each] = self.models.features_of(*each)
            except (Busy, Unavailable) as err:  # the others would wait for the same
                log.warning("feature_names_not_known", error=str(err))
                break
            except HeadraceError as err:  # of this version nobody can tell
                log.warning("feature_names_not_known", error=str(err))
                known[each] = ()
            if len(self._names) < VERSIONS_MAX:
                self._names[each] = known[each]
        return known
