"""The command line: `python -m devstack install | up | down | clean`, with PYTHONPATH=deploy/local.

Whatever goes wrong is one line on stderr and exit code 1.
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from devstack import stack, tools
from devstack.errors import DevstackError

REPOSITORY = Path(__file__).resolve().parents[3]
PORT_MAX = 65_535


def ports_from(environment: "os._Environ[str] | dict[str, str]") -> stack.Ports:
    """The demo's ports: `DEVSTACK_<SERVICE>_PORT` where set, the defaults elsewhere."""
    chosen: dict[str, int] = {}
    for port in fields(stack.Ports):
        variable = f"DEVSTACK_{port.name.upper()}_PORT"
        text = environment.get(variable)
        if text:
            if not text.isdecimal() or not 0 < int(text) <= PORT_MAX:
                raise DevstackError(f"{variable}={text} is no port: set it to a number from 1 to {PORT_MAX}")
            chosen[port.name] = int(text)
    return stack.Ports(**chosen)


def say(line: str) -> None:
    """One line of progress, seen at once."""
    print(f"{line}\n", end="", flush=True)  # in one write: services report from several threads


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    variables = ", ".join(f"DEVSTACK_{port.name.upper()}_PORT ({port.default})" for port in fields(stack.Ports))
    parser = argparse.ArgumentParser(
        prog="python -m devstack", description="Redis, Kafka and Ganache on 127.0.0.1.",
        epilog=f"Ports are set by environment variables: {variables}.",
    )  # fmt: skip
    parser.add_argument("--local", type=Path, default=REPOSITORY / ".local", help="where everything lies (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    install = commands.add_parser("install", help="install what is missing")
    install.add_argument("--tests", action="store_true", help="also what only the tests need: anvil and ethers")
    commands.add_parser("up", help="install what is missing, then start what does not run yet")
    commands.add_parser("down", help="stop everything that was started here, and only that")
    commands.add_parser("clean", help="stop everything, then remove data, tools, keys and logs")
    options = parser.parse_args(arguments)
    local = options.local.resolve()
    try:
        match options.command:
            case "install":
                tools.install(local, say, tests=options.tests)
            case "up":
                stack.up(local, tools.install(local, say, tests=False), ports_from(os.environ), say)
            case "down":
                stack.down(local, say)
            case "clean":
                stack.clean(local, say)
    except DevstackError as error:
        print(f"devstack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
