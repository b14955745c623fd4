"""A command's meta as a person gives it: `--meta name=value`, or `--meta-json` for anything richer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from wallet_core.canonical_json import CanonicalObject, Json, canonical_object, parse
from wallet_core.errors import WalletError

MetaOption = Annotated[list[str] | None, typer.Option("--meta", help="A field of meta, name=value; may be repeated.")]
MetaJsonOption = Annotated[str | None, typer.Option("--meta-json", help="The whole of meta, as a JSON object.")]


def read_meta(pairs: Sequence[str] | None, text: str | None) -> CanonicalObject:
    """The meta that the two options give. Raises typer.BadParameter."""
    if text is not None:
        if pairs:
            raise typer.BadParameter("give --meta or --meta-json, not both")
        try:
            meta = parse(text)
            if isinstance(meta, dict):
                return canonical_object(meta)
        except WalletError as error:
            raise typer.BadParameter(f"--meta-json: {error}") from None
        raise typer.BadParameter("--meta-json: a JSON object without duplicate keys is needed")
    fields: dict[str, Json] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or name in fields:
            raise typer.BadParameter(f"--meta {pair}: name=value is needed, each name once")
        fields[name] = value
    try:
        return canonical_object(fields)
    except WalletError as error:
        raise typer.BadParameter(f"--meta: {error}") from None
