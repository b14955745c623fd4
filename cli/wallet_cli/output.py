"""How every command of walletctl answers: a table for a person, JSON for a program, errors in one line on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wallet_cli.exit_codes import EXIT_NO

_PIPE_WIDTH = 400
# Columns where there is no terminal: enough that no address, path or hash is ever broken.


class Output(StrEnum):
    """Form of an answer."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Form of the answer.")]
"""The `-o` of every command that answers; its default is `Output.TABLE`."""


def show(answer: Mapping[str, object] | Sequence[Mapping[str, object]], output: Output) -> None:
    """Print one thing, or a list of things of one kind, on stdout. None is an empty cell and JSON's null."""
    if output is Output.JSON:
        sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    if isinstance(answer, Mapping):
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in answer.items():
            table.add_row(_cell(name.replace("_", " ")), _cell(value))
    else:
        table = Table(box=None, pad_edge=False)
        for name in answer[0] if answer else ():
            table.add_column(_cell(name.replace("_", " ")), overflow="fold")
        for row in answer:
            table.add_row(*[_cell(value) for value in row.values()])
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def fail(message: str, exit_code: int = EXIT_NO) -> NoReturn:
    """Say in one line what is wrong and how to mend it, and end."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(exit_code)


def _cell(value: object) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
