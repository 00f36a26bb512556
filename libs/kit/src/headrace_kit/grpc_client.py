# SPDX-License-Identifier: Apache-2.0
"""Calls of one service to another: the SDK's channel and call, under the kit's roof."""

from headrace.rpc import MESSAGE_BYTES_MAX, call, error_of, open_channel

__all__ = ["MESSAGE_BYTES_MAX", "call", "error_of", "open_channel"]
