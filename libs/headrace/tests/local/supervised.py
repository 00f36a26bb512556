# SPDX-License-Identifier: Apache-2.0
"""A supervisor of two small processes, as a process of its own for tests: `supervised.py DIR`.

Each process leaves its pid in `NAME.pid`, says that it is ready by `NAME.ready`, and writes its
name into `ends` when it is asked to stop. `second` has a child in a session of its own.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from headrace.local.process import ProcessSpec
from headrace.local.state import DataFolder
from headrace.local.supervisor import RestartPolicy, Stage, Supervisor, run_until_signalled

CODE = """
import os, pathlib, signal, subprocess, sys
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
def end(*_):
    with (folder / "ends").open("a") as ends:
        ends.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
if name == "second":
    grandchild = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (folder / "grandchild.pid").write_text(str(grandchild.pid))
(folder / f"{name}.pid").write_text(str(os.getpid()))
with (folder / "starts").open("a") as starts:
    starts.write(name + "\\n")
(folder / f"{name}.ready").touch()
print(name, "runs", flush=True)
while True:
    signal.pause()
"""


@dataclass(frozen=True)
class FileReady:
    path: Path

    def __call__(self, timeout_s: float) -> bool:
        return self.path.exists()


def a_process(name, folder, code=CODE, **given):
    (folder / f"{name}.ready").unlink(missing_ok=True)
    command = (sys.executable, "-c", code, name, str(folder))
    ready = FileReady(folder / f"{name}.ready")
    return ProcessSpec(**{"name": name, "command": command, "ready": ready, **given})


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(folder):
    stages = [Stage([a_process("first", folder)]), Stage([a_process("second", folder)])]
    policy = RestartPolicy(delay_min_s=0.05)
    supervisor = Supervisor(
        lambda: stages,
        DataFolder(folder / "data"),
        report=say,
        policy=policy,
    )
    run_until_signalled(supervisor)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
