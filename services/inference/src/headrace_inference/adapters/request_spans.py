# SPDX-License-Identifier: Apache-2.0
"""What the span of a request says: who answered it, and how much of its time the model took.

OpenTelemetry has no names for models that are no language models; ours begin with `headrace`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_inference.domain.prediction import Prediction

if TYPE_CHECKING:
    from headrace_kit.spans import Span


def told(span: Span, prediction: Prediction, request_id: str) -> str:
    """The span's `traceparent`; rows are those of all requests that ran together."""
    span.note(
        {
            "headrace.request.id": request_id,
            "headrace.endpoint": prediction.endpoint,
            "headrace.model.version": prediction.served.version,
            "headrace.run.rows": prediction.rows,
        }
    )
    span.lasted("run model", end_us=prediction.served_at_us, ns=prediction.run_ns)
    return span.traceparent
