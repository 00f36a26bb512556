# SPDX-License-Identifier: Apache-2.0
"""Frozen facts and pure rules of the registry."""
