# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: what the platform needs and reaches on this machine, beside the bars."""
