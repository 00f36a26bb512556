# SPDX-License-Identifier: Apache-2.0
"""The root of all tests: loads the plugin with the real servers that integration tests ask for."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["headrace.local.pytest_servers"]

# No test asserts a timing: a busy machine is no counterexample. CI tries the same examples each
# time, so that it judges the commit; everybody else's run searches on with new ones.
settings.register_profile(
    "headrace",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("headrace")
