# SPDX-License-Identifier: Apache-2.0
"""headrace models, promote and train tell all that the registry knows, and refuse nonsense."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from headrace.application import Graph, Recipe
from headrace.cli import models, training
from headrace.cli.main import app
from headrace.errors import Denied, Invalid, NotFound
from headrace.registry.v1 import registry_events_pb2 as pb
from headrace.registry.v1 import registry_service_pb2 as pb_service
from headrace.trainer.v1 import trainer_service_pb2 as pb_trainer


class Registry:
    """Two versions; the second one serves under two names."""

    def __init__(self):
        self.definitions = {}

    def train(self, recipe, *, known_until_us):
        return "run-1"

    def wait_run(self, run_id, *, timeout_s, said):
        waits = "RECORDS_BEHIND, air: complete up to 2013"
        first, second = (f"waits after try {each}: {waits}" for each in (1, 2))
        for progress in ("", first, "asking", second, "asking", "fit 1 of 2", "fit 2 of 2"):
            said(progress)

    def runs(self):
        return [pb_trainer.Run(run_id="run-1", recipe="delay", state=1, progress="waits [x]")]

    def cancel_run(self, run_id):
        raise NotFound("RUN_UNKNOWN", run_id=run_id)

    def versions(self, model):
        return [pb.ModelVersion(model=model, version=n, digest="d" * 64) for n in (2, 1)]

    def aliases(self, model):
        return [pb.Alias(model=model, alias=name, version=2) for name in ("champion", "mine")]

    @property
    def models(self):
        return self

    def get(self, reference):
        signature = pb.Signature(inputs=[pb.TensorSignature(name="x", datatype="FP32", shape=[-1])])
        return pb.ModelVersion(model="fraud", version=3, card="# [Fraud]", signature=signature)

    def approval(self, version):
        assert ("fraud", 3) == (version.model, version.version)
        return pb_service.Change(caller="operator", at_us=1_362_129_000_000_000, reason="[seen]")

    def register(self, model, file, *, metrics, tags, card, reason):
        gate = pb.Gate(
            state=pb.GATE_STATE_AWAITS_APPROVAL, evidence=[f"{metrics} {tags} {card}{reason}"]
        )
        return pb.ModelVersion(model=model, version=1, gate=gate)

    def sign(self, reference, signing_key, *, reason):
        gate = pb.Gate(state=pb.GATE_STATE_PASSED)
        signer = f"{signing_key.key.curve.name}{reason}"
        return pb.ModelVersion(model="fraud", version=3, gate=gate, signer=signer)

    def verify(self, reference, trusted):
        return f"{reference} by one of {len(trusted.keys)}"

    def describe(self, reference, *, tags, tags_removed, reason):
        return pb.ModelVersion(tags={**tags, "removed": " ".join(tags_removed) + reason})

    def changes(self, model):
        for number in range(3, 0, -1):
            yield pb_service.Change(number=number, caller="ann", reason=f"why [{number}]")
        subject = "endpoint shop: models:/fraud/3"
        yield pb_service.Change(action="start_no_canary", subject=subject, reason="input x is new")

    @property
    def rollouts(self):
        return RolledOut()

    def number(self, reference):
        return reference.version or 7

    def promote(self, model, version, *, alias, reason):
        if " " in alias:
            raise Invalid("BAD_NAME", name=alias)
        return version * 10

    def download_to(self, reference, file):
        file.write_text(reference)
        return pb.ModelVersion(model="fraud", version=3, digest="d" * 64)


class RolledOut:
    """Of two models."""

    def list(self):
        changes = (("shop", "fraud", "set to v2: input x is new"), ("late", "delay", "set to v2"))
        return [pb.Rollout(endpoint=name, model=of, change=change) for name, of, change in changes]


def with_definitions(definitions):
    found = Registry()
    found.definitions = definitions
    return found


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    for module in (models, training):
        monkeypatch.setattr(module, "connect", lambda data_dir: Registry())
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_every_alias_of_a_version_is_shown():
    assert "champion, mine" in run("models", "show", "delay").output


def test_model_without_version_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(Registry, "versions", lambda self, model: [])

    assert "headrace train" in run("models", "show", "delay").output


def test_version_is_shown_with_its_signature_and_card():
    told = run("models", "show", "models:/fraud/3").output

    assert all(said in told for said in ("FP32", "[-1]", "# [Fraud]"))


def approved_by_ann(self, *_, **_said):
    gate = pb.Gate(state=pb.GATE_STATE_PASSED, approver="ann")
    return pb.ModelVersion(model="fraud", version=3, gate=gate)


def test_approved_version_is_shown_with_who_when_and_why(monkeypatch):
    monkeypatch.setattr(Registry, "get", approved_by_ann)
    told = "approved by ann 2013-03-01 09:10Z, called by operator: [seen]"

    assert told in run("models", "show", "fraud/3").output


def test_version_is_taken_back_and_told_so(monkeypatch):
    asked = []

    def retract(self, reference, *, reason):
        asked.append((reference, reason))
        gate = pb.Gate(state=pb.GATE_STATE_RETRACTED)
        return pb.ModelVersion(model="fraud", version=3, gate=gate)

    monkeypatch.setattr(Registry, "retract", retract, raising=False)

    told = run("models", "retract", "fraud/3", "--reason", "wrong rows").output

    assert ("models:/fraud/3 is taken back\n", [("fraud/3", "wrong rows")]) == (told, asked)


def test_approver_is_shown_where_the_audit_tells_no_more(monkeypatch):
    monkeypatch.setattr(Registry, "get", approved_by_ann)
    monkeypatch.setattr(Registry, "approval", lambda self, version: None)

    assert "approved by ann\n" in run("models", "show", "fraud/3").output


def test_versions_are_shown_with_who_approved_them(monkeypatch):
    monkeypatch.setattr(Registry, "versions", lambda self, model: [approved_by_ann(self)])

    assert "ann" in run("models", "show", "fraud").output


def test_markup_that_a_user_gave_is_shown(monkeypatch):
    gate = pb.Gate(state=pb.GATE_STATE_PASSED, approver="[/ap]")
    version = pb.ModelVersion(model="wine", version=9, gate=gate, tags={"k[/nope]": "v"})
    monkeypatch.setattr(Registry, "versions", lambda self, model: [version])
    told = run("models", "show", "wine").output

    assert all(given in told for given in ("[/ap]", "k[/nope]=v"))


@pytest.mark.parametrize("command", ["card", "show"])
def test_card_commands_no_terminal(monkeypatch, command):
    version = pb.ModelVersion(model="fraud", version=3, card="\x1b]0;pwn\a\x1b[2J\n# Fraud")
    monkeypatch.setattr(Registry, "get", lambda self, reference: version)

    assert "\\x1b]0;pwn\\x07\\x1b[2J\n# Fraud\n" in run("models", command, "fraud/3").output


def test_registered_version_says_how_it_may_serve(tmp_path):
    file = tmp_path / "fraud.onnx"
    file.write_bytes(b"")
    told = run(
        "models", "register", "fraud", str(file), "--metric", "auc=0.5", "--tag", "a=b=c"
    ).output

    assert "{'auc': 0.5} {'a': 'b=c'}" in told
    assert "headrace models approve fraud/1" in told


def test_newest_changes_are_shown_with_their_reasons():
    told = run("models", "history", "delay", "--newest", "2").output

    assert (True, True, False) == tuple(f"why [{number}]" in told for number in (3, 2, 1))


def test_tags_are_set_and_removed_together():
    assert "a=1, removed=b" in run("models", "tag", "fraud/3", "a=1", "--remove", "b").output


def a_key_file(folder):
    """Holds a signing key."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / "key.pem"
    file.write_bytes(key)
    return file


def test_reason_goes_with_each_change_of_a_version(tmp_path):
    file = a_key_file(tmp_path)

    for given in (
        ["register", "fraud", str(file)],
        ["tag", "fraud/3", "a=1"],
        ["sign", "fraud/3", "--key", str(file)],
    ):
        assert "because" in run("models", *given, "--reason", "because").output


@pytest.mark.parametrize(
    "given", [["tag", "fraud/3", "a"], ["register", "fraud", __file__, "--metric", "a=x"]]
)
def test_pair_that_is_none_is_named(given):
    answer = run("models", *given)

    assert (1, True) == (answer.exit_code, "BAD_REQUEST" in answer.output)


def test_registration_whose_gate_failed_ends_with_an_error(monkeypatch):
    gate = pb.Gate(state=pb.GATE_STATE_FAILED, evidence=["accuracy is at least 0.9: 0.5"])
    failed = pb.ModelVersion(model="fraud", version=1, gate=gate)
    monkeypatch.setattr(Registry, "register", lambda *_, **__: failed)
    answer = run("models", "register", "fraud", __file__)

    assert (1, True) == (answer.exit_code, "models:/fraud/1: gate failed" in answer.output)
    assert "accuracy is at least 0.9: 0.5" in answer.output


@pytest.mark.parametrize("version", ["0", "-1", "99999999999999999999", "two"])
def test_number_that_no_version_has_is_refused(version):
    answer = run("promote", "delay", "--", version)

    assert (1, True) == (answer.exit_code, "BAD_NAME" in answer.output)


@pytest.mark.parametrize(
    ("given", "version"),
    [
        (("delay", "2"), 2),
        (("models:/delay/2",), 2),
        (("delay/2",), 2),
        (("delay", "models:/delay/2"), 2),
        (("models:/delay@next",), 7),
        (("delay", "delay@next"), 7),
    ],
)
def test_version_to_promote_is_named_by_number_or_reference(given, version):
    told = f"models:/delay@champion is version {version} (generation {version}0)"

    assert told in run("promote", *given).output


def denied(*_):
    raise Denied("ACTION_FORBIDDEN", caller="pipeline", action="read")


def test_change_that_was_made_ends_well_where_what_follows_cannot_be_told(monkeypatch):
    monkeypatch.setattr(RolledOut, "list", denied)
    monkeypatch.setattr(Registry, "changes", denied)
    monkeypatch.setattr(Registry, "approve", approved_by_ann, raising=False)
    for command in (("promote", "fraud", "2"), ("models", "approve", "fraud/3")):
        answer = run(*command)

        assert (0, True) == (answer.exit_code, "ACTION_FORBIDDEN" in answer.output)


def test_promotion_tells_what_the_endpoints_of_the_model_serve():
    told = run("promote", "fraud", "2").output

    assert "shop: set to v2: input x is new" in told
    assert "late" not in told


def test_move_of_another_alias_tells_no_endpoint():
    assert "shop" not in run("promote", "fraud", "2", "--alias", "next").output


def test_version_that_starts_no_canary_says_why(tmp_path):
    file = a_key_file(tmp_path)

    told = run("models", "sign", "fraud/3", "--key", str(file)).output

    assert "No canary at endpoint shop: input x is new" in told
    assert "headrace promote models:/fraud/3" in told


@pytest.mark.parametrize(
    ("given", "reason"), [(("delay",), "BAD_NAME"), (("delay", "other/2"), "BAD_REQUEST")]
)
def test_what_names_no_version_of_the_model_is_refused(given, reason):
    answer = run("promote", *given)

    assert (1, True) == (answer.exit_code, reason in answer.output)


def test_file_of_a_version_is_fetched(tmp_path):
    answer = run("models", "download", "fraud@champion", str(tmp_path / "fraud.onnx"))

    assert "is models:/fraud/3, digest ddd" in answer.output
    assert "fraud@champion" == (tmp_path / "fraud.onnx").read_text()
    assert 2 == run("models", "download", "fraud/3", str(tmp_path / "none" / "f")).exit_code


def test_brackets_of_a_reason_are_shown():
    assert "[a-z0-9][a-z0-9-.]{0,127}" in run("promote", "delay", "2", "--alias", "x y").output


def test_run_that_waits_says_once_for_what_and_how_to_end_it(monkeypatch):
    recipe = Recipe.model_construct(model="delay")
    monkeypatch.setattr(
        training, "connect", lambda _: with_definitions({("recipe", "delay"): recipe})
    )
    told = run("train", "delay").output

    assert 1 == told.count("air: complete up to 2013")
    assert "headrace cancel run-1" in told


def test_step_of_a_run_is_told_once_in_a_pipe(monkeypatch):
    recipe = Recipe.model_construct(model="delay")
    monkeypatch.setattr(
        training, "connect", lambda _: with_definitions({("recipe", "delay"): recipe})
    )
    told = run("train", "delay").output.splitlines()

    assert ["asking", "fit 1 of 2"] == [each for each in told if each[:3] in ("ask", "fit")]
    assert "" not in told


def test_graph_is_trained_by_its_name(monkeypatch):
    graph = Graph.model_construct(name="guarded")
    monkeypatch.setattr(
        training, "connect", lambda _: with_definitions({("graph", "guarded"): graph})
    )

    assert "headrace models show guarded" in run("train", "guarded").output


def test_runs_show_what_they_say():
    told = run("runs").output

    assert all(said in told for said in ("run-1", "delay", "waits [x]"))


def test_run_that_is_not_there_is_not_cancelled():
    answer = run("cancel", "nobody")

    assert (1, True) == (answer.exit_code, "RUN_UNKNOWN" in answer.output)


def test_unknown_recipe_is_named_before_anything_is_asked():
    answer = run("train", "nosuch")

    assert (1, True) == (answer.exit_code, "DEFINITION_UNKNOWN" in answer.output)


@pytest.fixture
def key_file(tmp_path):
    """A key that is sealed with a password."""
    file = tmp_path / "key.pem"
    key = ec.generate_private_key(ec.SECP384R1())
    sealed = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, sealed))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    file.with_suffix(".pub").write_bytes(public)
    return file


def test_version_is_signed_by_a_key_whose_password_is_asked_for(monkeypatch, key_file):
    monkeypatch.setattr(models.getpass, "getpass", lambda _: "secret")

    told = run("models", "sign", "fraud/3", "--key", str(key_file)).output
    assert "models:/fraud/3 is signed by secp384r1: gate passed" in told


def test_version_is_verified_by_the_keys_that_are_named(key_file):
    trusted = str(key_file.with_suffix(".pub"))

    assert "fraud/3 by one of 1" in run("models", "verify", "fraud/3", "--trusted", trusted).output


def test_file_without_a_key_verifies_nothing(key_file):
    refused = run("models", "verify", "fraud/3", "--trusted", str(key_file))

    assert "BAD_REQUEST" in refused.output
    assert 0 != refused.exit_code
