# SPDX-License-Identifier: Apache-2.0
"""Where the child of an acceptance begins: it leaves the network, then imports what reads.

ONNX Runtime starts a thread as it is imported, and a process of several can have no user namespace
of its own any more (unshare(2), EINVAL).
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000


def main() -> int:
    leave_network()
    from headrace_registry.adapters import acceptance_child

    return acceptance_child.main()


def leave_network() -> None:
    """Where that is allowed; containers may forbid it: no operator that is taken opens a socket."""
    unshare = ctypes.CDLL(None).unshare
    # In a user namespace root would lose its right to read files of others, such as its own code.
    if unshare(CLONE_NEWNET) != 0 and os.geteuid() != 0:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)


if __name__ == "__main__":
    sys.exit(main())
