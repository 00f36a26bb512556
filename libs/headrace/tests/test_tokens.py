# SPDX-License-Identifier: Apache-2.0
"""Callers, their tokens and what each may do; the file that keeps them holds no token."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from headrace.cli import access
from headrace.cli.main import app
from headrace.client import Addresses
from headrace.errors import Denied, Invalid, Unavailable
from headrace.tokens import (
    Caller,
    digest_of,
    issue_token,
    permit_caller,
    read_tokens,
    revoke_tokens,
    rotate_token,
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tokens.json"


def a_caller(*permissions):
    return Caller("shop", frozenset(permissions))


@pytest.mark.parametrize(
    ("permission", "allowed", "forbidden"),
    [
        ("publish:orders", ("publish", "orders"), ("publish", "orders.eu")),
        ("publish:orders*", ("publish", "orders.eu"), ("publish", "clicks")),
        ("publish:*", ("publish", "clicks"), ("predict", "clicks")),
        ("*", ("predict", "delay"), None),
    ],
)
def test_permission_is_for_what_it_names(permission, allowed, forbidden):
    caller = a_caller(permission)
    caller.require(*allowed)

    assert caller.may(allowed[0])
    assert caller.may_to(*allowed)
    if forbidden:
        assert not caller.may_to(*forbidden)
        with pytest.raises(Denied, match="ACTION_FORBIDDEN") as denied:
            caller.require(*forbidden)
        assert {"caller": "shop", "action": forbidden[0], "name": forbidden[1]} == (
            denied.value.metadata
        )


def test_caller_that_may_publish_may_not_read():
    assert not a_caller("publish:*").may("read")


def test_file_holds_the_digest_of_what_was_issued_and_not_the_token(file):
    token = issue_token(file, "shop", ["publish:orders"])

    assert (digest_of(token),) == read_tokens(file)["shop"].digests
    assert token not in file.read_text()
    assert 0o644 == stat.S_IMODE(file.stat().st_mode)


def test_rotation_keeps_the_token_before_and_no_older_one(file):
    tokens = [issue_token(file, "shop", ["read"]), *(rotate_token(file, "shop") for _ in range(2))]

    assert tuple(map(digest_of, tokens[:0:-1])) == read_tokens(file)["shop"].digests


def test_callers_that_are_added_at_once_are_all_there(file):
    names = [f"caller-{number}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        tokens = list(pool.map(lambda name: issue_token(file, name, ["read"]), names))

    known = read_tokens(file)
    assert [(digest_of(token),) for token in tokens] == [known[name].digests for name in names]


def test_permissions_are_said_anew_and_the_token_stays(file):
    token = issue_token(file, "shop", ["read"])
    permit_caller(file, "shop", ["publish:orders", "predict:delay"])

    known = read_tokens(file)["shop"]
    assert {"publish:orders", "predict:delay"} == known.caller.permissions
    assert (digest_of(token),) == known.digests


def test_revoked_caller_is_gone_and_the_others_stay(file):
    issue_token(file, "shop", ["read"])
    issue_token(file, "desk", ["label"])
    revoke_tokens(file, "shop")

    assert ["desk"] == list(read_tokens(file))


@pytest.mark.parametrize("change", [rotate_token, revoke_tokens])
def test_caller_that_is_not_there_is_named(file, change):
    issue_token(file, "shop", ["read"])

    with pytest.raises(Invalid, match="there are: shop"):
        change(file, "shops")


@pytest.mark.parametrize(
    ("name", "permissions"),
    [("Shop", ["read"]), ("", ["read"]), ("shop", ["publish"]), ("shop", ["read", "publish:A"])],
)
def test_bad_name_or_permission_is_refused(file, name, permissions):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        issue_token(file, name, permissions)
    assert not file.exists()


ENTRY = {"may": ["read"], "sha256": ["a" * 64]}
ENTRY_TEXT = json.dumps(ENTRY)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        (f'{{"shop": {ENTRY_TEXT}, "shop": {ENTRY_TEXT}}}', "names a caller twice"),
        (json.dumps({"shop": {"may": ["read"]}}), "exactly `may` and `sha256`"),
        (json.dumps({"shop": {**ENTRY, "until": 1}}), "exactly `may` and `sha256`"),
        (json.dumps({"shop": {**ENTRY, "may": "read"}}), "are lists"),
        (json.dumps({"shop": {**ENTRY, "sha256": ["A" * 64]}}), "lower-case hex"),
        (json.dumps({"shop": {**ENTRY, "sha256": []}}), "1 to 2 digests"),
        (json.dumps({"shop": ENTRY, "desk": ENTRY}), "the same token"),
        (" " * ((1 << 20) + 1), "more than 1048576 bytes"),
    ],
)
def test_wrong_file_is_refused_with_what_is_wrong(file, content, problem):
    file.write_text(content)

    with pytest.raises(Invalid, match="BAD_SETTING") as refused:
        read_tokens(file)
    assert problem in refused.value.metadata["problem"]


def test_file_that_others_may_write_is_refused(file):
    issue_token(file, "shop", ["read"])
    file.chmod(0o666)

    with pytest.raises(Invalid, match="others than its owner may write it"):
        read_tokens(file)


def test_absent_file_is_refused(file):
    with pytest.raises(Invalid, match="No such file"):
        read_tokens(file)


def test_command_gives_the_token_to_standard_output_alone(file):
    done = CliRunner().invoke(
        app, ["tokens", "add", "shop", "--may", "publish:orders", "--file", str(file)]
    )

    assert 0 == done.exit_code
    assert (digest_of(done.stdout.strip()),) == read_tokens(file)["shop"].digests
    assert done.stdout.strip() not in done.stderr


class Registry:
    """What the registry answers to `headrace connect`."""

    def __init__(self, refusal=None):
        self.refusal, self.shown = refusal, []

    def __call__(self, addresses, token):
        self.addresses = addresses
        self.shown.append(token)
        return self

    @property
    def definitions(self):
        if self.refusal is not None:
            raise self.refusal
        return {("stream", "orders"): None}


@pytest.fixture
def registry(monkeypatch):
    made = Registry()
    monkeypatch.setattr(access, "Client", made)
    return made


def test_connection_is_kept_for_its_owner_alone(registry, tmp_path):
    shown = tmp_path / "shop.token"
    shown.write_text("secret-token\n")
    arguments = ["--ingest", "ingest.example.org:7101", "--token-file", str(shown)]
    done = CliRunner().invoke(app, ["connect", *arguments, "--data-dir", str(tmp_path / "prod")])
    kept = tmp_path / "prod" / "connection.json"

    assert 0 == done.exit_code
    assert 0o600 == stat.S_IMODE(kept.stat().st_mode)
    assert "secret-token" == json.loads(kept.read_text())["token"]
    assert "ingest.example.org:7101" == json.loads(kept.read_text())["addresses"]["ingest"]
    assert "secret-token" not in done.output
    assert ["secret-token"] == registry.shown


@pytest.fixture
def here(monkeypatch):
    """As if `headrace up` ran on the folder, on ports that are not the usual ones."""
    addresses = Addresses(registry="127.0.0.1:17104", ingest="127.0.0.1:17101")
    monkeypatch.setattr(access, "addresses_here", lambda data_dir: addresses)
    return addresses


def test_token_is_kept_for_the_platform_that_runs_on_the_folder(registry, here, tmp_path):
    shown = tmp_path / "operator.token"
    shown.write_text("secret-token\n")
    done = CliRunner().invoke(
        app, ["connect", "--token-file", str(shown), "--data-dir", str(tmp_path / "here")]
    )

    assert (0, here) == (done.exit_code, registry.addresses)
    kept = json.loads((tmp_path / "here" / "connection.json").read_text())
    assert {"addresses": asdict(here), "token": "secret-token"} == kept
    assert "goes first" not in done.output


def test_platform_elsewhere_is_told_to_come_after_the_one_that_runs_here(registry, here, tmp_path):
    elsewhere = ["--registry", "registry.example.org:7104", "--data-dir", str(tmp_path / "here")]

    assert "goes first" in CliRunner().invoke(app, ["connect", *elsewhere]).output


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Denied("TOKEN_UNKNOWN"), "headrace connect --token-file FILE"),
        (Unavailable("SERVICE_UNAVAILABLE"), "no registry answers at registry.example.org:7104"),
    ],
)
def test_connection_that_does_not_work_is_told_and_not_kept(registry, tmp_path, refusal, said):
    registry.refusal = refusal
    arguments = ["--registry", "registry.example.org:7104", "--data-dir", str(tmp_path / "prod")]
    done = CliRunner().invoke(app, ["connect", *arguments])

    assert 1 == done.exit_code
    assert said in done.stderr
    assert not (tmp_path / "prod").exists()


def test_token_that_may_not_read_is_kept_and_told_as_such(registry, tmp_path):
    registry.refusal = Denied("ACTION_FORBIDDEN")
    done = CliRunner().invoke(app, ["connect", "--data-dir", str(tmp_path / "prod")])

    assert 0 == done.exit_code
    assert "may not read" in done.output


@pytest.mark.parametrize("content", [b"", b"two words\nand more", b"\xff\xfe", "ü".encode()])
def test_file_without_a_token_is_refused(tmp_path, content):
    shown = tmp_path / "shop.token"
    shown.write_bytes(content)
    done = CliRunner().invoke(
        app, ["connect", "--token-file", str(shown), "--data-dir", str(tmp_path / "prod")]
    )

    assert 1 == done.exit_code
    assert "token-file" in done.stderr
    assert not (tmp_path / "prod").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"addresses": {"door": ""}, "token": ""}'])
def test_broken_connection_is_told(tmp_path, content):
    (tmp_path / "connection.json").write_text(content)
    done = CliRunner().invoke(app, ["streams", "--data-dir", str(tmp_path)])

    assert 1 == done.exit_code
    assert "headrace connect" in done.stderr


def test_without_a_platform_or_a_connection_both_ways_are_told(tmp_path):
    done = CliRunner().invoke(app, ["streams", "--data-dir", str(tmp_path)])

    assert "NOT_RUNNING" in done.stderr
    assert "headrace up" in done.stderr
    assert "headrace connect" in done.stderr
