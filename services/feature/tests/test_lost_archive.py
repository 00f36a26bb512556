# SPDX-License-Identifier: Apache-2.0
"""An archive that was there and is gone is told, and not taken for one without records."""

import shutil

import pytest
from feature_lake import STREAM, Lake
from feature_world import DAY, MINUTE, START, Event

from headrace.errors import NotFound, Unavailable

EVENTS = [Event(f"e{number}", START + number * MINUTE, START) for number in range(3)]
QUESTIONS = {
    "training set": lambda archive, _: archive.snapshots([STREAM], START + DAY, published=True),
    "known as of a moment": lambda archive, _: archive.snapshots([STREAM], START),
    "newest": lambda archive, _: archive.newest([STREAM]),
    "version of a manifest": lambda archive, _: archive.at({STREAM: 0}),
    "how far it reaches": lambda archive, _: archive.reaches([STREAM]),
    "new view": lambda archive, _: archive.exists(STREAM),
    "filling of a view": lambda archive, raw: archive.history(STREAM, raw),
}


@pytest.fixture
def lost(tmp_path):
    lake = Lake(tmp_path)
    lake.publish(EVENTS)
    lake.store()
    shutil.rmtree(lake.table)
    lake.was_archived = True
    return lake


@pytest.mark.parametrize("asked", QUESTIONS.values(), ids=QUESTIONS)
def test_archive_that_is_gone_is_told_by_each_question(lost, asked):
    with pytest.raises(Unavailable, match="ARCHIVE_MISSING") as caught:
        asked(lost.archive, lost.raw_topic(STREAM))

    assert STREAM == caught.value.metadata["stream"]


def test_archive_that_is_put_back_is_read(lost):
    lost.archived = 0
    lost.store()

    assert 3 == lost.archive.newest([STREAM])[STREAM].observations


def test_stream_that_was_never_archived_has_none_to_miss(lost):
    lost.was_archived = False

    assert not lost.archive.exists(STREAM)
    with pytest.raises(NotFound, match="ARCHIVE_VERSION_UNKNOWN"):
        lost.archive.newest([STREAM])
