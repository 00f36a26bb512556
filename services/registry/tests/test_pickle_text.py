# SPDX-License-Identifier: Apache-2.0
"""Pickles are known by what they would do; words that begin as one does are not."""

from __future__ import annotations

import base64
import datetime
import io
import pickle
import zipfile

import pytest

from headrace_registry.domain.pickle_text import holds_pickle

SHELL = b"cos\nsystem\n(S'true'\ntR."
OLD_SHELL = b"(S'true'\nios\nsystem\n."


class Calling:
    """What it becomes when it is loaded is the least of it."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("loaded",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [Calling(), {"a": [1]}, "text", ("a", 1.5), datetime.date(2013, 3, 1)]
)
def test_pickle_of_any_protocol_is_known(protocol: int, value: object) -> None:
    pickled = pickle.dumps(value, protocol)

    assert holds_pickle(pickled)
    assert holds_pickle(pickled + b" and more")


@pytest.mark.parametrize("text", [SHELL, OLD_SHELL, SHELL[:-1], OLD_SHELL[:-1], b"N0" + SHELL])
def test_text_that_calls_what_it_imports_is_known(text: bytes) -> None:
    assert holds_pickle(text)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_in_base64_is_known(protocol: int) -> None:
    pickled = pickle.dumps(Calling(), protocol)

    assert holds_pickle(base64.b64encode(pickled))
    assert holds_pickle(base64.urlsafe_b64encode(pickled).rstrip(b"="))
    assert holds_pickle(base64.encodebytes(pickled))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("blanks", [b" ", b"\n", b"\r\n\t "])
def test_pickle_behind_blanks_is_known(protocol: int, blanks: bytes) -> None:
    assert holds_pickle(blanks + pickle.dumps(Calling(), protocol))


def test_pickle_in_base64_behind_blanks_is_known() -> None:
    assert holds_pickle(b"\n " + base64.b64encode(pickle.dumps(Calling())))


def a_torch_archive(compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Calling()))
    return file.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_is_known_as_what_it_may_hold(compression: int) -> None:
    archive = a_torch_archive(compression)

    assert holds_pickle(archive)
    assert holds_pickle(archive[:-1])
    assert holds_pickle(b"any bytes" + archive)
    assert holds_pickle(base64.b64encode(archive))
    assert holds_pickle(b"\n" + base64.encodebytes(archive))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "N.",
        "computes the mean\nof all that came\nRounded.",
        "calibrated\nmodel\n",
        "Rates of late flights.",
        "based on GBTs",
        "(in millimetres)\n(see above)\n.",
        "Version 3\nbuilt in March\n.",
        "I'm a model",
        "I7\n.",
        "S'quoted'\n.",
        "}",
        "gAN",
        "gANlayer/kernel",
        " cos",
        "\n",
        "PK",
        "in PK\x03\x04 is how one begins",
        "UEsDB",
        "UEsDBs",
        "gATE_projection",
        "cos",
        "cos\n",
        "cos\nsystem",
        "\u0080\u0004 in the first plane",
        "pytorch",
        "2.4.1",
    ],
)
def test_words_are_no_pickle(text: str) -> None:
    assert not holds_pickle(text.encode())
