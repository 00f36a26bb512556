# SPDX-License-Identifier: Apache-2.0
"""The local runtime behind `headrace up`: real servers from pip packages, supervised.

`kafka`, `postgres` and `objectstore` say how a server is provided and run, as a `ProcessSpec`;
`supervisor` runs such processes; `doctor` says what is missing. Everything listens on loopback.
"""
