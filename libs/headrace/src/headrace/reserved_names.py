# SPDX-License-Identifier: Apache-2.0
"""Names that mean something of their own in a request to an endpoint, or in its answer."""

from __future__ import annotations

# What inference answers beside a version's own outputs.
RESERVED_OUTPUTS = frozenset(("prediction_id",))
# Inputs that are no column: the vectors themselves, and the moment that is asked for.
RESERVED_COLUMNS = frozenset(("features", "as_of_us"))
