# SPDX-License-Identifier: Apache-2.0
"""What happens for each kind of record, when a window closes, and for each query."""
