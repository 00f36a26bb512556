# SPDX-License-Identifier: Apache-2.0
"""Servicers are called without the interceptor, which says who calls."""

import pytest

from headrace_kit.auth import EVERYBODY, work_for


@pytest.fixture(autouse=True)
def everybody_calls():
    """As where no tokens file is."""
    work_for(EVERYBODY)
