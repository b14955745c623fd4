"""Writes the table of values into the chart's README, from the comments of its values.yaml; `make generated` runs it.

A value's description is the block of comment lines above it that starts with `# --`. What has none is left out, but
what has a description and is a mapping is one line, with its whole default.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

BEGIN, END = "<!-- values: made by `make generated` -->\n", "<!-- end of values -->\n"
MARK = "# --"


def described_values(text: str) -> Iterator[tuple[str, object, str]]:
    """Path, default and description of each value that has one."""
    yield from _below(yaml.compose(text), yaml.safe_load(text), (), text.splitlines())


def _below(
    node: yaml.Node | None, defaults: object, path: tuple[str, ...], lines: list[str]
) -> Iterator[tuple[str, object, str]]:
    if not isinstance(node, yaml.MappingNode) or not isinstance(defaults, dict):
        return
    for key, value in node.value:
        below = (*path, key.value)
        description = _description(lines, key.start_mark.line)
        if description is None:
            yield from _below(value, defaults[key.value], below, lines)
        else:
            yield ".".join(below), defaults[key.value], description


def _description(lines: list[str], line: int) -> str | None:
    """The comment above a line, if it is a description."""
    words: list[str] = []
    for above in reversed(lines[:line]):
        comment = above.strip()
        if not comment.startswith("#"):
            return None
        words.insert(0, comment.removeprefix(MARK).removeprefix("#").strip())
        if comment.startswith(MARK):
            return " ".join(words)
    return None


def table(text: str) -> str:
    """The values as a table in Markdown."""
    rows = [
        f"| `{path}` | `{json.dumps(default)}` | {description} |"
        for path, default, description in described_values(text)
    ]
    return "\n".join(["| Value | Default | Meaning |", "|-|-|-|", *rows, ""])


def main(chart: Path) -> None:
    """Write the table between the README's two marks."""
    readme = chart / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    values = (chart / "values.yaml").read_text(encoding="utf-8")
    readme.write_text(before + BEGIN + table(values) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
