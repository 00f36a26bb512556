# SPDX-License-Identifier: Apache-2.0
"""State change and event in one SQL transaction; a relay publishes the rows in order afterwards.

A row leaves the outbox after its delivery report. A crash in between repeats the message with the
same `ce_id`, which is fixed when the row is written; readers drop the repeat by it. Order holds
between transactions that lock the same row before they add.

What no topic takes is refused in the transaction, with all that it did. A row that is refused all
the same, for a topic may take less than by default, is set aside where it is: it would block all
behind it for ever.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, delete, insert, select, text, update

from headrace.errors import Busy, Invalid, Unavailable
from headrace_kit import tracing
from headrace_kit.backoff import Backoff
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import MESSAGE_BYTES_MAX, Message, Publisher
from headrace_kit.part_thread import ThreadPart
from headrace_kit.sql import OUTBOX, transaction
from headrace_kit.sql_writes import Write, insert_of

BATCH_ROWS_MAX = 500
# A topic's cap is of a batch of records: its frame is 61 bytes, and each header has lengths.
FRAME_BYTES = 4_096
RECORD_BYTES_MAX = MESSAGE_BYTES_MAX - FRAME_BYTES
# Before the topic of a row that was set aside; no topic of Kafka has a colon in its name.
REFUSED = "refused:"
POLL_INTERVAL_S = 0.5
# One relay per outbox: the services that share a database have one in each schema.
RELAY_LOCK = text(
    "select pg_try_advisory_xact_lock(hashtextextended('outbox in ' || current_schema(), 0))"
)

ADD = insert(OUTBOX)
WAITING = (
    select(OUTBOX)
    .where(OUTBOX.c.topic.not_like(f"{REFUSED}%"))
    .order_by(OUTBOX.c.id)
    .limit(BATCH_ROWS_MAX)
)

log = structlog.get_logger(__name__)


class Outbox:
    """Where handlers leave the messages of a transaction."""

    def add(self, connection: Connection, *messages: Message) -> None:
        """Add the messages in this order; each gets a `ce_id` header unless it has one.

        Raises Invalid TOO_LARGE for one that no topic takes.
        """
        if messages:
            connection.execute(ADD, [_row(each) for each in messages])

    def write(self, messages: Sequence[Message]) -> Write:
        """The same, to be written with others: of few, since their number is in the statement.

        Raises what `add` does.
        """
        return insert_of(OUTBOX.name, [_row(each) for each in messages])


class OutboxRelay(ThreadPart):
    """Publishes the outbox in the order of its rows; a Part."""

    def __init__(self, engine: Engine, publisher: Publisher) -> None:
        super().__init__("outbox-relay")
        self._engine, self._publisher = engine, publisher
        self._wake = threading.Event()

    def stop(self, timeout_s: float) -> None:
        """End after the batch in work; what is left waits for the next start."""
        self._stopping.set()
        self._wake.set()
        super().stop(timeout_s)

    def notify(self) -> None:
        """Look now: a transaction with messages was committed."""
        self._wake.set()

    def relay_once(self) -> int:
        """Publish up to 500 rows and remove them, or set them aside; returns how many."""
        with self._sole_relay() as sole:
            if not sole:
                return 0
            with transaction(self._engine) as connection:
                rows = connection.execute(WAITING).all()
            if rows:
                delivered = self._delivered(rows)
                failpoint("kit.outbox.delivered")
                self._remove(delivered)
            return len(rows)

    def _delivered(self, rows: Sequence[Any]) -> Sequence[Any]:
        """All but those that are refused. Which one it was is told of one alone.

        So after a refusal each goes by itself, and some for the second time, as after a crash.
        """
        try:
            self._publisher.publish([_message(row) for row in rows])
        except Invalid:
            return [row for row in rows if self._taken(row)]
        return rows

    def _taken(self, row: Any) -> bool:
        try:
            self._publisher.publish([_message(row)])
        except Invalid as err:
            self._set_aside(row, err)
            return False
        return True

    def _set_aside(self, row: Any, err: Invalid) -> None:
        named = {"row": row.id, "topic": row.topic, "bytes": len(row.value or b"")}
        log.error("outbox_row_refused", **named, error=str(err))
        refused = update(OUTBOX).where(OUTBOX.c.id == row.id).values(topic=REFUSED + row.topic)
        with transaction(self._engine) as connection:
            connection.execute(refused)

    def _remove(self, rows: Sequence[Any]) -> None:
        with transaction(self._engine) as connection:
            connection.execute(delete(OUTBOX).where(OUTBOX.c.id.in_([row.id for row in rows])))

    @contextmanager
    def _sole_relay(self) -> Iterator[bool]:
        """True for one relay per database: PostgreSQL locks, a SQLite file has one process."""
        if self._engine.dialect.name != "postgresql":
            yield True
            return
        with transaction(self._engine) as connection:
            yield bool(connection.execute(RELAY_LOCK).scalar())

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._wake.wait(max(POLL_INTERVAL_S, backoff.left_s()))
            self._wake.clear()
            self._thread.tick()
            try:
                while self.relay_once() == BATCH_ROWS_MAX:
                    self._thread.tick()
                backoff.succeeded()
            except (Busy, Unavailable) as err:
                delay_s = backoff.failed(err.retry_delay_s)
                log.warning("outbox_waits", error=str(err), delay_s=delay_s)


def _row(message: Message) -> dict[str, object]:
    headers = dict((*message.headers, *tracing.record_headers()))
    headers.setdefault("ce_id", uuid.uuid4().hex.encode())
    _check_size(message, headers)
    text_by_name = {name: value.decode("latin-1") for name, value in headers.items()}
    return {
        "topic": message.topic,
        "key": message.key,
        "value": message.value,
        "headers": json.dumps(text_by_name).encode(),
    }


def _check_size(message: Message, headers: Mapping[str, bytes]) -> None:
    beside = sum(len(name) + len(value) for name, value in headers.items())
    size_bytes = len(message.key or b"") + len(message.value or b"") + beside
    if size_bytes > RECORD_BYTES_MAX:
        raise Invalid(
            "TOO_LARGE", topic=message.topic, bytes=size_bytes, bytes_max=RECORD_BYTES_MAX
        )


def _message(row: Any) -> Message:
    headers = json.loads(row.headers)
    return Message(
        row.topic, row.key, row.value, tuple((k, v.encode("latin-1")) for k, v in headers.items())
    )
