# SPDX-License-Identifier: Apache-2.0
"""What every Headrace service does the same way: loops, servers, stores, errors, life cycle."""
