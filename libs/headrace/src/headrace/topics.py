# SPDX-License-Identifier: Apache-2.0
"""Generated from contracts/topics by contracts/generate.py: every topic of the house."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic, or one for each stream or endpoint when its pattern has a <placeholder>."""

    pattern: str
    owner: str
    partitions: int
    cleanup: str
    retention_h: int | None
    publishers: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def templated(self) -> bool:
        return "<" in self.pattern

    @property
    def name(self) -> str:
        """The topic's name; only for a pattern without placeholder."""
        if self.templated:
            raise ValueError(f"{self.pattern} needs a stream or an endpoint")
        return self.pattern

    def of(self, part: str) -> str:
        """The topic of one stream or endpoint."""
        before, _, rest = self.pattern.partition("<")
        return before + part + rest.partition(">")[2]

    def part_of(self, topic: str) -> str:
        """The stream or endpoint in a topic's name: the inverse of `of`."""
        before, _, rest = self.pattern.partition("<")
        return topic.removeprefix(before).removesuffix(rest.partition(">")[2])


FEATURE_CORRECTIONS = Topic(
    pattern="feature.corrections.v1",
    owner="feature",
    partitions=4,
    cleanup="delete",
    retention_h=720,
    publishers=("feature",),
    consumers=(),
)
FEATURE_DEAD_LETTERS = Topic(
    pattern="feature.dead-letters.v1",
    owner="feature",
    partitions=1,
    cleanup="delete",
    retention_h=720,
    publishers=("feature",),
    consumers=(),
)
FEATURE_ROWS = Topic(
    pattern="feature.rows.<view>.v1",
    owner="feature",
    partitions=4,
    cleanup="compact",
    retention_h=None,
    publishers=("feature",),
    consumers=("inference", "ingest"),
)
INFERENCE_DEAD_LETTERS = Topic(
    pattern="inference.dead-letters.v1",
    owner="inference",
    partitions=1,
    cleanup="delete",
    retention_h=720,
    publishers=("inference",),
    consumers=(),
)
INFERENCE_PREDICTIONS = Topic(
    pattern="inference.predictions.<endpoint>.v1",
    owner="inference",
    partitions=4,
    cleanup="delete",
    retention_h=720,
    publishers=("inference",),
    consumers=("monitor", "ingest"),
)
INFERENCE_REQUESTS = Topic(
    pattern="inference.requests.<endpoint>.v1",
    owner="inference",
    partitions=4,
    cleanup="delete",
    retention_h=168,
    publishers=("users",),
    consumers=("inference",),
)
INGEST_DEAD_LETTERS = Topic(
    pattern="ingest.dead-letters.v1",
    owner="ingest",
    partitions=4,
    cleanup="delete",
    retention_h=720,
    publishers=("ingest",),
    consumers=(),
)
INGEST_ERASED_EVENTS = Topic(
    pattern="ingest.erased-events.v1",
    owner="ingest",
    partitions=1,
    cleanup="compact",
    retention_h=None,
    publishers=("ingest",),
    consumers=("feature",),
)
INGEST_ERASURES = Topic(
    pattern="ingest.erasures.v1",
    owner="ingest",
    partitions=1,
    cleanup="compact",
    retention_h=None,
    publishers=("ingest",),
    consumers=("feature", "ingest"),
)
INGEST_QUALITY = Topic(
    pattern="ingest.quality.v1",
    owner="ingest",
    partitions=1,
    cleanup="delete",
    retention_h=720,
    publishers=("ingest",),
    consumers=(),
)
INGEST_RECORDS = Topic(
    pattern="ingest.records.<stream>.v1",
    owner="ingest",
    partitions=4,
    cleanup="delete",
    retention_h=336,
    publishers=("ingest",),
    consumers=("feature", "monitor"),
)
MONITOR_DEAD_LETTERS = Topic(
    pattern="monitor.dead-letters.v1",
    owner="monitor",
    partitions=1,
    cleanup="delete",
    retention_h=720,
    publishers=("monitor",),
    consumers=(),
)
MONITOR_INCIDENTS = Topic(
    pattern="monitor.incidents.v1",
    owner="monitor",
    partitions=1,
    cleanup="compact",
    retention_h=None,
    publishers=("monitor",),
    consumers=("ingest",),
)
MONITOR_VERDICTS = Topic(
    pattern="monitor.verdicts.v1",
    owner="monitor",
    partitions=1,
    cleanup="delete",
    retention_h=8760,
    publishers=("monitor",),
    consumers=("registry",),
)
RAW = Topic(
    pattern="raw.<stream>.v1",
    owner="ingest",
    partitions=4,
    cleanup="delete",
    retention_h=336,
    publishers=("users", "ingest"),
    consumers=("ingest",),
)
REGISTRY_DEAD_LETTERS = Topic(
    pattern="registry.dead-letters.v1",
    owner="registry",
    partitions=1,
    cleanup="delete",
    retention_h=720,
    publishers=("registry",),
    consumers=(),
)
REGISTRY_DEFINITIONS = Topic(
    pattern="registry.definitions.v1",
    owner="registry",
    partitions=1,
    cleanup="compact",
    retention_h=None,
    publishers=("registry",),
    consumers=("ingest", "feature", "trainer", "inference", "monitor"),
)
REGISTRY_MODEL_VERSIONS = Topic(
    pattern="registry.model-versions.v1",
    owner="registry",
    partitions=1,
    cleanup="delete",
    retention_h=87600,
    publishers=("registry",),
    consumers=("trainer", "monitor"),
)
REGISTRY_ROLLOUTS = Topic(
    pattern="registry.rollouts.v1",
    owner="registry",
    partitions=1,
    cleanup="compact",
    retention_h=None,
    publishers=("registry",),
    consumers=("inference", "monitor"),
)
TRAINER_DEAD_LETTERS = Topic(
    pattern="trainer.dead-letters.v1",
    owner="trainer",
    partitions=1,
    cleanup="delete",
    retention_h=720,
    publishers=("trainer",),
    consumers=(),
)
TRAINER_REQUESTS = Topic(
    pattern="trainer.requests.v1",
    owner="trainer",
    partitions=1,
    cleanup="delete",
    retention_h=720,
    publishers=("monitor",),
    consumers=("trainer",),
)
TRAINER_RUNS = Topic(
    pattern="trainer.runs.v1",
    owner="trainer",
    partitions=1,
    cleanup="delete",
    retention_h=8760,
    publishers=("trainer",),
    consumers=("registry", "monitor"),
)

ALL = (
    FEATURE_CORRECTIONS,
    FEATURE_DEAD_LETTERS,
    FEATURE_ROWS,
    INFERENCE_DEAD_LETTERS,
    INFERENCE_PREDICTIONS,
    INFERENCE_REQUESTS,
    INGEST_DEAD_LETTERS,
    INGEST_ERASED_EVENTS,
    INGEST_ERASURES,
    INGEST_QUALITY,
    INGEST_RECORDS,
    MONITOR_DEAD_LETTERS,
    MONITOR_INCIDENTS,
    MONITOR_VERDICTS,
    RAW,
    REGISTRY_DEAD_LETTERS,
    REGISTRY_DEFINITIONS,
    REGISTRY_MODEL_VERSIONS,
    REGISTRY_ROLLOUTS,
    TRAINER_DEAD_LETTERS,
    TRAINER_REQUESTS,
    TRAINER_RUNS,
)
