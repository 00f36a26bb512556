# SPDX-License-Identifier: Apache-2.0
"""The command line, thin over client and local runtime; each help page teaches by example."""
