# SPDX-License-Identifier: Apache-2.0
import signal
import subprocess
import sys

import pytest

from headrace.errors import Invalid
from headrace_kit.failpoints import FailpointRaised, arm, failpoint


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    arm(None)


def test_failpoint_acts_at_the_armed_hit_only():
    arm("sink.committed:2:raise")

    failpoint("sink.committed")
    failpoint("sink.other")
    with pytest.raises(FailpointRaised, match=r"sink\.committed"):
        failpoint("sink.committed")
    failpoint("sink.committed")


def test_arming_again_forgets_what_was_armed():
    arm("a:1:raise")
    arm("b:1:sleep:0")

    failpoint("a")
    failpoint("b")


@pytest.mark.parametrize(
    "spec", ["a", "a:1", "a:0:kill", "a:x:kill", ":1:kill", "a:1:burn", "a:1:kill:5", "a:1:sleep"]
)
def test_wrong_spec_is_refused(spec):
    with pytest.raises(Invalid, match="BAD_SETTING"):
        arm(spec)


def test_kill_ends_the_process_at_once():
    code = "from headrace_kit.failpoints import arm, failpoint; arm('a:1:kill'); failpoint('a')"
    ended = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)

    assert -signal.SIGKILL == ended.returncode
