# SPDX-License-Identifier: Apache-2.0
"""Offline feature tables: of which definition a row is, and having rows written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import grpc

from headrace.application import definition_json
from headrace.data_contract import Stream
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.feature_view import StreamView, View
from headrace.rpc import error_of

CALL_S = 300.0


def features_digest(views: Iterable[View], streams: Mapping[str, Stream]) -> str:
    """sha256 of what says what features are: their views, and the streams that these read."""
    named = {view.name: view for view in views}
    read = set[str]()
    for view in named.values():
        if isinstance(view, StreamView):
            read |= {view.stream, *(each.stream for each in view.lookups.values())}
    said = [named[name] for name in sorted(named)] + [streams[name] for name in sorted(read)]
    return hashlib.sha256(b"\n".join(map(definition_json, said))).hexdigest()


def materialized(
    stub: Any, view: str, from_us: int, until_us: int | None
) -> Iterator[wire.MaterializeViewResponse]:
    """How far the table came, behind each round; calls until it is there.

    Raises the error of the service.
    """
    while True:
        request = wire.MaterializeViewRequest(view=view, from_us=from_us, until_us=until_us)
        try:
            for response in stub.MaterializeView(request, timeout=CALL_S):
                until_us = response.until_us
                yield response
        except grpc.RpcError as err:
            raise error_of(err) from err
        if response.reached_us >= response.until_us:
            return
