# SPDX-License-Identifier: Apache-2.0
"""How a record of `inference.requests.<endpoint>` claims a request that fits none."""

from __future__ import annotations

# Headers of a record without a value: the sha256 of the encoded request, in hexadecimal digits, and
# its length in decimal ones.
CLAIM_DIGEST, CLAIM_BYTES = "claim-digest", "claim-bytes"
