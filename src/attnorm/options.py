"""From the command line and a recipe file to a settings dataclass: one flag per field, one line per mistake."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from attnorm.errors import ConfigError

T = TypeVar("T")
# Field names as people type them in a shell; both spellings are understood.
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_]*")


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
        parsed = parser.parse_args(normalise(arguments, _switches(settings)))
        values = {key: value for key, value in parsed.as_dict().items() if key != "config"}
        return settings(**values)
    except ConfigError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise ConfigError(f"{_one_line(str(error))}; see `{command} --help`") from None


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


def _switches(settings: type[Any]) -> frozenset[str]:
    return frozenset(item.name for item in fields(settings) if item.type is bool or item.type == "bool")


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
    return parser


def _one_line(message: str) -> str:
    """The parser's message in one line and in the words of the flags."""
    line = re.sub(r"\s*\n\s*", " ", message.strip()).rstrip(".")
    line = re.sub(r"Parser key \"(\w+)\":", lambda match: f"{match.group(1)}:", line)
    line = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"must be of type \1, got \2", line)
    return re.sub(
        r"Option '(\w+)' is not accepted", r"there is no field '\1'; a recipe has the fields of the flags", line
    )
