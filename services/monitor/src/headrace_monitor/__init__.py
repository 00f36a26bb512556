# SPDX-License-Identifier: Apache-2.0
"""Headrace monitor: drift, quality, canaries and incidents, judged on event time."""
