# SPDX-License-Identifier: Apache-2.0
"""Eight processes move one alias of one SQLite file: no move is lost, and none is made twice."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from sqlalchemy import text

WRITERS, MOVES = 8, 6
# One process imports what all need, and forks: each of them then opens the file itself.
FORKS = """
import os, sys
from headrace.errors import Conflict, Unavailable
from headrace_kit.clock import SystemClock
from headrace_kit.outbox import Outbox
from headrace_kit.sql import connect
from headrace_registry.adapters.sql_store import SqlRegistryStore
from headrace_registry.domain.alias import SetAlias
from headrace_registry.handlers.aliases import set_alias

uri, writers, moves = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def write(name):
    store, tries, made = SqlRegistryStore(connect(uri), Outbox(), lambda: None), 0, 0
    while made < moves:
        with store.reading() as reader:
            seen = reader.aliases("delay")["champion"].generation
        tries += 1
        command = SetAlias(f"{name}-{tries}", "delay", "champion", 1 + tries % 2, seen)
        try:
            moved = set_alias(command, caller=name, store=store, clock=SystemClock())
        except (Conflict, Unavailable) as err:
            if err.reason not in ("ALIAS_MOVED", "DATABASE_UNAVAILABLE"):
                raise
        else:
            made += 1
            os.write(1, f"{moved.generation} {moved.version}\\n".encode())

pids = []
for number in range(writers):
    pid = os.fork()
    if pid == 0:
        write(f"writer-{number}")
        os._exit(0)
    pids.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in pids))
"""


def test_eight_writers_lose_no_move_and_split_no_generation(sqlite: Any) -> None:
    sqlite.complete_runs(0.75, 0.76)
    uri = sqlite.engine.url.render_as_string()
    arguments = [uri, str(WRITERS), str(MOVES)]
    ended = subprocess.run(
        [sys.executable, "-c", FORKS, *arguments], capture_output=True, text=True, timeout=120
    )
    assert 0 == ended.returncode, ended.stderr
    told = [tuple(map(int, line.split())) for line in ended.stdout.splitlines()]

    with sqlite.engine.begin() as connection:
        moves = text("select generation, version from alias_moves where generation > 1")
        kept = [tuple(row) for row in connection.execute(moves)]
        ((whole,),) = connection.execute(text("pragma integrity_check"))
    assert [*range(2, 2 + WRITERS * MOVES)] == sorted(generation for generation, _ in told)
    assert sorted(kept) == sorted(told)
    assert (max(told)[1], max(told)[0]) == sqlite.champion()
    assert "ok" == whole
