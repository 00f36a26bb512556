# SPDX-License-Identifier: Apache-2.0
"""The inference service: serves each endpoint's model versions over the Open Inference Protocol."""
