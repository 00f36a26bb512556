# SPDX-License-Identifier: Apache-2.0
"""Encoded online reads to queries; a caller's names of features, mostly those of before, are kept.

A Protobuf message may be cut between two of its fields: both parts are messages, and merged they
are the whole (Protocol Buffers, Encoding, "Last One Wins"). A request begins with its features, so
of one that begins like a request before it only what follows these is decoded.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from headrace.errors import Invalid
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace_feature.adapters.conversions import to_query
from headrace_feature.domain.online_query import GetOnlineFeatures

BEGINNINGS_MAX = 8
BEGINNING_BYTES_MAX = 64 << 10


class QueryReader:
    """Any thread reads."""

    def __init__(self) -> None:
        self._known: tuple[tuple[bytes, tuple[str, ...]], ...] = ()

    def read(self, payload: bytes) -> GetOnlineFeatures:
        """Raises Invalid DECODE_ERROR, and BAD_REQUEST for a column that is given twice."""
        for beginning, features in self._known:
            if payload.startswith(beginning):
                return to_query(_decoded(payload[len(beginning) :]), features)
        query = to_query(_decoded(payload))
        self._learn(query.features)
        return query

    def _learn(self, features: tuple[str, ...]) -> None:
        """The newest comes first, and the one that was learnt longest ago goes."""
        beginning = wire.GetOnlineFeaturesRequest(features=features).SerializeToString()
        if 0 < len(beginning) <= BEGINNING_BYTES_MAX:
            self._known = ((beginning, features), *self._known)[:BEGINNINGS_MAX]


def _decoded(payload: bytes) -> wire.GetOnlineFeaturesRequest:
    try:
        return wire.GetOnlineFeaturesRequest.FromString(payload)
    except DecodeError as err:
        raise Invalid("DECODE_ERROR") from err
