# SPDX-License-Identifier: Apache-2.0
"""Transactions, inbox and outbox on SQLite and on PostgreSQL: one set of laws for both."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from headrace.errors import Busy, Invalid, Unavailable
from headrace_kit import sql
from headrace_kit.answer_time import answer_until
from headrace_kit.clock import SystemClock
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.outbox import RECORD_BYTES_MAX, REFUSED, Outbox, OutboxRelay
from headrace_kit.sql import OUTBOX, Inbox, connect, transaction
from headrace_kit.sql_clock import database_clock
from headrace_kit.sql_migrations import Migrations
from headrace_kit.sql_writes import Write, insert_of, write_together
from headrace_kit.testing import MemoryPublisher, wait_until

pytestmark = pytest.mark.integration

OWN = MetaData()
COUNTERS = Table(
    "counters", OWN, Column("name", String, primary_key=True), Column("value", Integer)
)
USES = Table("uses", OWN, Column("name", String, ForeignKey("counters.name"), primary_key=True))


TABLES = """
create table counters (name varchar primary key, value integer);
create table uses (name varchar primary key references counters (name))
"""
UNIT = "alter table counters add column unit varchar not null default 'rows'"
REVISION = """
from alembic import op

revision, down_revision = "{number:04d}", {before}


def upgrade():
    for statement in {statements}:
        op.execute(statement)
"""


def steps(folder, *texts):
    """Migrations whose steps are statements with semicolons between."""
    folder.mkdir(exist_ok=True)
    for number, text_ in enumerate(texts, start=1):
        before = f"'{number - 1:04d}'" if number > 1 else None
        code = REVISION.format(number=number, before=before, statements=text_.split(";"))
        (folder / f"r{number:04d}.py").write_text(code)
    return Migrations(folder)


@pytest.fixture
def own(tmp_path):
    return steps(tmp_path / "own", TABLES)


@pytest.fixture
def grown(tmp_path):
    return steps(tmp_path / "grown", TABLES, UNIT)


def fresh_uri(request, tmp_path, dialect):
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path}/folder/test.db"
    dsn = request.getfixturevalue("postgres_server")
    name = f"t{uuid.uuid4().hex}"
    admin = connect(dsn).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"create database {name}"))
    admin.dispose()
    return make_url(dsn).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path, own):
    made = connect(fresh_uri(request, tmp_path, request.param))
    own.upgrade(made)
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    arm(None)


def count(engine, table=OUTBOX):
    with transaction(engine) as connection:
        return connection.scalar(select(func.count()).select_from(table))


def fail_after(engine, step):
    with transaction(engine) as connection:
        step(connection)
        raise KeyError


def add_messages(engine, numbers):
    for number in numbers:
        with transaction(engine) as connection:
            Outbox().add(connection, Message("registry.x.v1", b"k", b"%d" % number))


def test_tables_are_created_once(engine, own):
    own.upgrade(engine)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_starts_that_race_on_an_empty_database_all_succeed(request, tmp_path, own, dialect):
    uri, starts = fresh_uri(request, tmp_path, dialect), 6
    engines = [connect(uri, schema="own") for _ in range(starts)]
    together = threading.Barrier(starts)

    def start(engine):
        together.wait(10.0)
        own.upgrade(engine)

    with ThreadPoolExecutor(starts) as pool:
        list(pool.map(start, engines))

    assert 0 == count(engines[0], COUNTERS)
    for engine in engines:
        engine.dispose()


def test_older_tables_are_brought_up_to_date_and_keep_their_rows(engine, grown):
    with transaction(engine) as connection:
        connection.execute(insert(COUNTERS).values(name="a", value=7))

    grown.upgrade(engine)
    grown.upgrade(engine)

    with transaction(engine) as connection:
        assert [("a", 7, "rows")] == connection.execute(text("select * from counters")).all()


def test_tables_without_a_version_are_the_first_ones(engine, grown):
    with transaction(engine) as connection:
        connection.execute(text("drop table schema_version"))
        connection.execute(text("drop table alembic_version"))

    grown.upgrade(engine)

    assert "unit" in {each["name"] for each in inspect(engine).get_columns("counters")}


def test_tables_of_a_newer_service_are_refused(engine, own, grown):
    grown.upgrade(engine)

    with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"):
        own.upgrade(engine)


def some_writes(*messages):
    update_of_a = Write(
        "update counters set value = :value where name = :name", {"name": "a", "value": 7}
    )
    more = insert_of("counters", [{"name": name, "value": 1} for name in ("c", "b")])
    return [update_of_a, more, Outbox().write(messages)]


def test_writes_together_all_have_their_effect_and_rows_of_one_their_order(engine):
    with transaction(engine) as connection:
        connection.execute(insert(COUNTERS).values(name="a", value=1))
    messages = [Message("registry.x.v1", None, b"%d" % number) for number in range(9)]

    with transaction(engine) as connection:
        write_together(connection, some_writes(*messages))
        write_together(connection, [])

    with transaction(engine) as connection:
        rows = connection.execute(select(COUNTERS).order_by(COUNTERS.c.name)).all()
        sent = connection.execute(select(OUTBOX.c.value).order_by(OUTBOX.c.id)).scalars().all()
    assert [("a", 7), ("b", 1), ("c", 1)] == rows
    assert [message.value for message in messages] == sent


def test_write_that_fails_takes_the_others_with_it(engine):
    with transaction(engine) as connection:
        connection.execute(insert(COUNTERS).values(name="b", value=1))

    with pytest.raises(IntegrityError), transaction(engine) as connection:
        write_together(connection, some_writes(Message("registry.x.v1", b"k", b"v")))
    assert (1, 0) == (count(engine, COUNTERS), count(engine))


def test_connection_that_the_server_ended_is_replaced_before_it_is_used(request, tmp_path):
    engine = connect(fresh_uri(request, tmp_path, "postgresql"))
    admin = connect(request.getfixturevalue("postgres_server"))
    with transaction(engine) as connection:
        ended = connection.scalar(text("select pg_backend_pid()"))
    with transaction(admin) as connection:
        connection.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": ended})

    with transaction(engine) as connection:
        assert ended != connection.scalar(text("select pg_backend_pid()"))
    engine.dispose()
    admin.dispose()


def refused_within_the_time_of_its_caller(engine):
    """In a thread, as a call is; True when it was told that the database is away."""

    def ask():
        answer_until(time.monotonic() + 1.0)
        with transaction(engine) as connection:
            connection.scalar(text("select 1"))

    with ThreadPoolExecutor(1) as calls:
        return isinstance(calls.submit(ask).exception(60.0), Unavailable)


def test_server_that_is_frozen_is_waited_for_no_longer_than_the_caller_waits(request, tmp_path):
    engine = connect(fresh_uri(request, tmp_path, "postgresql"))
    with transaction(engine) as connection:
        frozen = connection.scalar(text("select pg_backend_pid()"))
    os.kill(frozen, signal.SIGSTOP)
    thaw = threading.Timer(50.0, os.kill, (frozen, signal.SIGCONT))
    thaw.start()
    try:
        assert refused_within_the_time_of_its_caller(engine)
        assert thaw.is_alive()
    finally:
        thaw.cancel()
        os.kill(frozen, signal.SIGCONT)

    with transaction(engine) as connection:
        assert frozen != connection.scalar(text("select pg_backend_pid()"))
    engine.dispose()


def test_server_that_takes_connections_and_says_nothing_is_away_by_then(monkeypatch):
    monkeypatch.setattr(sql, "CONNECT_TIMEOUT_S", 50)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = connect(f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/d")
        assert refused_within_the_time_of_its_caller(engine)
    engine.dispose()


def test_transaction_that_raises_leaves_nothing(engine):
    with pytest.raises(KeyError):
        fail_after(engine, lambda c: c.execute(insert(COUNTERS).values(name="a", value=1)))

    assert 0 == count(engine, COUNTERS)


def test_foreign_keys_hold(engine):
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        connection.execute(insert(USES).values(name="absent"))


def test_read_and_write_of_racing_transactions_see_one_state(engine):
    with transaction(engine) as connection:
        connection.execute(insert(COUNTERS).values(name="a", value=0))

    def add_one(_):
        with transaction(engine) as connection:
            read = select(COUNTERS.c.value).where(COUNTERS.c.name == "a").with_for_update()
            value = connection.scalar(read)
            connection.execute(update(COUNTERS).values(value=value + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(80)))

    with transaction(engine) as connection:
        assert 80 == connection.scalar(select(COUNTERS.c.value))


def test_inbox_tells_the_first_time_per_consumer(engine):
    runs, verdicts = Inbox("runs"), Inbox("verdicts")
    with transaction(engine) as connection:
        assert runs.first_time(connection, "e1")
        assert not runs.first_time(connection, "e1")
    with transaction(engine) as connection:
        assert not runs.first_time(connection, "e1")
        assert verdicts.first_time(connection, "e1")


def test_inbox_row_goes_with_an_effect_that_failed(engine):
    inbox = Inbox("runs")
    with pytest.raises(KeyError):
        fail_after(engine, lambda connection: inbox.first_time(connection, "e1"))

    with transaction(engine) as connection:
        assert inbox.first_time(connection, "e1")


def test_outbox_of_a_transaction_that_failed_is_empty(engine):
    with pytest.raises(KeyError):
        fail_after(engine, lambda c: Outbox().add(c, Message("registry.x.v1", b"k", b"v")))

    assert 0 == count(engine)


def test_relay_publishes_in_order_and_empties_the_outbox(engine):
    publisher = MemoryPublisher()
    add_messages(engine, range(5))

    assert 5 == OutboxRelay(engine, publisher).relay_once()

    assert [b"0", b"1", b"2", b"3", b"4"] == [message.value for message in publisher.published]
    assert 5 == len({dict(message.headers)["ce_id"] for message in publisher.published})
    assert 0 == count(engine)


def test_messages_of_one_transaction_keep_their_order(engine):
    messages = [Message("registry.x.v1", b"k", b"%d" % number) for number in range(5)]
    with transaction(engine) as connection:
        Outbox().add(connection, *messages)
    publisher = MemoryPublisher()

    OutboxRelay(engine, publisher).relay_once()

    assert [b"0", b"1", b"2", b"3", b"4"] == [message.value for message in publisher.published]


def test_message_keeps_its_own_headers_bytes_and_nothings(engine):
    message = Message("t", None, None, (("ce_id", b"mine"), ("raw", b"\x00\xff")))
    with transaction(engine) as connection:
        Outbox().add(connection, message)
    publisher = MemoryPublisher()

    OutboxRelay(engine, publisher).relay_once()

    assert [message] == publisher.published


def test_crash_between_delivery_and_mark_repeats_the_same_ids(engine):
    publisher = MemoryPublisher()
    add_messages(engine, range(2))
    relay = OutboxRelay(engine, publisher)

    arm("kit.outbox.delivered:1:raise")
    with pytest.raises(FailpointRaised):
        relay.relay_once()
    OutboxRelay(engine, publisher).relay_once()

    first, again = publisher.published[:2], publisher.published[2:]
    assert first == again
    assert 0 == count(engine)


def test_running_relay_waits_for_kafka_and_goes_on(engine):
    publisher = MemoryPublisher()
    publisher.errors = [Unavailable("DELIVERY_UNKNOWN"), Busy("QUEUE_FULL")]
    relay = OutboxRelay(engine, publisher)
    relay.start()
    try:
        add_messages(engine, range(1_201))
        relay.notify()
        wait_until(lambda: count(engine) == 0)
    finally:
        relay.stop(5.0)

    assert [b"%d" % number for number in range(1_201)] == [m.value for m in publisher.published]
    assert relay.failed() is None


def test_tick_of_a_relay_grows_old_while_its_publisher_hangs(engine):
    free = threading.Event()

    class Hanging(MemoryPublisher):
        def publish(self, messages, *, timeout_s=10.0):
            free.wait(10.0)
            super().publish(messages, timeout_s=timeout_s)

    add_messages(engine, range(1))
    relay = OutboxRelay(engine, Hanging())
    relay.start()
    try:
        wait_until(lambda: relay.tick_age_s() > 1.5)
        free.set()
        wait_until(lambda: relay.tick_age_s() < 1.0)
    finally:
        free.set()
        relay.stop(5.0)


def write_few(connection, *messages):
    write_together(connection, [Outbox().write(messages)])


@pytest.mark.parametrize("leave", [Outbox().add, write_few])
def test_record_that_no_topic_takes_is_refused_with_its_transaction(engine, leave):
    large = Message("registry.x.v1", b"k", bytes(RECORD_BYTES_MAX))

    def step(connection):
        connection.execute(insert(COUNTERS).values(name="a", value=1))
        leave(connection, Message("registry.x.v1", None, b"v"), large)

    with pytest.raises(Invalid, match="TOO_LARGE"):
        fail_after(engine, step)

    assert (0, 0) == (count(engine), count(engine, COUNTERS))


def test_row_that_its_topic_refuses_is_set_aside_for_good_and_the_others_go(engine):
    class Choosy(MemoryPublisher):
        def publish(self, messages, *, timeout_s=10.0):
            if any(message.value == b"1" for message in messages):
                raise Invalid("TOO_LARGE", topic="registry.x.v1")
            super().publish(messages, timeout_s=timeout_s)

    publisher = Choosy()
    add_messages(engine, range(3))
    relay = OutboxRelay(engine, publisher)
    relay.start()
    try:
        wait_until(lambda: count(engine) == 1)
    finally:
        relay.stop(5.0)

    assert relay.failed() is None
    assert [b"0", b"2"] == [message.value for message in publisher.published]
    assert 0 == OutboxRelay(engine, MemoryPublisher()).relay_once()
    with transaction(engine) as connection:
        assert [(f"{REFUSED}registry.x.v1", b"1")] == connection.execute(
            select(OUTBOX.c.topic, OUTBOX.c.value)
        ).all()


def test_largest_record_of_an_outbox_is_taken_by_a_real_topic(engine, kafka_server, new_topic):
    topic, headers = new_topic(1), (("ce_id", b"mine"),)
    room = RECORD_BYTES_MAX - len(b"kce_idmine")
    with transaction(engine) as connection:
        Outbox().add(connection, Message(topic, b"k", random.Random(1).randbytes(room), headers))
    publisher = KafkaPublisher(kafka_server, client_id="test")

    OutboxRelay(engine, publisher).relay_once()

    assert 0 == count(engine)
    publisher.close(5.0)


def test_second_relay_leaves_the_rows_to_the_first(engine):
    if engine.dialect.name == "sqlite":
        pytest.skip("a SQLite file has one process")
    entered, go_on = threading.Event(), threading.Event()

    class Slow(MemoryPublisher):
        def publish(self, messages, *, timeout_s=10.0):
            entered.set()
            go_on.wait(10.0)
            super().publish(messages, timeout_s=timeout_s)

    slow, other = Slow(), MemoryPublisher()
    add_messages(engine, range(3))
    first = threading.Thread(target=OutboxRelay(engine, slow).relay_once)
    first.start()
    entered.wait(10.0)
    assert 0 == OutboxRelay(engine, other).relay_once()
    go_on.set()
    first.join(10.0)

    assert (3, 0) == (len(slow.published), len(other.published))
    assert 0 == count(engine)


def test_services_that_share_a_database_do_not_share_an_outbox(postgres_server, own):
    names = [f"s{uuid.uuid4().hex}" for _ in range(2)]
    one, other = (connect(postgres_server, schema=name) for name in names)
    publisher = MemoryPublisher()
    for engine in (one, other):
        own.upgrade(engine)
    add_messages(one, range(3))

    assert 0 == OutboxRelay(other, publisher).relay_once()
    assert 3 == OutboxRelay(one, publisher).relay_once()
    for engine in (one, other):
        engine.dispose()


def test_relay_on_a_real_broker(engine, kafka_server, new_topic):
    topic = new_topic(1)
    with transaction(engine) as connection:
        Outbox().add(connection, Message(topic, b"k", b"v"))
    publisher = KafkaPublisher(kafka_server, client_id="test")

    assert 1 == OutboxRelay(engine, publisher).relay_once()

    publisher.close(5.0)


def test_clock_of_a_database_server_is_not_that_of_its_client(postgres_server, monkeypatch):
    engine = connect(postgres_server)
    before_us = SystemClock().now_us()
    monkeypatch.setattr(time, "time_ns", lambda: 0)

    assert 0 == SystemClock().now_us()
    assert before_us <= database_clock(engine).now_us()
    engine.dispose()


def test_locked_sqlite_file_is_unavailable(tmp_path, own):
    engine = connect(f"sqlite:///{tmp_path}/test.db?timeout=0.1")
    own.upgrade(engine)
    with transaction(engine) as held:
        held.execute(text("pragma busy_timeout=50"))
        other = connect(f"sqlite:///{tmp_path}/test.db")
        begin_s = time.monotonic()
        with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"), transaction(other):
            pass
        assert time.monotonic() - begin_s < 10.0
        other.dispose()
    engine.dispose()


def test_postgres_that_is_away_is_unavailable():
    engine = connect("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"), transaction(engine):
        pass
    engine.dispose()


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "mysql://h/d", "nonsense"])
def test_uri_of_another_kind_is_refused(uri):
    with pytest.raises(Invalid, match="BAD_SETTING"):
        connect(uri)
