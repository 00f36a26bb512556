# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, to those who read them meanwhile too."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Puts a file in the place of what is there; its folder is made when absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, mode=mode) as file:
        file.write(text.encode())


@contextmanager
def whole_file(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A file to be written piece by piece; it is there once the block ends without an error."""
    with ExitStack() as unless_whole:
        # Temporary files are made with mode 0600: nobody else reads it before it has its own.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            made = Path(file.name)
            unless_whole.callback(made.unlink)
            yield file
        made.chmod(mode)
        made.replace(path)
        unless_whole.pop_all()
