"""From the command line and a recipe file to a settings dataclass: one flag per field, one line per mistake."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from attnorm.errors import ConfigError

T = TypeVar("T")
# Field names as people type them in a shell; both spellings are understood.
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_.]*")


def parse_settings(settings: type[T], arguments: Sequence[str], *, command: str, recipe: bool = False) -> T:
    """Makes a settings dataclass from command-line arguments.

    Args:
        settings: frozen dataclass; its fields are the flags, its docstring is the help.
        arguments: what follows the command's name.
        command: the command as it is typed, for the help.
        recipe: understand `--config FILE` (a YAML file of fields; flags override it) and `--print_config`.

    Returns:
        The settings.

    Raises:
        ConfigError: unknown, missing or unreadable arguments, or fields of the recipe that do not exist.
        SystemExit: with code 0, after the help or the configuration has been printed.
    """
    from argparse import ArgumentError

    parser = make_parser(settings, command, recipe=recipe)
    try:
        typed = normalise(arguments, _switches(settings))
        if recipe:
            from attnorm.recipes import read_recipe

            typed, files = _without_recipes(typed)
            for file in files:
                parser.set_defaults(read_recipe(file, settings))
        parsed = parser.parse_args(typed)
        return make_settings(settings, {key: value for key, value in parsed.as_dict().items() if key != "config"})
    except ConfigError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(f"{_one_line(str(error))}; see `{command} --help`") from None


def make_settings(settings: type[T], values: Mapping[str, Any]) -> T:
    """Makes a settings dataclass from nested dictionaries, such as the configuration in a run's record.

    Args:
        settings: frozen dataclass; a field that is a dataclass itself is a section.
        values: by the names of the fields; those of a section are in a dictionary, and lists may stand for tuples.

    Raises:
        ConfigError: a value that the settings refuse; one of a section is named "section.field".
    """
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for item in fields(settings):  # pyright: ignore[reportArgumentType]
        if is_dataclass(item.type) and isinstance(values.get(item.name), Mapping):
            try:
                made[item.name] = make_settings(cast(type[Any], item.type), values[item.name])
            except ConfigError as error:
                prefix = "" if str(error).startswith(f"{item.name}.") else f"{item.name}."
                raise ConfigError(f"{prefix}{error}") from None
    return settings(**made)


def normalise(arguments: Sequence[str], switches: frozenset[str]) -> list[str]:
    """Turns `--data-dir` into `--data_dir`, `--amp` into `--amp=true` and `--no-amp` into `--amp=false`.

    Args:
        arguments: as typed.
        switches: names of the true-or-false fields.
    """
    result: list[str] = []
    for position, argument in enumerate(arguments):
        if not argument.startswith("--"):
            result.append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = "--" + name[2:].replace("-", "_")
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        if not equals and name[2:] in switches and following.lower() not in ("true", "false"):
            equals, value = "=", "true"
        elif not equals and name.startswith("--no_") and name[5:] in switches:
            name, equals, value = "--" + name[5:], "=", "false"
        result.append(name + equals + value)
    return result


def _without_recipes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--config FILE`, and the files; one without a file stays for the parser to refuse."""
    rest: list[str] = []
    files: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        elif argument == "--config" and (file := next(remaining, None)) is not None:
            files.append(file)
        else:
            rest.append(argument)
    return rest, files


def _switches(settings: type[Any]) -> frozenset[str]:
    found: set[str] = set()
    for item in fields(settings):
        if item.type is bool:
            found.add(item.name)
        elif is_dataclass(item.type):
            found |= {f"{item.name}.{name}" for name in _switches(cast(type[Any], item.type))}
    return frozenset(found)


def make_parser(settings: type[Any], command: str, *, recipe: bool) -> Any:
    """The parser of `parse_settings`: field names as flags, with underscores."""
    from argparse import SUPPRESS

    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        def format_help(self, *arguments: Any, **settings: Any) -> str:
            text = _FLAG.sub(lambda match: match.group().replace("_", "-"), super().format_help(*arguments, **settings))
            return text + (
                "\nSwitches need no value: --amp is --amp true, --no-amp is --amp false.\n" if recipe else ""
            )

    class Formatter(jsonargparse.DefaultHelpFormatter):
        def _get_help_string(self, action: Any) -> str:
            # Python's types say less to a reader than the description and the default.
            if action.dest == "help":
                return super()._get_help_string(action)
            text = action.help or ""
            if action.required:
                return f"{text} (required)"
            return text if action.default in (None, SUPPRESS) else f"{text} (default: %(default)s)"

    # exit_on_error would print the whole usage, some fifty lines, above the one line that helps.
    parser = Parser(prog=command, exit_on_error=False, allow_abbrev=False, formatter_class=Formatter)
    if recipe:
        action = jsonargparse.ActionConfigFile  # pyright: ignore[reportPrivateImportUsage]
        parser.add_argument("--config", action=action, help="recipe: a YAML file of fields, which flags override")
    parser.add_class_arguments(settings)
    for action in parser._actions:
        # A section is given field by field: a file for it alone would be one more way to say the same.
        if action.dest in {item.name for item in fields(settings) if is_dataclass(item.type)}:
            action.help = SUPPRESS
    return parser


def _types(names: str) -> str:
    """Python's types in the words of a recipe."""
    names = re.sub(r"<class '(\w+)'>", r"\1", names).replace("NoneType", "null")
    names = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", names)
    return re.sub(r"tuple\[(\w+), \.\.\.\]", r"[\1, ...]", names)


def _one_line(message: str) -> str:
    """The parser's message in one line and in the words of the flags."""
    line = re.sub(r"\s*\n\s*", " ", message.strip()).rstrip(".")
    line = re.sub(r"Parser key \"([\w.]+)\":", lambda match: f"{match.group(1)}:", line)
    line = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"must be of type \1, got \2", line)
    line = line.replace("must be of type tuple", "must be a list such as [1,2]")
    line = re.sub(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", r"must be one of \1, got \2", line)
    return re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .* Given value: (.*)",
        lambda match: f"must be one of {_types(match.group(1))}, got {match.group(2)}",
        line,
    )
