# SPDX-License-Identifier: Apache-2.0
"""The root of all tests: loads the plugin with the real servers that integration tests ask for."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["headrace.local.pytest_servers"]

# No test asserts a timing: a busy machine is no counterexample.
settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")
