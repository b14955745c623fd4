"""`walletctl`, also `kubectl wallet-manager`: the command line of people who run a wallet.

Whatever goes wrong is one line on stderr that says how to mend it, and an exit code that says of what kind it is
(`exit_codes`). No command prints a secret unasked, and no error repeats one. A bug is one
line too; `--debug` shows where.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wallet_cli import account, keys, sync
from wallet_cli.audit import audit
from wallet_cli.exit_codes import EXIT_BUG, EXIT_NO, EXIT_UNAVAILABLE, EXIT_USAGE, MEANINGS
from wallet_cli.output import Output, OutputOption, fail, show
from wallet_cli.run import run
from wallet_cli.status import status
from wallet_cli.watch import watch
from wallet_core.errors import (
    AuditImpossible,
    BadCommand,
    InvalidKey,
    InvalidSetting,
    KafkaUnreachable,
    RpcUnreachable,
    SecretMissing,
    TopicsMisconfigured,
    Unavailable,
    WalletError,
)
from wallet_workers.adapters.kafka_clients import quiet_client_logs

DISTRIBUTION = "wallet-manager"
DEBUG_OPTION = "--debug"

_EXIT_CODES: tuple[tuple[type[WalletError], int], ...] = (
    (InvalidSetting, EXIT_USAGE),
    (InvalidKey, EXIT_USAGE),
    (BadCommand, EXIT_USAGE),
    (Unavailable, EXIT_UNAVAILABLE),
    (AuditImpossible, EXIT_UNAVAILABLE),
    (WalletError, EXIT_NO),
)
_REMEDIES: tuple[tuple[type[WalletError], str], ...] = (
    (KafkaUnreachable, "; is Kafka up, and does spec.kafka.bootstrapServers name it?"),
    (RpcUnreachable, "; is the node up, and does spec.chain.rpc name it?"),
    (SecretMissing, ": no such file below --secrets, or an empty one"),
    (TopicsMisconfigured, "; bootstrap makes the topics: start the wallet with `walletctl run -f FILE`"),
    (WalletError, ""),
)


class _OneLineErrors(TyperGroup):
    """Turns errors into their line and exit code, in one place for all commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WalletError as error:
            code = next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
            remedy = next(remedy for kind, remedy in _REMEDIES if isinstance(error, kind))
            fail(f"{error}{remedy}", code)


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + ".",
)
app.add_typer(keys.app, name="keys")
app.add_typer(account.app, name="account")
app.add_typer(sync.app, name="sync")
app.command()(run)
app.command()(status)
app.command()(watch)
app.command()(audit)


@app.callback()
def _settings(
    *,
    debug: Annotated[bool, typer.Option(DEBUG_OPTION, help="Show where a bug in walletctl is.")] = False,  # noqa: ARG001 - read by `main` from the arguments
) -> None:
    """Run a deposit wallet on this machine, ask it for accounts, and watch its deposits."""
    quiet_client_logs()


@app.command()
def version(output: OutputOption = Output.TABLE) -> None:
    """Print the versions of walletctl and of Python."""
    try:
        own = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"  # run from a checkout
    show({"walletctl": own, "python": platform.python_version()}, output)


def main(application: Callable[[], object] = app) -> None:
    """The console script."""
    try:
        application()
    except Exception as error:
        if DEBUG_OPTION in sys.argv:
            raise
        match error:
            case OSError(filename=str(), strerror=str()):
                problem, code = f"{error.filename}: {error.strerror}", EXIT_NO
            case _:
                told = f"a bug in walletctl ({type(error).__name__})"
                problem, code = f"{told}; `walletctl {DEBUG_OPTION} …` shows where", EXIT_BUG
        typer.echo(f"error: {problem}", err=True)
        sys.exit(code)


if __name__ == "__main__":
    main()
