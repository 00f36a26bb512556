# SPDX-License-Identifier: Apache-2.0
"""Unary methods that are called so often that calls which arrive together are answered together.

A door hands over encoded requests and takes encoded answers; what serves them decides what to
share among them. The grpcio server hands over one at a time, `NativeDoor` what it finds waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.errors import HeadraceError

Answer = bytes | HeadraceError
Answerer = Callable[[Sequence[bytes]], Sequence[Answer]]


@dataclass(frozen=True, slots=True)
class HotMethod:
    """`path`: `/package.Service/Method`. `answer` gives each request its own answer, in order.

    What it raises is a bug, and the answer to all of them.
    """

    path: str
    answer: Answerer
