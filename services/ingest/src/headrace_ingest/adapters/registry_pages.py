# SPDX-License-Identifier: Apache-2.0
"""What ingest lists of the registry, page after page: by works that wait, and may be repeated."""

from __future__ import annotations

from functools import partial

from headrace_kit.grpc_client import pages

CALL_TIMEOUT_S = 5.0

registry_pages = partial(pages, service="registry", timeout_s=CALL_TIMEOUT_S, retries_max=2)
