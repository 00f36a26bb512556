# SPDX-License-Identifier: Apache-2.0
"""Lets the tests import `feature_world`, and has Hypothesis print how to repeat a failure."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("feature", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("feature")
