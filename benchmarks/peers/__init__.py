# SPDX-License-Identifier: Apache-2.0
"""Peers that the benchmarks compare with: each in an environment of its own, at a pinned version.

`make bench-peers` installs them into `.headrace/peers`; a benchmark runs those that are there.
"""
