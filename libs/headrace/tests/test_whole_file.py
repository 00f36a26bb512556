# SPDX-License-Identifier: Apache-2.0
"""A file that is written piece by piece is there whole, or what was there before is."""

import pytest

from headrace.whole_file import whole_file


def test_file_is_there_once_it_is_whole(tmp_path):
    path = tmp_path / "model.onnx"
    with whole_file(path) as file:
        file.write(b"one")
        assert not path.exists()
        file.write(b"two")

    assert b"onetwo" == path.read_bytes()


def break_off(path):
    with whole_file(path) as file:
        file.write(b"half")
        raise ValueError("off")


def test_file_that_breaks_off_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="off"):
        break_off(path)

    assert [path] == [*tmp_path.iterdir()]
    assert b"before" == path.read_bytes()
