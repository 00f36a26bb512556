# SPDX-License-Identifier: Apache-2.0
"""What people say of a version: tags to find it by, and a model card, which is Markdown.

Both change as people learn more; the version itself never does. Texts are stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.errors import Busy, Invalid
from headrace_registry.domain.name import check_id

TAGS_MAX = 256
DESCRIPTION_BYTES_MAX = 64 << 10
METRICS_MAX = 256


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Raises Busy METADATA_TOO_LARGE, Invalid BAD_REQUEST; each metric goes with every event."""
    if len(metrics) > METRICS_MAX:
        raise Busy("METADATA_TOO_LARGE", metrics=len(metrics), metrics_max=METRICS_MAX)
    for name in metrics:
        check_id("metrics", name)


@dataclass(frozen=True, slots=True)
class Description:
    """Tags and card since the `changes`-th change; 0: as it was registered."""

    tags: Mapping[str, str] = field(default_factory=dict)
    card: str = ""
    changes: int = 0

    def changed(
        self, tags_set: Mapping[str, str], removed: tuple[str, ...], card: str | None
    ) -> Description:
        """Raises what `check` raises; a removed tag that is not there is no error."""
        tags = {**self.tags, **tags_set}
        kept = {key: value for key, value in tags.items() if key not in removed}
        made = Description(kept, self.card if card is None else card, self.changes)
        made.check()
        return replace(made, changes=self.changes + 1)

    def check(self) -> None:
        """Raises Invalid BAD_REQUEST, Busy METADATA_TOO_LARGE."""
        for key in self.tags:
            check_id("tags", key)
        texts = (*self.tags, *self.tags.values(), self.card)
        if any("\0" in text for text in texts):
            raise Invalid("BAD_REQUEST", field="tags or card", problem="holds a NUL")
        size_bytes = sum(len(text.encode()) for text in texts)
        if len(self.tags) > TAGS_MAX or size_bytes > DESCRIPTION_BYTES_MAX:
            raise Busy(
                "METADATA_TOO_LARGE",
                tags=len(self.tags),
                tags_max=TAGS_MAX,
                size_bytes=size_bytes,
                bytes_max=DESCRIPTION_BYTES_MAX,
            )
