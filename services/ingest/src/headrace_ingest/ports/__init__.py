# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from the world, by subject."""
