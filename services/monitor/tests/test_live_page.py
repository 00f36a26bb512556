# SPDX-License-Identifier: Apache-2.0
"""The live page: files of the package, figures of the state, and nothing from elsewhere."""

import json
import re

import pytest

from headrace_kit.state_store import MemoryStateStore
from headrace_monitor import testing
from headrace_monitor.adapters.live_page import FILES, LivePage
from headrace_monitor.handlers.quality_report import QualityReport

SCENE = testing.Scene()


def a_page(watches=None, store=None) -> LivePage:
    store = store or MemoryStateStore()
    watches = {} if watches is None else watches
    return LivePage(store=store, watches=lambda: watches, quality=QualityReport(store=store))


def body(page: LivePage, path: str) -> str:
    return page.routes()[path]({}).body.decode()


@pytest.mark.parametrize("path", FILES)
def test_files_are_served_with_their_type(path):
    page = a_page().routes()[path]({})

    assert FILES[path][1] == page.content_type
    assert page.body


@pytest.mark.parametrize("path", FILES)
def test_nothing_is_loaded_from_elsewhere(path):
    text = body(a_page(), path)
    links = set(re.findall(r"""(?:src|href|url\()=?["'(]?(https?://[^"')\s]+)""", text))

    assert set() == links
    assert "innerHTML" not in text


def test_every_place_that_the_script_fills_is_in_the_page():
    script, page = body(a_page(), "/monitor.js"), body(a_page(), "/")
    ids = set(re.findall(r'getElementById\("([a-z-]+)"\)', script))
    classes = {
        name
        for selector in re.findall(r'part\("([^"]+)"\)', script)
        for name in re.findall(r"\.([a-z]+)", selector)
    }

    assert ids <= set(re.findall(r'id="([a-z-]+)"', page))
    assert classes <= set(" ".join(re.findall(r'class="([a-z -]+)"', page)).split())


def test_page_is_answered_before_anything_is_applied():
    assert {"monitors": [], "serving": []} == json.loads(body(a_page(), "/monitor.json"))


def test_monitor_without_records_has_no_figures():
    found = json.loads(body(a_page({"delay": SCENE.a_watch()}), "/monitor.json"))["monitors"][0]

    assert ("delay", 0, 0, True) == (
        found["name"],
        found["evaluated_until_us"],
        found["predictions"],
        found["settled"],
    )
    assert [] == found["days"] == found["drift"] == found["incidents"]
