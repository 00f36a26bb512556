# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from headrace.errors import Unavailable
from headrace.local import platform
from headrace.local.platform import Platform, PlatformOptions
from headrace.local.tools import ToolCache


@pytest.mark.parametrize(("fresh", "left"), [(True, []), (False, ["row"])])
def test_earlier_data_goes_only_when_a_fresh_start_is_asked_for(
    monkeypatch, tmp_path, fresh, left
) -> None:
    monkeypatch.setattr(platform, "BROKER_DEADLINE_S", 0.1)
    row = tmp_path / "data" / "row"
    row.parent.mkdir()
    row.touch()
    tools = ToolCache(Path("tools"), lambda text: None)
    options = PlatformOptions(data_dir=tmp_path, tools=tools, kafka="127.0.0.1:1", fresh=fresh)

    with (
        pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"),
        Platform(options).running(progress=lambda text: None),
    ):
        pass

    assert left == [each.name for each in row.parent.glob("*")]
