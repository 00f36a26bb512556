# SPDX-License-Identifier: Apache-2.0
"""Technology behind the registry's ports."""
