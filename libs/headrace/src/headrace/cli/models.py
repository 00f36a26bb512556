# SPDX-License-Identifier: Apache-2.0
"""headrace models: versions with their signatures, gates, aliases, tags and cards."""

from __future__ import annotations

import getpass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import minute_text
from headrace.cli.output import EXIT_ERROR, out, read_text, show_table, told_besides, told_errors
from headrace.cli.reason import Reason
from headrace.connection import connect
from headrace.errors import Invalid
from headrace.model_reference import REFERENCE
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb

if TYPE_CHECKING:
    from headrace.model_signing import SigningKey
    from headrace.models import Models

app = typer.Typer(
    no_args_is_help=True,
    help="Versions of models: models:/NAME@ALIAS and models:/NAME/7 name one, NAME@ALIAS too.",
)
Version = Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@ALIAS.")]
Pairs = Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")]
NO_CANARY, CHANGES_LOOKED_AT_MAX = "start_no_canary", 100
_GATE = {
    events.GATE_STATE_UNSPECIFIED: "none",
    events.GATE_STATE_PASSED: "passed",
    events.GATE_STATE_FAILED: "failed",
    events.GATE_STATE_AWAITS_APPROVAL: "awaits approval",
    events.GATE_STATE_AWAITS_SIGNATURE: "awaits a signature",
    events.GATE_STATE_RETRACTED: "taken back",
}


def _gate(version: events.ModelVersion) -> str:
    return _GATE.get(version.gate.state, "known to a newer version")


@app.command()
def register(
    model: Annotated[str, typer.Argument(help="The name of an applied model (kind: model).")],
    file: Annotated[Path, typer.Argument(help="An ONNX file.", exists=True, dir_okay=False)],
    *,
    metric: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER, for the gate.")] = None,
    tag: Pairs = None,
    card: Annotated[Path | None, typer.Option(help="A Markdown file.", exists=True)] = None,
    reason: Reason = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a file that was trained elsewhere the next version of a model.

    A version whose gate fails is there, and cannot serve: the command ends with 1 then.

    headrace models register fraud fraud.onnx --metric accuracy=0.93 --card README.md
    """
    with told_errors():
        known = connect(data_dir).models
        version = known.register(
            model,
            file,
            metrics=_numbers(metric),
            tags=_pairs("--tag", tag),
            card="" if card is None else read_text(card, "--card"),
            reason=reason,
        )
        out.print(f"models:/{model}/{version.version}: gate {_gate(version)}")
        _show_evidence(version)
        _tell_no_canary(known, version)
    if version.gate.state == events.GATE_STATE_AWAITS_APPROVAL:
        out.print(f"To let it serve: headrace models approve {model}/{version.version}")
    if version.gate.state == events.GATE_STATE_AWAITS_SIGNATURE:
        out.print(f"To let it serve: headrace models sign {model}/{version.version} --key FILE")
    if version.gate.state == events.GATE_STATE_FAILED:
        raise typer.Exit(EXIT_ERROR)


@app.command("list")
def list_models(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List the models with their newest version and their aliases.

    headrace models list
    """
    table = Table("model", "newest", "aliases")
    with told_errors():
        for each in connect(data_dir).models.list():
            aliases = ", ".join(f"{alias.alias} -> {alias.version}" for alias in each.aliases)
            table.add_row(each.name, str(each.newest_version or ""), aliases)
    show_table(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A model, or one version of it.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show a model's versions with their gates and who serves, or all that is known of one.

    headrace models show delay
    headrace models show delay@champion
    """
    with told_errors():
        client = connect(data_dir)
        if REFERENCE.fullmatch(name):
            version = client.models.get(name)
            approved = client.models.approval(version) if version.gate.approver else None
            _show_version(version, approved)
            return
        versions, aliases = client.versions(name), client.aliases(name)
    if not versions:
        out.print(f"No version of {name} yet: headrace train or headrace models register.")
        return
    table = Table(
        "version", "alias", "from", "AUC", "gate", "approved by", "tags", "digest", title=name
    )
    for version in versions:
        serving = [alias.alias for alias in aliases if alias.version == version.version]
        table.add_row(*_row(version, ", ".join(serving)))
    show_table(table)


@app.command()
def tag(
    version: Version,
    set: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE, as many as wanted.")] = None,
    *,
    remove: Annotated[list[str] | None, typer.Option(help="KEY; may be repeated.")] = None,
    reason: Reason = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Set tags of a version, and remove some.

    headrace models tag fraud/3 team=risk stage=trial --remove draft
    """
    with told_errors():
        described = connect(data_dir).models.describe(
            version, tags=_pairs("tag", set), tags_removed=remove or (), reason=reason
        )
    out.print(_tags(described) or "No tag.")


@app.command()
def card(
    version: Version,
    file: Annotated[Path | None, typer.Argument(help="A Markdown file; none shows it.")] = None,
    *,
    reason: Reason = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the model card of a version, or replace it by a file.

    headrace models card fraud/3 README.md
    """
    with told_errors():
        models = connect(data_dir).models
        if file is None:
            out.print(models.get(version).card or "No card.")
            return
        text = read_text(file, "FILE")
        described = models.describe(version, card=text, reason=reason)
    out.print(f"models:/{described.model}/{described.version} has the card {file}")


@app.command()
def approve(
    version: Version,
    *,
    reason: Reason = "",
    approver: Annotated[str, typer.Option(help="Who approves; you, unless told.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Open the gate of a version that awaits approval.

    headrace models approve fraud/3 --reason "reviewed with the risk team"
    """
    with told_errors():
        known = connect(data_dir).models
        approved = known.approve(version, approver=approver or getpass.getuser(), reason=reason)
        out.print(f"models:/{approved.model}/{approved.version} may serve")
        _tell_no_canary(known, approved)


@app.command()
def retract(version: Version, *, reason: Reason = "", data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Take a version back for good, also one that awaits approval: nothing may serve it any more.

    What points to it is moved on first. Its number, file, lineage and audit stay.

    headrace models retract fraud/3 --reason "trained on mislabelled rows"
    """
    with told_errors():
        retracted = connect(data_dir).models.retract(version, reason=reason)
    out.print(f"models:/{retracted.model}/{retracted.version} is taken back")


@app.command()
def sign(
    version: Version,
    *,
    key: Annotated[Path, typer.Option(help="A private key, PEM.", exists=True, dir_okay=False)],
    certificate: Annotated[
        Path | None, typer.Option(help="Its certificate and those above it, PEM.", exists=True)
    ] = None,
    reason: Reason = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Sign a version (OpenSSF Model Signing), which lets it serve where its gate waits for that.

    headrace models sign fraud/3 --key release.pem
    """
    with told_errors():
        signing_key = _signing_key(key, certificate)
        known = connect(data_dir).models
        signed = known.sign(version, signing_key, reason=reason)
        out.print(
            f"models:/{signed.model}/{signed.version} is signed by {signed.signer}: "
            f"gate {_gate(signed)}",
        )
        _tell_no_canary(known, signed)


@app.command()
def verify(
    version: Version,
    *,
    trusted: Annotated[
        Path, typer.Option(help="Public keys and certificates, PEM.", exists=True, dir_okay=False)
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Verify who signed a version, by its file and its bundle, with the keys that you trust.

    headrace models verify fraud@champion --trusted signers.pem
    """
    from headrace.model_signing import read_trusted_signers  # the extra `signing`

    with told_errors():
        try:
            signers = read_trusted_signers(trusted.read_bytes())
        except ValueError as err:
            raise Invalid("BAD_REQUEST", field="--trusted", problem=err) from err
        signer = connect(data_dir).models.verify(version, signers)
    out.print(f"{version} is signed by {signer}")


def _signing_key(key: Path, certificate: Path | None) -> SigningKey:
    """Asks for the password of a key that has one."""
    from headrace.model_signing import read_signing_key  # the extra `signing`

    chain = b"" if certificate is None else certificate.read_bytes()
    try:
        return read_signing_key(key.read_bytes(), chain, password=None)
    except TypeError:
        password = getpass.getpass(f"Password of {key}: ").encode()
        return read_signing_key(key.read_bytes(), chain, password=password)


@app.command()
def download(
    version: Version,
    file: Annotated[Path, typer.Argument(help="Where to; written whole or not at all.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Fetch the file of a version, which must hash to its digest.

    headrace models download fraud@champion fraud.onnx
    """
    with told_errors():
        try:
            found = connect(data_dir).models.download_to(version, file)
        except OSError as failure:
            raise typer.BadParameter(f"{file}: {failure.strerror}", param_hint="FILE") from failure
    out.print(f"{file} is models:/{found.model}/{found.version}, digest {found.digest}")


@app.command()
def history(
    model: Annotated[str, typer.Argument(help="A model; all changes if absent.")] = "",
    newest: Annotated[int, typer.Option(help="How many to show.", min=1, max=10_000)] = 50,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show who changed what, when and why, newest first.

    headrace models history delay
    """
    table = Table("when", "who", "what", "of", "why")
    with told_errors():
        for each in islice(connect(data_dir).models.changes(model), newest):
            when = minute_text(each.at_us)
            table.add_row(when, each.caller, each.action, each.subject, each.reason)
    show_table(table)


def _show_version(version: events.ModelVersion, approved: pb.Change | None) -> None:
    out.print(f"models:/{version.model}/{version.version}, digest {version.digest}")
    out.print(f"registered {minute_text(version.registered_at_us)} {_origin(version)}")
    out.print(f"gate {_gate(version)}")
    if version.gate.approver:
        out.print(f"approved by {version.gate.approver}{_how(approved)}")
    if version.signer:
        out.print(f"signed by {version.signer}")
    _show_evidence(version)
    table = Table("tensor", "name", "datatype", "shape")
    for role, tensors in (
        ("input", version.signature.inputs),
        ("output", version.signature.outputs),
    ):
        for tensor in tensors:
            shape = ", ".join(map(str, tensor.shape))
            table.add_row(role, tensor.name, tensor.datatype, f"[{shape}]")
    show_table(table)
    for metric, value in sorted(version.trained.metrics.items()):
        out.print(f"{metric}: {value:.6g}")
    out.print(_tags(version))
    out.print(version.card)


def _tell_no_canary(known: Models, version: events.ModelVersion) -> None:
    """Where it passed, and does not stand beside the champion because callers send other tensors.

    That was told just before, unless many change this model at once.
    """
    if version.gate.state != events.GATE_STATE_PASSED:
        return
    name = f"models:/{version.model}/{version.version}"
    with told_besides():
        for each in islice(known.changes(version.model), CHANGES_LOOKED_AT_MAX):
            if each.action == NO_CANARY and each.subject.endswith(f" {name}"):
                out.print(f"No canary at {each.subject.removesuffix(f': {name}')}: {each.reason}")
                out.print(f"To let it serve all the same: headrace promote {name}")


def _how(approved: pb.Change | None) -> str:
    """When, by whose token, and why, as far as that is known."""
    if approved is None:
        return ""
    reason = f": {approved.reason}" if approved.reason else ""
    return f" {minute_text(approved.at_us)}, called by {approved.caller}{reason}"


def _show_evidence(version: events.ModelVersion) -> None:
    for sentence in version.gate.evidence:
        out.print(f"  {sentence}")


def _row(version: events.ModelVersion, alias: str) -> tuple[str, ...]:
    auc = version.trained.metrics.get("auc")
    return (
        str(version.version),
        alias,
        _origin(version),
        "" if auc is None else f"{auc:.3f}",
        _gate(version),
        version.gate.approver,
        _tags(version),
        version.digest[:12],
    )


def _origin(version: events.ModelVersion) -> str:
    if not version.run_id:
        return "a file"
    return f"run {version.run_id}, until {minute_text(version.trained.trained_until_us)}"


def _tags(version: events.ModelVersion) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(version.tags.items()))


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = dict(each.partition("=")[::2] for each in given or ())
    for each in given or ():
        if "=" not in each:
            raise Invalid("BAD_REQUEST", field=option, problem=f"{each} is not KEY=VALUE")
    return pairs


def _numbers(given: list[str] | None) -> dict[str, float]:
    return {name: _number(text) for name, text in _pairs("--metric", given).items()}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as err:
        raise Invalid("BAD_REQUEST", field="--metric", problem=f"{text} is no number") from err
