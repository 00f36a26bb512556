# SPDX-License-Identifier: Apache-2.0
"""`headrace predict` reads its time as people write it, and never guesses a time zone."""

import pytest
from typer.testing import CliRunner

from headrace.cli import work
from headrace.cli.main import app
from headrace.predictions import Prediction

ROW = '{"flight_id": "a", "origin": "EWR"}'


class Recorder:
    """Answers as a client does, and keeps what it was asked."""

    def __init__(self):
        self.asked, self.doors = [], []

    def predict(self, endpoint, rows, *, as_of_us, explain, door):
        self.asked.append((endpoint, rows, as_of_us))
        self.doors.append(door)
        moved = {"origin:mean": -0.25, "weather:wind": 0.5, "when:hour": 0.0}
        return [Prediction("p-1", 0.75, 7, moved if explain else {})]


@pytest.fixture
def client(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(work, "connect", lambda data_dir: recorder)
    return recorder


@pytest.mark.parametrize("text", ["2013-03-01T09:15:00Z", "2013-03-01T10:15:00+01:00"])
def test_time_reaches_the_server_in_microseconds(client, text):
    answer = CliRunner().invoke(app, ["predict", "delay", "--as-of", text, ROW])
    assert answer.exit_code == 0, answer.output
    rows = [{"flight_id": "a", "origin": "EWR"}]
    assert client.asked == [("delay", rows, 1_362_129_300_000_000)]


def test_now_is_left_to_the_server(client):
    assert CliRunner().invoke(app, ["predict", "delay", ROW]).exit_code == 0
    assert client.asked[0][2] is None


@pytest.mark.parametrize("text", ["2013-03-01T09:15:00", "yesterday", "1362129300000000"])
def test_time_without_a_zone_or_meaning_is_refused(client, text):
    assert CliRunner().invoke(app, ["predict", "delay", "--as-of", text, ROW]).exit_code == 2
    assert client.asked == []


def test_what_moved_the_score_most_is_told_first(client):
    answer = CliRunner().invoke(app, ["predict", "delay", "--explain", ROW])

    order = ["0.7500", "weather:wind", "+0.5000", "origin:mean", "-0.2500", "when:hour"]
    places = [answer.output.index(each) for each in order]
    assert sorted(places) == places


def test_nothing_is_explained_unasked(client):
    assert "weather:wind" not in CliRunner().invoke(app, ["predict", "delay", ROW]).output


@pytest.mark.parametrize(("options", "door"), [([], "grpc"), (["--kafka"], "kafka")])
def test_door_is_chosen(client, options, door):
    assert CliRunner().invoke(app, ["predict", "delay", *options, ROW]).exit_code == 0
    assert [door] == client.doors
