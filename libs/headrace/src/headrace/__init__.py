# SPDX-License-Identifier: Apache-2.0
"""Headrace for users and services: contracts, errors, application model, client, CLI."""
