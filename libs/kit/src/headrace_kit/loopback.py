# SPDX-License-Identifier: Apache-2.0
"""Who is answered by an HTTP server on the loopback: who asks for it by a name of the loopback.

A web page of another origin could reach it under a name of its own (DNS rebinding). Both of our
servers ask here.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

NAMES = ("localhost", "127.0.0.1", "[::1]")


def on_loopback(host: str) -> bool:
    """Whether this host to bind to is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def asks_for_loopback(host: str, target: SplitResult) -> bool:
    """Whether a request with this Host header names nothing else.

    The host of a target in absolute form counts before Host does (RFC 9112, section 3.2.2).
    """
    return all(map(_names_loopback, [host, *filter(None, [target.netloc])]))


def shown_by_loopback(origin: str) -> bool:
    """Whether the page of an Origin header came from the loopback itself."""
    try:
        return _names_loopback(urlsplit(origin).netloc)
    except ValueError:
        return False


def _names_loopback(authority: str) -> bool:
    """Of `name` or `name:port`."""
    name = authority.rpartition(":")
    host = name[0] if name[2].isdigit() else "".join(name)
    return host.lower() in NAMES
