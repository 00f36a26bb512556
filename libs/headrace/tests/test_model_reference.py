# SPDX-License-Identifier: Apache-2.0
"""References name one version each, in one form."""

import pytest

from headrace.errors import Invalid
from headrace.model_reference import ModelReference, parse_reference


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("models:/delay@champion", ModelReference("delay", 0, "champion")),
        ("models:/delay/7", ModelReference("delay", 7, "")),
        ("delay@champion", ModelReference("delay", 0, "champion")),
        ("delay-b.2/2147483647", ModelReference("delay-b.2", 2**31 - 1, "")),
    ],
)
def test_version_is_named_by_number_or_alias(text, reference):
    assert reference == parse_reference(text)
    assert text.removeprefix("models:/") == str(reference).removeprefix("models:/")


@pytest.mark.parametrize(
    "text",
    ["", "delay", "models:/", "models:/Delay/1", "delay/0", "delay/-1", "delay/01", "delay/7@x",
     "delay/2147483648", "models:/a/b/1", "runs:/a/1", "delay@", "delay/\u0661", "delay/1\n"],
)  # fmt: skip
def test_what_names_no_version_is_refused(text):
    with pytest.raises(Invalid, match="BAD_NAME"):
        parse_reference(text)
