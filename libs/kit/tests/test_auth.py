# SPDX-License-Identifier: Apache-2.0
"""Who is let in: what a token permits, and that the file is followed while calls come."""

import pytest
from prometheus_client import REGISTRY

from headrace.errors import Denied, Invalid
from headrace.tokens import issue_token, revoke_tokens, rotate_token
from headrace_kit import watched_file
from headrace_kit.auth import EVERYBODY, Guard

PUBLISH = "/headrace.ingest.v1.IngestService/Publish"
READS = (
    "/headrace.ingest.v1.DatasetService/ListDatasets",
    "/headrace.ingest.v1.LabelService/LookUpLabels",
    "/headrace.registry.v1.RegistryService/ResolveModel",
    "/headrace.feature.v1.FeatureService/GetOnlineFeatures",
    "/headrace.registry.v1.ArtifactService/DownloadArtifact",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
OTHERS = (
    "/headrace.ingest.v1.DatasetService/EraseEntity",
    "/headrace.registry.v1.RegistryService/SetAlias",
    "/headrace.future.v1.NewService/Gettysburg",
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tokens.json"


@pytest.fixture
def guard(file, monkeypatch):
    """Looks at the file at each call."""
    monkeypatch.setattr(watched_file, "LOOK_INTERVAL_S", 0.0)
    issue_token(file, "nobody", [])
    return Guard("tests", file, actions={PUBLISH: "publish"})


def bearer(token):
    return [("user-agent", "tests"), ("authorization", f"Bearer {token}")]


def admitted(guard, method, token):
    try:
        return guard.admit(method, bearer(token)).name
    except Denied as err:
        return err.reason


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer ")],
        [("authorization", "Basic abc")],
        [("authorization", b"Bearer x")],
        [("authorization-bin", b"Bearer x")],
        bearer("unknown"),
    ],
)
@pytest.mark.parametrize("method", [PUBLISH, *READS, *OTHERS])
def test_call_without_a_known_token_is_denied(guard, method, metadata):
    with pytest.raises(Denied, match="TOKEN_UNKNOWN"):
        guard.admit(method, metadata)


def test_case_of_the_scheme_does_not_matter(guard, file):
    token = issue_token(file, "analyst", ["read"])

    assert "analyst" == guard.admit(READS[0], [("authorization", f"bearer  {token} ")]).name


def test_health_is_open(guard):
    assert EVERYBODY == guard.admit("/grpc.health.v1.Health/Check", [])


@pytest.mark.parametrize(
    ("permission", "open_to"),
    [("read", set(READS)), ("publish:orders", {PUBLISH}), ("label", set())],
)
def test_permission_opens_what_it_says_and_nothing_else(guard, file, permission, open_to):
    token = issue_token(file, "one", [permission])
    methods = [PUBLISH, *READS, *OTHERS]

    assert open_to == {each for each in methods if "one" == admitted(guard, each, token)}


def test_all_permissions_open_everything(guard, file):
    token = issue_token(file, "services", ["*"])

    assert all("services" == admitted(guard, each, token) for each in (PUBLISH, *READS, *OTHERS))


def denials(reason):
    return REGISTRY.get_sample_value("headrace_tests_denied_calls_total", {"reason": reason}) or 0


def test_each_denial_is_counted_also_of_what_a_servicer_asks_later(guard, file):
    token = issue_token(file, "shop", ["publish:orders"])
    before = denials("ACTION_FORBIDDEN")
    caller = guard.admit(PUBLISH, bearer(token))
    caller.require("publish", "orders")
    assert before == denials("ACTION_FORBIDDEN")

    with pytest.raises(Denied, match="name=clicks"):
        caller.require("publish", "clicks")
    assert "ACTION_FORBIDDEN" == admitted(guard, OTHERS[0], token)
    assert before + 2 == denials("ACTION_FORBIDDEN")


def test_token_that_nobody_knows_is_counted(guard):
    before = denials("TOKEN_UNKNOWN")
    assert "TOKEN_UNKNOWN" == admitted(guard, PUBLISH, "unknown")

    assert before + 1 == denials("TOKEN_UNKNOWN")


def test_token_is_known_as_soon_as_it_is_issued_and_until_it_is_revoked(guard, file):
    token = issue_token(file, "shop", ["publish:orders"])
    assert "shop" == admitted(guard, PUBLISH, token)
    newer = rotate_token(file, "shop")
    assert ["shop", "shop"] == [admitted(guard, PUBLISH, each) for each in (token, newer)]
    newest = rotate_token(file, "shop")
    assert "TOKEN_UNKNOWN" == admitted(guard, PUBLISH, token)
    revoke_tokens(file, "shop")

    assert {"TOKEN_UNKNOWN"} == {admitted(guard, PUBLISH, each) for each in (newer, newest)}


def test_file_that_went_wrong_leaves_what_was_known(guard, file):
    token = issue_token(file, "shop", ["publish:orders"])
    assert "shop" == admitted(guard, PUBLISH, token)
    file.write_text("{")
    assert "shop" == admitted(guard, PUBLISH, token)
    file.unlink()

    assert "shop" == admitted(guard, PUBLISH, token)


def test_wrong_file_at_the_start_is_refused(file):
    with pytest.raises(Invalid, match="BAD_SETTING"):
        Guard("tests", file)


def test_without_a_file_everybody_is_let_in():
    assert EVERYBODY == Guard("tests", None).admit(OTHERS[0], [])
