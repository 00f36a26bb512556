# SPDX-License-Identifier: Apache-2.0
"""headrace connect and tokens: talk to a platform elsewhere, and say who may talk to it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.output import err, out, show_table, told_errors
from headrace.client import Addresses, Client
from headrace.connection import addresses_here, keep_connection
from headrace.errors import Denied, Invalid, Unavailable
from headrace.tokens import issue_token, permit_caller, read_tokens, revoke_tokens, rotate_token

TOKEN_CHARACTERS_MAX = 512
Address = Annotated[str | None, typer.Option(help="HOST:PORT.")]
tokens = typer.Typer(
    no_args_is_help=True,
    help="Who may call the services; they look at the file of *_TOKENS_FILE each second.",
)
TokensFile = Annotated[
    Path, typer.Option("--file", help="The tokens file; it holds digests, no token.")
]
DEFAULT_FILE = Path("tokens.json")
PERMISSIONS = "read, label, peer, publish:STREAM, predict:ENDPOINT or *; may be repeated."
CallerName = Annotated[str, typer.Argument(help="A program or a person, in a-z, 0-9, - and .")]


def connect(
    *,
    kafka: Address = None,
    ingest: Address = None,
    feature: Address = None,
    trainer: Address = None,
    registry: Address = None,
    inference: Address = None,
    monitor: Address = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Holds the token to show; - is standard input.", allow_dash=True),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Remember where a platform is, and the token to show it; the other commands talk to it then.

    The addresses that are not given are those of the platform that `headrace up` runs on the same
    data folder, which goes first as long as it runs; else those of this machine, where
    docker-compose.yml publishes them. Unless a token is given none is shown. The registry is asked
    first: nothing is remembered unless it answers and knows the token.

        headrace connect --token-file operator.token

        headrace connect --registry registry.ml.example.org:7104 --data-dir ~/.headrace-prod
    """
    named = {
        "kafka": kafka,
        "ingest": ingest,
        "feature": feature,
        "trainer": trainer,
        "registry": registry,
        "inference": inference,
        "monitor": monitor,
    }
    given = {name: address for name, address in named.items() if address is not None}
    with told_errors():
        token = _token(token_file) if token_file else ""
        here = addresses_here(data_dir)
        addresses = replace(here or Addresses(), **given)
        found = _asked(Client(addresses, token))
        kept = keep_connection(data_dir, addresses, token)
    out.print(f"Connected, until {kept} is removed. {found} Try: headrace streams")
    if here not in (None, addresses):
        out.print(
            f"The platform that headrace up runs on {data_dir} goes first as long as it runs:"
        )
        out.print("give this one a folder of its own, with --data-dir here and in other commands.")


@tokens.command("add")
def add(
    name: CallerName,
    *,
    may: Annotated[list[str], typer.Option(help=PERMISSIONS)],
    file: TokensFile = DEFAULT_FILE,
) -> None:
    """Let a caller in: its token goes to standard output, once, and its digest into the file.

    A name that ends in * means all that begin so. `read` reads records and features; `peer` is for
    the feature workers among themselves, and beside `read` for a program that names its predictions
    to feature; `*` is all.

        (umask 077; headrace tokens add shop --may publish:orders --may "predict:*" > shop.token)

        headrace tokens add services --may "*"

        headrace tokens add feature-workers --may peer
    """
    with told_errors():
        _show_token(issue_token(file, name, may), name)


@tokens.command("rotate")
def rotate(name: CallerName, file: TokensFile = DEFAULT_FILE) -> None:
    """Give a caller a new token; the one before is good until the next rotation.

    (umask 077; headrace tokens rotate shop > shop.token)
    """
    with told_errors():
        _show_token(rotate_token(file, name), name)


@tokens.command("permit")
def permit(
    name: CallerName,
    *,
    may: Annotated[list[str], typer.Option(help=PERMISSIONS)],
    file: TokensFile = DEFAULT_FILE,
) -> None:
    """Say anew what a caller may do: this, and nothing else. Its tokens stay.

    headrace tokens permit shop --may publish:orders --may predict:delay
    """
    with told_errors():
        permit_caller(file, name, may)


@tokens.command("revoke")
def revoke(name: CallerName, file: TokensFile = DEFAULT_FILE) -> None:
    """Shut a caller out: within a second no call is begun with its tokens.

    A stream that it has open ends by itself, after five minutes at most.

    headrace tokens revoke shop
    """
    with told_errors():
        revoke_tokens(file, name)


@tokens.command("list")
def list_callers(file: TokensFile = DEFAULT_FILE) -> None:
    """List the callers and what each may do.

    headrace tokens list
    """
    table = Table("caller", "may", "tokens")
    with told_errors():
        for name, known in sorted(read_tokens(file).items()):
            table.add_row(name, " ".join(sorted(known.caller.permissions)), str(len(known.digests)))
    show_table(table)


def _asked(client: Client) -> str:
    """What the registry says to the token.

    Raises Denied TOKEN_UNKNOWN, Unavailable SERVICE_UNAVAILABLE.
    """
    try:
        return f"{len(client.definitions)} definitions are applied there."
    except Denied as refused:
        if refused.reason != "ACTION_FORBIDDEN":
            raise
        return "The token is known, and may not read."
    except Unavailable as away:
        address = client.addresses.registry
        problem = f"no registry answers at {address}: mend --registry, or start it"
        raise Unavailable("SERVICE_UNAVAILABLE", problem=problem) from away


def _show_token(token: str, name: str) -> None:
    typer.echo(token)
    err.print(f"This is the token of {name}; it is kept nowhere else.")


def _token(file: Path) -> str:
    try:
        with sys.stdin if file == Path("-") else file.open(encoding="utf-8") as opened:
            text = opened.read(TOKEN_CHARACTERS_MAX).strip()
    except OSError as failure:
        raise Invalid("BAD_REQUEST", field="token-file", problem=failure.strerror) from failure
    except UnicodeDecodeError as failure:
        raise Invalid("BAD_REQUEST", field="token-file", problem="it is no text") from failure
    if not text or not (text.isascii() and text.isprintable()):
        raise Invalid(
            "BAD_REQUEST", field="token-file", problem="it holds something else than a token"
        )
    return text
