# SPDX-License-Identifier: Apache-2.0
"""A data folder stays with the stores that its data are in."""

import pytest

from headrace.errors import Invalid
from headrace.local.platform import keep_to_stores


def test_folder_goes_on_with_the_stores_of_its_first_start(tmp_path):
    keep_to_stores(tmp_path / "data", postgres=True, s3=False)
    keep_to_stores(tmp_path / "data", postgres=True, s3=False)


@pytest.mark.parametrize(
    ("first", "then", "command"),
    [
        ((True, True), (False, False), "headrace up --postgres --s3"),
        ((False, False), (False, True), "headrace up"),
        ((False, True), (True, True), "headrace up --s3"),
    ],
)
def test_folder_refuses_stores_that_do_not_hold_its_data(tmp_path, first, then, command):
    keep_to_stores(tmp_path, postgres=first[0], s3=first[1])
    with pytest.raises(Invalid, match="BAD_SETTING") as refused:
        keep_to_stores(tmp_path, postgres=then[0], s3=then[1])

    assert refused.value.metadata["problem"].endswith(f"start it with: {command}")
