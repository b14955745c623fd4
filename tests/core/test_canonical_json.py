"""Canonical JSON: one spelling for one value, for ever."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_core.canonical_json import NESTING_MAX, canonical, canonical_object, parse
from wallet_core.errors import BadJson, NotCanonical

# NEVER CHANGE A LINE HERE. Each address ever published hangs on these texts: others give old commands new addresses.
GOLDEN = [
    ("null", "null"),
    (" [ true , false ] ", "[true,false]"),
    ('{"b": 1, "a": {"d": [], "c": {}}}', '{"a":{"c":{},"d":[]},"b":1}'),
    ("[1, 1.0, 1e0, 1E0, -0, 0.10, 1e+2, -1.5e-7]", "[1,1.0,1e0,1E0,-0,0.10,1e+2,-1.5e-7]"),
    ('"\\u00e9\\u20ac\\ud83d\\ude00\\/"', '"é€😀/"'),
    ('"\\u0000\\u001f\\u007f\\b\\t\\n\\f\\r\\"\\\\"', '"\\u0000\\u001f\x7f\\b\\t\\n\\f\\r\\"\\\\"'),
    ('"\u2028\u2029\ufeff<>&\'"', '"\u2028\u2029\ufeff<>&\'"'),
    ('{"\uff5e": 1, "\ud83d\ude00": 2, "Z": 3, "a": 4, "": 5}'.encode("utf-16", "surrogatepass").decode("utf-16"),
     '{"":5,"Z":3,"a":4,"\uff5e":1,"😀":2}'),
    ('{"e\\u0301": 1, "\\u00e9": 2}', '{"e\u0301":1,"é":2}'),
]  # fmt: skip

texts = st.text(st.characters(codec="utf-8"), max_size=10)
scalars = st.none() | st.booleans() | st.integers() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_golden_vectors(text: str, expected: str) -> None:
    """These may never change."""
    assert canonical(parse(text)) == expected


@given(values, st.booleans(), st.sampled_from([None, 0, 3]))
def test_spelling_does_not_matter_and_meaning_stays(value: Any, escaped: bool, indent: int | None) -> None:
    """White space, escapes and the order of keys do not reach the canonical text; everything else does."""
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    written = canonical(parse(text))
    assert written == canonical(parse(written))
    assert written == json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert json.loads(written) == value


@given(values, values)
def test_two_values_never_share_a_text(one: Any, other: Any) -> None:
    """Otherwise two commands could share an address."""
    same_text = canonical(parse(json.dumps(one))) == canonical(parse(json.dumps(other)))
    assert same_text == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@given(st.dictionaries(texts, values, max_size=4))
def test_an_object_is_the_sum_of_its_members(value: dict[str, Any]) -> None:
    """The reply repeats the members one by one; they are the same texts."""
    parsed = parse(json.dumps(value))
    assert isinstance(parsed, dict)
    written = canonical_object(parsed)
    assert written.text == canonical(parsed)
    assert written.size == len(written.text.encode())
    assert {key: canonical(parse(text)) for key, text in written.members.items()} == written.members


def test_a_number_of_ten_thousand_digits_stays_as_it_is() -> None:
    """Python refuses to convert more than 4,300 digits, and a float would lose all but 17."""
    digits = "9" * 10_000
    assert canonical(parse(f"[{digits}, -{digits}.{digits}]")) == f"[{digits},-{digits}.{digits}]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 1}', "duplicate key"),
        ('[{"a": 1, "\\u0061": 2}]', "duplicate key"),
        ("[NaN]", "NaN"),
        ("[Infinity]", "Infinity"),
        ("-Infinity", "-Infinity"),
        ('"\\ud800"', r"lone surrogate U\+D800"),
        ('{"\\udfff": 1}', r"lone surrogate U\+DFFF"),
        ('"\\ude00\\ud83d"', "lone surrogate"),
    ],
)
def test_what_has_no_canonical_form_is_refused(text: str, reason: str) -> None:
    """Two parsers would read such a text in two ways."""
    with pytest.raises(NotCanonical, match=reason):
        canonical(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "[1,]",
        '{"a"}',
        "{'a': 1}",
        "01",
        "+1",
        "1.",
        ".5",
        "nul",
        '"\n"',
        '"\\x"',
        "1 2",
        "\ufeff1",
        "[] []",
    ],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    """Nothing is mended."""
    with pytest.raises(BadJson):
        parse(text)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _call_deep(levels: int, text: str) -> object:
    return parse(text) if levels == 0 else _call_deep(levels - 1, text)


def test_nesting_is_limited_by_a_rule_and_not_by_the_stack() -> None:
    """A verdict must not depend on where in a program the parser is called."""
    free = sys.getrecursionlimit() - len(_frames()) - NESTING_MAX - 50
    for levels in (0, free):
        assert _call_deep(levels, _nested(NESTING_MAX)) is not None
        with pytest.raises(BadJson, match="nested deeper than 64"):
            _call_deep(levels, _nested(NESTING_MAX + 1))


def _frames() -> list[object]:
    frame, found = sys._getframe(), list[object]()
    while frame is not None:
        found.append(frame)
        frame = frame.f_back  # type: ignore[assignment]  # the outermost frame ends the loop
    return found


@pytest.mark.parametrize(
    "text",
    ["[" * 5_000, '{"a":' * 5_000, "[{" * 500_000, _nested(5_000), '["]", ' * 100, "[" * 1_000_000, "[]]" + "[" * 70],
)
def test_too_many_brackets_are_refused_without_recursion(text: str) -> None:
    """Closed or not, in order or not: the answer is the same."""
    with pytest.raises(BadJson):
        parse(text)


def test_brackets_beside_each_other_or_in_strings_are_no_nesting() -> None:
    """The limit is about depth, not about number."""
    texts = [
        json.dumps([[]] * 1_000),
        json.dumps("[" * 1_000),
        json.dumps(['\\"[[[' * 100]),
        '["\\\\",' + "[]," * 99 + "[]]",
    ]
    for text in texts:
        assert canonical(parse(text)) == json.dumps(json.loads(text), separators=(",", ":"))


@pytest.mark.parametrize(
    "text", ["[]," * 70 + '"' + '\\"' * 500_000, "[]," * 70 + '"' + "\\" * 500_001, '"[' * 500_000]
)
def test_an_unclosed_string_costs_no_more_than_its_length(text: str) -> None:
    """A search that begins again at each quote would take hours for a megabyte."""
    with pytest.raises(BadJson):
        parse(text)
