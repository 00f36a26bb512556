# SPDX-License-Identifier: Apache-2.0
"""The option of commands that change something which is audited."""

from __future__ import annotations

from typing import Annotated

import typer

Reason = Annotated[str, typer.Option(help="Why, for those who ask later.")]
