# SPDX-License-Identifier: Apache-2.0
"""Whether a text is a pickle, by its opcodes: nothing of it is loaded.

A pickle acts while it is read, so one that is cut or followed by something else counts too. Words
may begin with opcodes, so a text counts only if its opcodes find on the stack what they take, and
import something that they then call, or remember what they made and end as a pickle does. Blanks
before it are passed over; other bytes are not, as any text might hide one then. A zip archive, such
as torch writes, counts as what it may hold: its reader finds it behind any bytes.

The opcodes and what they take: Python's pickletools.
"""

from __future__ import annotations

import base64
import pickletools
import re
from collections.abc import Iterator

# The protocol marker of pickle 2 to 5, which joblib and the old torch format begin with too.
PICKLE_MAGIC = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
# How a zip archive begins, and its end: PKWARE's APPNOTE, 4.3.7 and 4.3.16.
ZIP_MAGIC, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
# Both in base64, as it is put into fields that must be UTF-8; `-` and `_` are for URIs.
BASE64_MAGIC = re.compile(rb"gA[I-X]|UEsDB[A-P]")
STANDARD_LETTERS = bytes.maketrans(b"-_", b"+/")
# `module name`, each of identifiers with dots between them.
IMPORTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)* [^\W\d]\w*(\.[^\W\d]\w*)*")
IMPORTS = {"GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
CALLS = {"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "STOP"}
REMEMBERS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
MARK, THING = "mark", "thing"


def holds_pickle(text: bytes) -> bool:
    """Whether the text is a pickle of any protocol, or holds a zip archive; in base64 one of
    protocol 2 to 5, or an archive.
    """
    text = text.lstrip()
    decoded = _decoded(text)
    return (
        text.startswith(PICKLE_MAGIC)
        or any(map(_acts, (text, decoded)))
        or any(map(_zipped, (text, decoded)))
    )


def _zipped(text: bytes) -> bool:
    return text.startswith(ZIP_MAGIC) or 0 <= text.find(ZIP_MAGIC) < text.rfind(ZIP_END)


def _decoded(text: bytes) -> bytes:
    if not BASE64_MAGIC.match(text):
        return b""
    try:  # what is no letter is passed over, as decoders do
        return base64.b64decode(text.translate(STANDARD_LETTERS) + b"==")
    except ValueError:
        return b""


def _acts(text: bytes) -> bool:
    imports = remembers = False
    for name in _opcodes(text):
        if name == "INST" or (imports and name in CALLS) or (remembers and name == "STOP"):
            return True
        imports = imports or name in IMPORTS
        remembers = remembers or name in REMEMBERS
    return False


def _opcodes(text: bytes) -> Iterator[str]:
    """The names of the opcodes, as far as they make sense."""
    stack: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(text):
            if opcode.name in ("GLOBAL", "INST") and not IMPORTED.fullmatch(str(argument)):
                return
            _run(opcode, stack)
            yield opcode.name
    except (ValueError, IndexError):
        return


def _run(opcode: pickletools.OpcodeInfo, stack: list[str]) -> None:
    """What the opcode does to the stack; IndexError when that does not hold what it takes."""
    takes = opcode.stack_before
    if pickletools.markobject in takes:
        while stack.pop() != MARK:
            """It takes all down to the mark."""
        takes = takes[: takes.index(pickletools.markobject)]
    for _ in takes:
        stack.pop()
    stack.extend(MARK if each is pickletools.markobject else THING for each in opcode.stack_after)
