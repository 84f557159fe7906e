"""Whether a value from a file is of a field's type, and how that type is called in a message."""

import re
from inspect import formatannotation
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value from JSON or YAML is of a type; a whole number is a float too, a truth value is no number."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) or kind is float:
        return any(is_of(value, one) for one in inner or (int,)) or type(value) is kind
    if origin is Literal:
        return type(value) is str and value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(is_of(item, inner[0]) for item in value)
    return type(value) is (origin or kind)


_WORDS = {
    r"Optional\[(.*)\]": r"\1 | None",
    r"Literal\[(.*?)\]": r"one of \1",
    r"tuple\[int, \.\.\.\]": "a list of whole numbers",
    r"\bint\b": "a whole number",
    r"\bfloat\b": "a number",
    r"\bstr\b": "text",
    r"\bbool\b": "true or false",
    r"\bNone\b": "null",
    r" \| ": " or ",
}


def in_words(kind: Any) -> str:
    """A type as a person would say it who has never seen Python's: "a whole number or null"."""
    text = formatannotation(kind)
    for pattern, words in _WORDS.items():
        text = re.sub(pattern, words, text)
    return text
