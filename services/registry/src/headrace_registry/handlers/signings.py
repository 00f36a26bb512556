# SPDX-License-Identifier: Apache-2.0
"""Signatures of versions: verified when they come, and what a gate may wait for."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from headrace_kit.clock import Clock
from headrace_registry.domain.artifact import artifact_key
from headrace_registry.domain.definition import model_of
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.name import check_name
from headrace_registry.domain.signing import Signing, SignVersion
from headrace_registry.domain.version import ModelVersion, gate_settled
from headrace_registry.handlers.once import once
from headrace_registry.handlers.rollouts import roll_out
from headrace_registry.ports import (
    ArtifactStore,
    RegistryReader,
    RegistryStore,
    RegistryTransaction,
    SignatureVerifier,
)


def sign_version(
    command: SignVersion,
    *,
    caller: str,
    store: RegistryStore,
    artifacts: ArtifactStore,
    verifier: SignatureVerifier,
    clock: Clock,
) -> ModelVersion:
    """Keeps a signature; a version that waited for nothing else serves as any that passed.

    Raises NotFound VERSION_UNKNOWN, Invalid SIGNATURE_INVALID, Conflict GATE_SETTLED for one that
    was taken back, and then no version has it.
    """
    check_name("model", command.model)
    with store.reading() as reader:
        digest = reader.version(command.model, command.version).digest
    name = f"models:/{command.model}/{command.version}"
    signer = verifier.verify(command.bundle, name=name, digest=digest)
    bundle_digest = sha256(command.bundle).hexdigest()
    artifacts.put_if_absent(artifact_key(bundle_digest), command.bundle)

    def act(transaction: RegistryTransaction) -> ModelVersion:
        transaction.lock_model(command.model)
        before = transaction.version(command.model, command.version)
        if before.gate.state is GateState.RETRACTED:
            raise gate_settled(before)
        signings = before.signing.signings + 1
        signed = replace(before, signing=Signing(bundle_digest, signer, signings))
        if before.gate.state is not GateState.AWAITS_SIGNATURE:
            transaction.sign(signed)
            return signed
        approval = _needs_approval(transaction, command.model)
        signed = replace(signed, gate=before.gate.signed(signer, approval=approval))
        transaction.sign(signed)
        if signed.gate.passed:
            transaction.open_gate(signed)
            roll_out(transaction, signed, clock.now_us())
        return signed

    return once(command, ModelVersion, store, act, caller=caller, clock=clock)


def _needs_approval(reader: RegistryReader, name: str) -> bool:
    model = model_of(name, reader.definitions())
    return model is not None and model.gate.approval
