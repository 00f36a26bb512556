# SPDX-License-Identifier: Apache-2.0
"""A gate that asks for a signature stays shut until somebody who is trusted has signed, over every
store.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from headrace.errors import Conflict, Invalid, NotFound
from headrace.model_signing import SigningKey, sign
from headrace_kit import watched_file
from headrace_registry.adapters.openssf_verifier import OpenSsfVerifier
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.signing import UNSIGNED, SignVersion
from headrace_registry.domain.version import ApproveVersion, ModelVersion, RetractVersion
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.signings import sign_version
from headrace_registry.handlers.versions import approve_version, retract_version
from headrace_registry.testing import DIGEST, MODEL, RECIPE, TENSORS_ENDPOINT, a_run, a_set_alias

KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
SIGNED_GATE = {**MODEL, "gate": {"require_signature": True}}


def public_pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that trusts KEY alone, and is looked at for each signature."""
    monkeypatch.setattr(watched_file, "LOOK_INTERVAL_S", 0.0)
    file = tmp_path / "signers.pem"
    file.write_bytes(public_pem(KEY))
    return file


@pytest.fixture
def signed(registry: Any, trusted: Path) -> Any:
    """With a model whose versions must be signed, and what signs them."""
    registry.apply(SIGNED_GATE, TENSORS_ENDPOINT, request_id="declare")
    registry.verifier = OpenSsfVerifier(trusted, registry.clock)
    return registry


def a_bundle(
    version: int = 1, *, model: str = "fraud", digest: str = DIGEST, key: Any = KEY
) -> bytes:
    return sign(f"models:/{model}/{version}", digest, SigningKey(key))


def put(
    registry: Any, bundle: bytes, version: int = 1, *, model: str = "fraud", request_id: str = "s-1"
) -> ModelVersion:
    return sign_version(
        SignVersion(request_id, model, version, bundle),
        caller="tests",
        store=registry.store,
        artifacts=registry.artifacts,
        verifier=registry.verifier,
        clock=registry.clock,
    )


def promote(registry: Any, version: int, **alias: Any) -> None:
    command = a_set_alias(version, **{"model": "fraud", "generation_expected": 0, **alias})
    set_alias(command, caller="tests", store=registry.store, clock=registry.clock)


def test_unsigned_version_cannot_be_promoted(signed):
    version = signed.register()

    assert (GateState.AWAITS_SIGNATURE, UNSIGNED) == (version.gate.state, version.signing)
    for alias in ("champion", "trial"):
        with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
            promote(signed, 1, alias=alias)


def test_signature_opens_the_gate_and_the_version_serves(signed):
    signed.register()
    bundle = a_bundle()

    version = put(signed, bundle)

    assert version.gate.passed
    assert sha256(bundle).hexdigest() == version.signing.bundle_digest
    assert version.signing.signer == version.gate.evidence[-1][len("Signed by ") : -1]
    assert [version] == signed.versions("fraud")
    assert bundle == signed.artifacts.get(f"sha256/{version.signing.bundle_digest}")
    assert 1 == signed.rollout("fraud").champion.version
    assert [
        "version/fraud/1",
        "gate/fraud/1",
        "signing/fraud/1/1",
        "approval/fraud/1",
        "alias/fraud/champion/1",
    ] == signed.published("model-versions")


@pytest.mark.parametrize(
    ("bundle", "problem"),
    [
        (a_bundle(key=OTHER_KEY), "not trusted"),
        (a_bundle(2), "another version"),
        (a_bundle(model="delay"), "another version"),
        (a_bundle(digest="0" * 64), "another digest"),
        (a_bundle()[:-1], "no bundle"),
        (b"", "no bundle"),
    ],
)
def test_signature_that_does_not_hold_leaves_everything_as_it_was(signed, bundle, problem):
    signed.register()
    kept = signed.artifacts.keys()

    with pytest.raises(Invalid, match="SIGNATURE_INVALID") as refused:
        put(signed, bundle)

    assert problem in refused.value.metadata["problem"]
    assert GateState.AWAITS_SIGNATURE is signed.versions("fraud")[0].gate.state
    assert kept == signed.artifacts.keys()


def test_registry_that_trusts_nobody_takes_no_signature(signed):
    signed.register()
    signed.verifier = OpenSsfVerifier(None, signed.clock)

    with pytest.raises(Invalid, match="SIGNATURE_INVALID"):
        put(signed, a_bundle())


def test_signer_counts_as_soon_as_the_file_names_them_and_no_longer(signed, trusted):
    signed.register()
    trusted.write_bytes(public_pem(KEY) + public_pem(OTHER_KEY))
    assert put(signed, a_bundle(key=OTHER_KEY)).gate.passed

    trusted.write_bytes(public_pem(OTHER_KEY))
    with pytest.raises(Invalid, match="SIGNATURE_INVALID"):
        put(signed, a_bundle(), request_id="s-2")


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_file_of_trusted_signers_that_went_wrong_leaves_those_before(signed, trusted, content):
    signed.register()
    trusted.unlink()
    if content is not None:
        trusted.write_bytes(content)

    with pytest.raises(Invalid, match="SIGNATURE_INVALID"):
        put(signed, a_bundle(key=OTHER_KEY))
    assert put(signed, a_bundle()).gate.passed


def test_signature_of_a_version_that_is_not_there_is_refused(signed):
    with pytest.raises(NotFound, match="VERSION_UNKNOWN"):
        put(signed, a_bundle())


def test_version_that_was_taken_back_is_signed_by_nobody(signed):
    signed.register()
    command = RetractVersion("retract-1", "fraud", 1, "")
    retract_version(command, caller="ann", store=signed.store, clock=signed.clock)
    before = signed.versions("fraud")

    with pytest.raises(Conflict, match=r"GATE_SETTLED.*gate=retracted"):
        put(signed, a_bundle())

    assert before == signed.versions("fraud")


def test_signed_version_may_still_have_to_be_approved(signed):
    gate = {"require_signature": True, "approval": True}
    signed.apply({**MODEL, "gate": gate}, TENSORS_ENDPOINT, request_id="both")
    signed.register()
    approval = ApproveVersion("approve-1", "fraud", 1, "ann", "")
    handed = {"caller": "tests", "store": signed.store, "clock": signed.clock}
    with pytest.raises(Conflict, match="GATE_SETTLED"):
        approve_version(approval, **handed)

    assert GateState.AWAITS_APPROVAL is put(signed, a_bundle()).gate.state
    with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
        promote(signed, 1)
    assert approve_version(approval, **handed).gate.passed


def test_version_that_missed_a_rule_stays_shut_though_it_is_signed(signed):
    gate = {"require_signature": True, "metrics": {"accuracy": {"min": 0.9}}}
    signed.apply({**MODEL, "gate": gate}, TENSORS_ENDPOINT, request_id="both")
    signed.register(metrics={"accuracy": 0.1})

    version = put(signed, a_bundle())

    assert GateState.FAILED is version.gate.state
    assert version.signing.signer


def test_trained_version_waits_for_its_signature_too(signed):
    recipe = {**RECIPE, "gate": {**RECIPE["gate"], "require_signature": True}}
    signed.apply(recipe, request_id="recipe")
    signed.complete(a_run("run-1"))

    assert GateState.AWAITS_SIGNATURE is signed.versions()[0].gate.state
    put(signed, a_bundle(model="delay"), model="delay")
    assert (1, 1) == signed.champion()


def test_repeat_of_a_signature_has_one_effect(signed):
    signed.register()

    assert put(signed, a_bundle(), request_id="same") is not None
    bundle = signed.artifacts.get(f"sha256/{signed.versions('fraud')[0].signing.bundle_digest}")
    again = put(signed, bundle, request_id="again")

    assert again == signed.versions("fraud")[0]
    assert 2 == again.signing.signings
    assert 1 == signed.published("model-versions").count("approval/fraud/1")


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_file_of_trusted_signers_that_cannot_be_read_is_a_bad_setting(registry, tmp_path, content):
    file = tmp_path / "signers.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(Invalid, match="BAD_SETTING"):
        OpenSsfVerifier(file, registry.clock)
