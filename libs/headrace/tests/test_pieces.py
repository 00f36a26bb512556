# SPDX-License-Identifier: Apache-2.0
import io

from hypothesis import given
from hypothesis import strategies as st

from headrace.pieces import PIECE_BYTES_MAX, PieceFile, pieces_of


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 30)))
def test_pieces_read_as_the_file_that_they_were(pieces, sizes):
    whole, file = io.BytesIO(b"".join(pieces)), PieceFile(pieces)
    assert [whole.read(size) for size in sizes] == [file.read(size) for size in sizes]
    assert whole.read() == file.read()


def test_what_was_written_comes_in_pieces_that_fit_a_message_and_only_once():
    sink = io.BytesIO()
    sink.write(b"x" * (PIECE_BYTES_MAX + 1))
    assert [PIECE_BYTES_MAX, 1] == [len(piece) for piece in pieces_of(sink)]
    assert [] == list(pieces_of(sink))


def test_drained_file_has_taken_all_pieces():
    pieces = iter([b"ab", b"", b"cd"])
    PieceFile(pieces).drain()
    assert [] == list(pieces)
