# SPDX-License-Identifier: Apache-2.0
"""References name one version each, in one form."""

import pytest

from headrace.errors import Invalid
from headrace.model_reference import ModelReference, parse_reference, version_of


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


@pytest.mark.parametrize("version", [7, "7", "delay/7", "models:/delay/7"])
def test_version_of_a_model_is_a_number_or_a_reference(version):
    assert ModelReference("delay", 7, "") == version_of("delay", version)


@pytest.mark.parametrize(
    ("version", "reason"),
    [(0, "BAD_NAME"), (-1, "BAD_NAME"), ("x", "BAD_NAME"), ("other/7", "BAD_REQUEST")],
)
def test_what_is_no_version_of_the_model_is_refused(version, reason):
    with pytest.raises(Invalid, match=reason):
        version_of("delay", version)
