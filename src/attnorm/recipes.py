"""Recipe files: YAML of plain fields, read as what a stranger may have written.

Of YAML a recipe uses mappings, lists and plain values. Tags (which can name Python's objects), anchors (with which a
small file stands for a huge one), repeated keys and deep nesting are refused before anything is made of them, so that
reading takes no more memory and time than the few kilobytes of a recipe are worth.
"""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import yaml

from attnorm.errors import ConfigError, shown
from attnorm.kinds import in_words, is_of

MAX_BYTES = 64 << 10  # the longest recipe of this package has 3 kB
MAX_DEPTH = 8  # a list in a section is at depth 3
# Plain values, without YAML's surprises: 1e-4 is a number, 2024-01-01 is text, 1:30 is not 90, 010 is not 8. What is
# not finite is no number.
_BOOL = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def read_recipe(path: str | Path, settings: type[Any]) -> dict[str, Any]:
    """Reads a recipe.

    Args:
        path: the file.
        settings: dataclass whose fields are the recipe's; a field that is a dataclass itself is a section.

    Returns:
        The values by field; those of a section by "section.field". Lists are tuples, whole numbers of float fields
        floats.

    Raises:
        ConfigError: names the file, the line and the key.
    """
    text = _read(Path(path))
    try:
        _refuse_programs(text, path)
        root = yaml.compose(text, yaml.BaseLoader)
    except ConfigError:
        raise
    # PyYAML lets through what Python says of escapes and versions that are out of range.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: a recipe must be one YAML document; {_cause(error)}") from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        what = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}.get(type(root), "nothing")
        raise ConfigError(f"{path}: a recipe must have lines such as `epochs: 10`, and it holds {what}")
    return _fields(root, settings, str(path), "")


def _cause(error: Exception) -> str:
    """What is wrong with a document, and where, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return shown(" ".join(str(error).split()), 200)
    place = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
    return shown(" ".join(part for part in (error.context, error.problem) if part), 200) + place


def _read(path: Path) -> str:
    # A pipe or a device may never end; whatever else is no file could not be read twice, to go on with a run.
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "nothing"
        raise ConfigError(f"config must be a recipe, a YAML file, and there is {what} at {path}")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: a recipe must be YAML of at most {MAX_BYTES >> 10} kB, and it is larger")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: a recipe must be UTF-8, and its byte {error.start} is not: save it with that encoding"
        ) from None


def _refuse_programs(text: str, path: str | Path) -> None:
    """Refuse what a recipe does not need of YAML, by the parser's events: they build nothing and do not recurse."""
    depth = 0
    for event in yaml.parse(text, yaml.BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if (tag := getattr(event, "tag", None)) is not None:
            found = f"the tag {shown(tag)}"
        elif (anchor := getattr(event, "anchor", None)) is not None:  # where it is set, and where it is used
            found = f"the anchor {shown(anchor)}"
        elif depth > MAX_DEPTH:
            found = f"more than {MAX_DEPTH} levels"
        else:
            continue
        line = event.start_mark.line + 1
        raise ConfigError(f"{path}, line {line}: a recipe must be plain fields and values, and has {found}")


def _fields(node: yaml.MappingNode, settings: type[Any], source: str, prefix: str) -> dict[str, Any]:
    """The checked values of a recipe or of a section of it, `prefix` being the section's name and a dot."""
    kinds: dict[str, Any] = get_type_hints(settings)
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for key, item in node.value:
        place = f"{source}, line {key.start_mark.line + 1}"
        name = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
        kind = kinds.get(name) if isinstance(key, yaml.ScalarNode) else None
        if kind is None:
            unknown = f"{shown(repr(prefix + name))}{_nearest(name, kinds, prefix)}"
            raise ConfigError(f"{place}: there is no field {unknown}; a recipe has the fields of the flags")
        if name in seen:
            raise ConfigError(f"{place}: {prefix}{name} stands there a second time: leave one out")
        seen.add(name)
        if is_dataclass(kind):
            if not isinstance(item, yaml.MappingNode):
                raise ConfigError(f"{place}: {prefix}{name} must be a section of fields; got {_shown(item)}")
            values |= _fields(item, cast(type[Any], kind), source, f"{prefix}{name}.")
            continue
        value = _plain(item, kind)
        if not is_of(value, kind):
            quotes = ": put it in quotes" if kind is str and isinstance(value, (bool, int, float)) else ""
            raise ConfigError(f"{place}: {prefix}{name} must be {in_words(kind)}; got {_shown(item)}{quotes}")
        values[prefix + name] = value
    return values


def _nearest(name: str, known: Mapping[str, Any], prefix: str) -> str:
    close = difflib.get_close_matches(name[:80].replace("-", "_"), known, n=1)
    return f", did you mean '{prefix}{close[0]}'" if close else ""


def _plain(node: yaml.Node, kind: Any) -> Any:
    """What a node means where a value of a type is expected; a whole number where only a float can be meant is one."""
    if isinstance(node, yaml.SequenceNode):
        return tuple(_plain(item, None) for item in node.value)
    if not isinstance(node, yaml.ScalarNode):
        return {}  # no field is a mapping
    text: str = node.value
    if node.style is not None:  # in quotes, or a block of text
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in _BOOL:
        return _BOOL[text.lower()]
    if _INT.fullmatch(text) and not is_of(0.5, kind):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _shown(node: yaml.Node) -> str:
    """As it stands in the file."""
    if isinstance(node, yaml.ScalarNode):
        return shown(repr(node.value) if node.style else node.value) or "nothing"
    return "a mapping" if isinstance(node, yaml.MappingNode) else f"a list of {len(node.value)}"
