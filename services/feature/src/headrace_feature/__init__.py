# SPDX-License-Identifier: Apache-2.0
"""The feature service: windows over streams, exact as known at any time, online and offline."""
