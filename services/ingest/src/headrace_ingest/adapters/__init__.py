# SPDX-License-Identifier: Apache-2.0
"""Ingest's ties to Kafka, Delta Lake and gRPC."""
