# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2, generated into a descriptor pool of its own."""
