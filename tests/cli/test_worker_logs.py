"""Workers' lines stay whole, and no reader holds a worker up."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from wallet_cli.worker_logs import LINE_SIZE_MAX, Lines, LogOutput


@given(st.lists(st.text("ab\n\r").map(str.encode)))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    """However the output was cut on its way, its lines are its lines."""
    lines = Lines()
    found = [line for piece in pieces for line in lines.feed(piece)] + lines.end()
    whole = b"".join(pieces)
    assert b"".join(line + b"\n" for line in found).removesuffix(b"\n") == whole.removesuffix(b"\n")
    assert all(b"\n" not in line for line in found)


def test_a_line_without_end_is_passed_on_in_pieces() -> None:
    """A worker that never ends its line fills no memory, and loses nothing."""
    lines = Lines()
    found = [line for _ in range(40) for line in lines.feed(b"x" * 65_536)] + lines.end()
    assert sum(map(len, found)) == 40 * 65_536
    assert max(map(len, found)) == LINE_SIZE_MAX


def _output(path: Path, *, coloured: bool) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    output = LogOutput(descriptor, coloured=coloured)
    output.line("sync-0", b'{"event": "\xff"}\r')
    output.say("hello")
    output.line("command-0", b"")
    output.close()
    os.close(descriptor)
    return path.read_bytes().decode(errors="surrogateescape")


def test_each_line_names_its_worker_and_is_left_as_it_is(tmp_path: Path) -> None:
    """Also an empty line, and one that is no text."""
    assert _output(tmp_path / "log", coloured=False) == (
        'sync-0 | {"event": "\udcff"}\r\nwalletctl | hello\ncommand-0 | \n'
    )


def test_colour_is_on_the_names_only(tmp_path: Path) -> None:
    """What a worker wrote stays as it is, in colour too; each name has a colour of its own."""
    lines = _output(tmp_path / "log", coloured=True).splitlines(keepends=True)
    names = [line.partition("\x1b[0m")[0] for line in lines]
    assert len(set(names)) == 3
    assert all(name.startswith("\x1b[") for name in names)


def test_a_reader_that_reads_nothing_holds_nobody_up() -> None:
    """Lines beyond what may wait are left out and counted; what was taken comes whole and in order."""
    reader, writer = os.pipe()
    output = LogOutput(writer, coloured=False, waiting_size_max=200_000)
    sent = [b"%06d %s" % (number, b"x" * 1_000) for number in range(2_000)]
    for line in sent:
        output.line("sync-0", line)
    with os.fdopen(reader, "rb") as stream:
        received: list[bytes] = []
        while not (received and b"lines left out" in received[-1]):
            received.append(stream.readline())
        output.close()
        os.close(writer)
    *taken, told = received
    assert taken == [b"sync-0 | " + line + b"\n" for line in sent[: len(taken)]]
    assert told.startswith(b"walletctl | %d lines left out here" % (len(sent) - len(taken)))


def test_a_reader_that_is_gone_holds_nobody_up() -> None:
    """A closed pipe costs lines, not workers."""
    reader, writer = os.pipe()
    os.close(reader)
    output = LogOutput(writer, coloured=False)
    for _ in range(100):
        output.line("sync-0", b"x" * 10_000)
    output.close()
    os.close(writer)
