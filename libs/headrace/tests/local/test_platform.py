# SPDX-License-Identifier: Apache-2.0
"""A data folder stays with the stores that its data are in; settings are read before any start."""

import sys

import pytest

from headrace.errors import Invalid
from headrace.local import platform, service_process
from headrace.local.platform import Platform, PlatformOptions, keep_to_stores
from headrace.local.process import ProcessSpec
from headrace.local.service_process import check_settings
from headrace.local.supervisor import START_S_MAX
from headrace.local.tools import ToolCache


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


def a_service(name, code):
    """Reads its settings as the code says."""
    return ProcessSpec(name, (sys.executable, "-c", code), ready=lambda timeout_s: False)


REFUSES = """
import sys
assert sys.argv[1:] == ["--check-config"]
sys.stderr.write("BAD_SETTING: TRAINER_PORT: is no number\\nBAD_SETTING: TRAINER_X: is unknown\\n")
sys.exit(78)
"""


def test_wrong_settings_are_told_in_the_words_of_their_service():
    services = [a_service("registry", "print('{}')"), a_service("trainer", REFUSES)]

    with pytest.raises(Invalid, match="BAD_SETTING") as refused:
        check_settings(services)

    problem = "TRAINER_PORT: is no number; TRAINER_X: is unknown"
    assert {"service": "trainer", "problem": problem} == refused.value.metadata


def test_service_that_hangs_hides_no_wrong_setting_of_another(monkeypatch):
    monkeypatch.setattr(service_process, "CHECK_S_MAX", 3.0)
    services = [a_service("registry", "import signal; signal.pause()"), a_service("x", REFUSES)]

    with pytest.raises(Invalid, match="service=x"):
        check_settings(services)


def test_what_ends_otherwise_is_left_to_the_start():
    check_settings([a_service("registry", "raise SystemExit(1)")])


def test_own_settings_are_read_before_kafka_is_made(monkeypatch, tmp_path):
    checked = []
    monkeypatch.setenv("REGISTRY_LOG_LEVEL", "LOUD")
    monkeypatch.setattr(platform, "find_java", lambda: pytest.fail("Kafka is made"))
    monkeypatch.setattr(platform, "check_settings", lambda specs: checked.extend(specs) or stop())

    def stop():
        raise Invalid("BAD_SETTING")

    made = Platform(PlatformOptions(tmp_path, ToolCache(tmp_path / "tools", print)))
    with pytest.raises(Invalid, match="BAD_SETTING"):
        made._plan()
    assert "registry" in [each.name for each in checked]
    (registry,) = [each for each in checked if each.name == "registry"]
    assert "LOUD" == registry.environment["REGISTRY_LOG_LEVEL"]


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """What a start with these options starts."""
    monkeypatch.setattr(platform, "find_java", lambda: None)
    monkeypatch.setattr(platform, "provide_jars", lambda tools: [])
    monkeypatch.setattr(platform.KafkaBroker, "process", lambda broker: a_service("kafka", ""))
    monkeypatch.setattr(platform, "provide_versitygw", lambda tools: tmp_path / "versitygw")
    monkeypatch.setattr(platform, "check_settings", lambda specs: None)

    def plan(**options):
        made = Platform(PlatformOptions(tmp_path, ToolCache(tmp_path / "tools", print), **options))
        return made._plan()

    return plan


@pytest.fixture
def planned(stages):
    """The environments of the services, by name, as a start with these options makes them."""

    def plan(**options):
        _, services = stages(**options)
        return {each.name: each.environment for each in services.processes}

    return plan


def test_each_process_may_take_the_time_that_all_have(stages):
    assert {START_S_MAX} == {
        each.ready_deadline_s for stage in stages() for each in stage.processes
    }


def test_object_store_of_the_environment_wins_over_the_folder(planned, monkeypatch):
    for name in ("INGEST", "FEATURE", "INFERENCE"):
        monkeypatch.setenv(f"{name}_OBJECT_STORE_URI", "s3://bucket/prefix")
    monkeypatch.setenv("INGEST_S3_ENDPOINT", "https://s3.example.org")
    services = planned()

    for name in ("ingest", "feature", "inference"):
        assert "s3://bucket/prefix" == services[name][f"{name.upper()}_OBJECT_STORE_URI"]
    assert "https://s3.example.org" == services["ingest"]["INGEST_S3_ENDPOINT"]


def test_object_store_is_a_folder_where_nothing_is_said(planned, monkeypatch, tmp_path):
    monkeypatch.setenv("INGEST_OBJECT_STORE_URI", "")
    folder = (tmp_path / "data/objects").as_uri()
    services = planned()

    for name in ("ingest", "feature", "registry", "inference"):
        assert folder == services[name][f"{name.upper()}_OBJECT_STORE_URI"]
    assert "TRAINER_OBJECT_STORE_URI" not in services["trainer"]


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("INGEST_GRPC_PORT", {}),
        ("registry_rest_port", {}),
        ("FEATURE_KAFKA_BOOTSTRAP", {}),
        ("MONITOR_DATA_DIR", {}),
        ("TRAINER_REGISTRY_ADDRESS", {}),
        ("INFERENCE_OBJECT_STORE_URI", {"s3": True}),
        ("REGISTRY_S3_ENDPOINT", {"s3": True}),
        ("INGEST_S3_REGION", {"s3": True}),
        ("INGEST_DATABASE_URI", {"postgres": True}),
    ],
)
def test_setting_that_would_not_be_heeded_is_refused(
    planned, monkeypatch, tmp_path, setting, options
):
    monkeypatch.setenv(setting, "other")

    with pytest.raises(Invalid, match="BAD_SETTING") as refused:
        planned(**options)
    assert setting.upper() == refused.value.metadata["environment"]
    assert not (tmp_path / "data").exists()


def test_setting_that_says_the_same_is_no_other(planned, monkeypatch):
    monkeypatch.setenv("INGEST_GRPC_PORT", "7101")
    monkeypatch.setenv("FEATURE_OBJECT_STORE_URI", "s3://headrace/headrace")
    services = planned(s3=True)

    assert "7101" == services["ingest"]["INGEST_GRPC_PORT"]
    assert "http://127.0.0.1:7070" == services["feature"]["FEATURE_S3_ENDPOINT"]


def test_bucket_is_there_before_services_that_would_all_make_it(stages, monkeypatch):
    made = []
    monkeypatch.setattr(
        platform.admin, "create_topics", lambda bootstrap, wanted: made.append("topics")
    )
    monkeypatch.setattr(platform.S3Server, "make_bucket", lambda server, name: made.append(name))
    stores, _ = stages(s3=True)
    stores.then()

    assert ["topics", "headrace"] == made


def test_feature_that_would_not_read_what_ingest_archives_is_refused(planned, monkeypatch):
    monkeypatch.setenv("INGEST_OBJECT_STORE_URI", "s3://bucket/prefix")

    with pytest.raises(Invalid, match="FEATURE_OBJECT_STORE_URI"):
        planned()
