# SPDX-License-Identifier: Apache-2.0
"""Names that mean something of their own in a request to an endpoint, or in its answer."""

from __future__ import annotations

# What inference answers beside a version's own outputs.
RESERVED_OUTPUTS = frozenset(("prediction_id",))
# With the name of an input behind it, what that input did.
RESERVED_OUTPUT_BEGINNING = "attributions."
# Inputs that are no column: the vectors themselves, and the moment that is asked for.
RESERVED_COLUMNS = frozenset(("features", "as_of_us"))


def is_reserved_output(name: str) -> bool:
    return name in RESERVED_OUTPUTS or name.startswith(RESERVED_OUTPUT_BEGINNING)
