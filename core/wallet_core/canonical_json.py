r"""JSON texts with one spelling each, so that a hash of one means the same in every worker and for ever.

The rules (they may never change: every address of an account hangs on them):

- object keys sorted by code point, no white space, UTF-8;
- strings escape `"`, `\` and the control characters below U+0020 only, by the short form where JSON has one, else by
  `\u00` and two lower-case digits;
- numbers stay as they were written: `1`, `1.0` and `1e0` are three texts, and 10,000 digits are no problem, because
  nothing ever turns them into a number;
- a text with a duplicate key, `NaN`, `Infinity` or a lone surrogate has no canonical form.

`parse` is lenient where a caller may not care: a duplicate key or a `NaN` becomes a `Flaw` in the place where it
stands, and only `canonical` raises for it. So a flaw in a field that nobody reads stops nobody.

Nesting is limited by a rule of our own, checked before anything recurses. Python's limit would depend on how deep the
stack happens to be when the parser is called, and two workers could give two verdicts on one text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

from wallet_core.errors import BadJson, NotCanonical

NESTING_MAX = 64
"""Levels of brackets in one text, the outermost included."""


class Number(str):
    """A number as it was written."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Flaw:
    """Stands in a parsed text where something has no canonical form."""

    reason: str


Json: TypeAlias = "bool | str | Number | Flaw | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class CanonicalObject:
    """A JSON object in its canonical form."""

    members: dict[str, str]
    """Canonical text of each member by its key, in canonical order."""
    text: str
    """The whole object."""

    @property
    def size(self) -> int:
        """Bytes of `text` in UTF-8."""
        return len(self.text.encode())


def parse(text: str) -> Json:
    """Read one JSON text (RFC 8259). Raises BadJson where it is none, or nested deeper than `NESTING_MAX`."""
    _check_nesting(text)
    try:
        parsed: Json = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadJson(f"not JSON: {error.msg} at character {error.pos}") from None
    return parsed


def canonical(value: Json) -> str:
    """The canonical text of a parsed value. Raises NotCanonical."""
    text = _write(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NotCanonical(f"lone surrogate U+{ord(text[error.start]):04X}") from None
    return text


def canonical_object(value: dict[str, Json]) -> CanonicalObject:
    """The canonical form of a parsed object, member by member. Raises NotCanonical."""
    members = {key: canonical(value[key]) for key in sorted(value)}
    return CanonicalObject(members, "{" + ",".join(f"{canonical(key)}:{text}" for key, text in members.items()) + "}")


def _write(value: Json) -> str:
    match value:
        case Number():
            return str(value)
        case str():
            return _STRINGS.encode(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return "[" + ",".join([_write(item) for item in value]) + "]"
        case dict():
            return "{" + ",".join([f"{_STRINGS.encode(key)}:{_write(value[key])}" for key in sorted(value)]) + "}"
        case Flaw(reason):
            raise NotCanonical(reason)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json] | Flaw:
    members = dict(pairs)
    return members if len(members) == len(pairs) else Flaw("duplicate key")


def _constant(name: str) -> Flaw:
    return Flaw(f"{name} is no JSON")


_DECODER = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=_constant, object_pairs_hook=_object, strict=True
)
_STRINGS = json.JSONEncoder(ensure_ascii=False)

# A string (to the end of the text where it is not closed, so that the search stays linear) or one bracket.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def _check_nesting(text: str) -> None:
    if text.count("[") + text.count("{") <= NESTING_MAX:
        return
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > NESTING_MAX:
                raise BadJson(f"nested deeper than {NESTING_MAX} levels at character {token.start()}")
        elif token[0] in "]}":
            depth -= 1
