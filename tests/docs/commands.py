"""Whether a command of a page is one: it is taken apart by the parser that would take it, and not run."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from attnorm import options
from attnorm.cli import COMMANDS
from attnorm.evidence.config import CompareConfig, check_compare
from attnorm.training.checks import check_recipe
from attnorm.training.config import TrainConfig
from tests.docs.blocks import ROOT

# What a command must be given, where a page writes "..." for it.
LEFT_OUT = {"train": ("--model", "resnet50_an", "--dataset", "folder", "--data-dir", "DIR", "--output", "OUTPUT")}


class Parsed(Exception):
    """Raised with the settings, in place of running the command."""


def settings_of(arguments: Sequence[str]) -> Any:
    """The settings that `attnorm` makes of its arguments, checked; a trailing "..." stands for those left out."""
    name, *rest = arguments
    if rest and rest[-1] == "...":
        rest = [*LEFT_OUT.get(name, ()), *rest[:-1]]
    real = options.parse_settings

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise Parsed(real(*args, **kwargs))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(options, "parse_settings", stop)
        with pytest.raises(Parsed) as parsed:
            COMMANDS[name][0](rest)
        settings = parsed.value.args[0]
        if isinstance(settings, CompareConfig):
            check_compare(settings)
        elif isinstance(settings, TrainConfig):
            check_recipe(settings)
    return settings


def check_command(words: Sequence[str]) -> None:
    """Fails if a program would not take its arguments, or if no rule here knows the program."""
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        words = words[1:]
    program, *arguments = words
    RULES[program](arguments)


def _attnorm(arguments: Sequence[str]) -> None:
    if arguments[0] != "--help" and arguments[1:] != ["--help"]:
        settings_of(arguments)


def _torchrun(arguments: Sequence[str]) -> None:
    launch = get_args_parser().parse_args(list(arguments))
    assert launch.module
    assert launch.training_script == "attnorm.cli"
    settings_of(launch.training_script_args)


def _make(arguments: Sequence[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert arguments[0] in targets, arguments[0]


def _python(arguments: Sequence[str]) -> None:
    """A module of benchmarks/, whose flags' names are looked for in its source, or a file of the repository."""
    if arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file(), arguments[0]
        return
    module = ROOT / f"{arguments[1].replace('.', '/')}"
    source = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__main__.py"
    text = source.read_text("utf-8")
    for shared in re.findall(r"^from benchmarks\.(\w+) import", text, re.MULTILINE):  # where common flags are declared
        text += (ROOT / "benchmarks" / f"{shared}.py").read_text("utf-8")
    for flag in (word.removeprefix("--") for word in arguments if word.startswith("--")):
        assert re.search(rf"\b{flag.replace('-', '[-_]')}\b", text) or "parse_known_args" in text, flag


def _pip(arguments: Sequence[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert arguments[0] == "install"
    for asked in re.findall(r"\[([\w,]+)\]", shlex.join(arguments)):
        assert set(asked.split(",")) <= set(extras), asked


def _sbatch(arguments: Sequence[str]) -> None:
    script = ROOT / arguments[0]
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    settings_of(["train", *arguments[1:]])


RULES = {
    "attnorm": _attnorm,
    "torchrun": _torchrun,
    "make": _make,
    "python": _python,
    "pip": _pip,
    "sbatch": _sbatch,
}
