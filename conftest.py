# SPDX-License-Identifier: Apache-2.0
"""The root of all tests: loads the plugin with the real servers that integration tests ask for."""

pytest_plugins = ["headrace.local.pytest_servers"]
