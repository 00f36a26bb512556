# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.peers` (`make bench-peers`): installs every peer, once."""

from __future__ import annotations

from benchmarks.outcome import say
from benchmarks.peers.installed import ALL

for peer in ALL:
    peer.install()
    say(f"{peer.name} {peer.version}: there")
