# SPDX-License-Identifier: Apache-2.0
"""The registry: definitions, model versions, gates, aliases, rollouts, and artifacts by digest."""
