# SPDX-License-Identifier: Apache-2.0
"""The trainer: one run for each training request, from training set to uploaded model."""
