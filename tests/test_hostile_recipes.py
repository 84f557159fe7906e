"""Recipes that a stranger wrote: each is refused in one line, or means what it says, and none runs code."""

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from attnorm.cli import main
from attnorm.errors import ConfigError
from attnorm.evidence.config import CompareConfig
from attnorm.kinds import is_of
from attnorm.options import parse_settings
from attnorm.recipes import MAX_BYTES, read_recipe
from attnorm.training.config import TrainConfig
from tests.fuzz import fuzzed

RECIPES = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


def refusal(path, settings=TrainConfig):
    """The message with which a recipe is refused: one line that names the file."""
    with pytest.raises(ConfigError) as caught:
        read_recipe(path, settings)
    message = str(caught.value)
    assert path.name in message
    assert message.isprintable()
    assert len(message) < 400
    return message


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe."""

    def write(content):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


LAUGHS = "a: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ATTACKS = {
    "a call": ("model: !!python/object/apply:os.system ['touch canary']", "the tag tag:yaml.org,2002:python/object"),
    "a call in a list": ("decay_milestones: [!!python/object/new:os.system ['touch canary']]", "the tag"),
    "a call as a key": ("!!python/object/apply:os.system ['touch canary']: 1", "line 1: a recipe must be plain fields"),
    "a name": ("model: !!python/name:os.system", "python/name:os.system"),
    "a module": ("model: !!python/module:this", "python/module:this"),
    "a tag of one's own": ("lr: 1\nmodel: !foo bar", "line 2: a recipe must be plain fields"),
    "a tag by directive": ("%TAG ! tag:yaml.org,2002:python/\n---\nmodel: !name:os.system x", "the tag"),
    "an explicit type": ("epochs: !!int '3'", "the tag tag:yaml.org,2002:int"),
    "billion laughs": (LAUGHS, "the anchor a"),
    "an alias of itself": ("model: &a [*a]", "the anchor a"),
    "a merge": ("x: &x {lr: 1}\n<<: *x", "the anchor x"),
    "an alias of nothing": ("model: *a", "the anchor a"),
    "a second time": ("lr: 1\nepochs: 2\nlr: 2", "line 3: lr stands there a second time: leave one out"),
    "a second time in a section": ("detector:\n  min_size: 9\n  min_size: 8", "line 3: detector.min_size stands there"),
    "unknown": ("epochs: 3\nlearning_rat: 0.1", "line 2: there is no field 'learning_rat'"),
    "nearly": ("weight-decay: 0.1", "there is no field 'weight-decay', did you mean 'weight_decay'; a recipe has"),
    "nearly, in a section": ("detector: {min_siz: 3}", "no field 'detector.min_siz', did you mean 'detector.min_size'"),
    "dotted": ("detector.min_size: 3", "there is no field 'detector.min_size'"),
    "a flag of the command": ("config: /dev/zero", "there is no field 'config'"),
    "a list as key": ("? [1, 2]\n: a", "there is no field 'a sequence'"),
    "a long key": ("k" * 500 + ": 1", "there is no field 'kkk"),
    "control characters": ('"\\e[31m\\n": 1', r"there is no field '\x1b[31m\n'"),
    "deep": ("model: " + "[" * 30_000, "more than 8 levels"),
    "deep mappings": ("{a: " * 10_000, "more than 8 levels"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(200)), "more than 8 levels"),
    "a list": ("- a\n- b", "must have lines such as `epochs: 10`, and it holds a list"),
    "a word": ("hello", "holds a single value"),
    "a number": ("3", "holds a single value"),
    "empty": ("", "holds nothing"),
    "a comment": ("# nothing", "holds nothing"),
    "null": ("~", "holds a single value"),
    "two documents": ("model: a\n---\nmodel: b", "single document"),
    "latin-1": ("output: été".encode("latin-1"), "must be UTF-8, and its byte 8 is not"),
    "utf-16": ("model: a".encode("utf-16"), "must be UTF-8, and its byte 0 is not"),
    "a null byte": (b"model: a\0", "unacceptable character"),
    "a tab": ("model: a\n\toutput: b", "line 2"),
    "unclosed": ("model: [a", "(line 1)"),
    "no such character": ('model: "\\UFFFFFFFF"', "must be one YAML document"),
    "huge": (b"# x\n" * (MAX_BYTES // 4) + b"model: a", "at most 64 kB, and it is larger"),
    "a million digits": (b"epochs: " + b"9" * 1_000_000, "at most 64 kB, and it is larger"),
    "many digits": ("epochs: " + "9" * 60_000, "epochs must be a whole number; got 999"),
    "many digits in hexadecimal": ("epochs: 0x" + "f" * 60_000, "epochs must be a whole number; got 0xfff"),
    "not a number": ("lr: .nan", "line 1: lr must be a number or null; got .nan"),
    "infinite": ("lr: -.inf", "lr must be a number or null; got -.inf"),
    "beyond all numbers": ("lr: 1e999", "lr must be a number or null; got 1e999"),
    "a date": ("lr: 2024-01-01", "lr must be a number or null; got 2024-01-01"),
    "minutes": ("epochs: 1:30", "epochs must be a whole number; got 1:30"),
    "Norway": ("opt: no", "opt must be text; got no: put it in quotes"),
    "off": ("sched: off", "sched must be one of 'cosine', 'multistep'; got off"),
    "null where there must be something": ("epochs: null", "epochs must be a whole number; got null"),
    "a section that is none": ("detector: /dev/zero", "detector must be a section of fields; got /dev/zero"),
    "a class for a section": ("detector: {class_path: os.system}", "there is no field 'detector.class_path'"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "part"), ATTACKS.values(), ids=ATTACKS)
def test_a_hostile_recipe_is_refused(recipe, content, part, tally, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert part in refusal(recipe(content))
    assert sorted(os.listdir(tmp_path)) == ["recipe.yaml"]
    tally["inputs"] += 1


def test_the_code_is_live(recipe, monkeypatch, tmp_path):
    """An unrestricted loader does run it: the test above would see it."""
    monkeypatch.chdir(tmp_path)
    yaml.unsafe_load(ATTACKS["a call"][0])
    assert (tmp_path / "canary").exists()


VALUES = (
    "7",
    "-1.5",
    "true",
    "no",
    "null",
    "text",
    "'7'",
    "[1, 2]",
    "[a, b]",
    "[]",
    "[[1]]",
    "{a: 1}",
    "2024-01-01",
    "''",
)


def leaves(settings, prefix=""):
    for item in fields(settings):
        kind = get_type_hints(settings)[item.name]
        if is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, kind


@pytest.mark.parametrize("settings", [TrainConfig, CompareConfig])
def test_wrong_types_in_every_field(recipe, settings, tally):
    """PyYAML and the annotations are the truth about what each value is and whether the field may have it."""
    for name, kind in leaves(settings):
        section, _, last = name.rpartition(".")
        for text in VALUES:
            plain = text if text == "2024-01-01" else yaml.safe_load(text)
            value = tuple(plain) if isinstance(plain, list) else plain
            path = recipe(f"{section}:\n  {last}: {text}\n" if section else f"{last}: {text}\n")
            if is_of(value, kind):
                assert read_recipe(path, settings) == {name: value}
            else:
                assert f"line {2 if section else 1}: {name} must be " in refusal(path, settings)
            tally["inputs"] += 1


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbflr: 1e-4\nmodel: 2024-01-01\n",
        b"lr: 1e-4\r\nmodel: 2024-01-01\r\n",
        b"{lr: 0.0001, model: 2024-01-01}",
    ],
    ids=["byte order mark", "lines of Windows", "one line"],
)
def test_what_editors_do(recipe, content):
    assert read_recipe(recipe(content), TrainConfig) == {"lr": 1e-4, "model": "2024-01-01"}


def test_what_yaml_makes_of_every_recipe_of_the_package():
    """Values are PyYAML's, an independent reading, but for numbers like 1e-4."""
    for path in RECIPES:
        settings = CompareConfig if "models" in (content := yaml.safe_load(path.read_text())) else TrainConfig
        for name, value in read_recipe(path, settings).items():
            section, _, last = name.rpartition(".")
            expected = (content[section] if section else content)[last]
            expected = float(expected) if isinstance(value, float) else expected
            assert (list(value) if isinstance(value, tuple) else value) == expected


def test_a_printed_configuration_is_a_recipe_and_holds_the_values_of_one(recipe, capsys, tmp_path):
    path = recipe("model: a\noutput: 'no'\nlr: 1e-4\ndecay_milestones: [1, 2]\ndetector: {min_size: [3, 4]}\n")
    assert main(["train", "--config", str(path), "--epochs=7", "--print_config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    config = parse_settings(TrainConfig, [f"--config={printed}"], command="attnorm train", recipe=True)
    assert config == parse_settings(TrainConfig, ["--epochs=7", "--config", str(path)], command="x", recipe=True)
    assert (config.output, config.lr, config.epochs, config.detector.min_size) == ("no", 1e-4, 7, (3, 4))


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "dangling"])
def test_what_is_no_file(tmp_path, kind):
    """None is opened: a pipe would wait for ever."""
    path = tmp_path / "recipe.yaml"
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
        "dangling": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    assert "config must be a recipe, a YAML file, and there is " in refusal(path)


def test_the_command_exits_with_2(recipe, tmp_path):
    """In a process of its own, which may not take more than 2 GB or 60 s."""
    path = recipe(ATTACKS["a call"][0] + "\noutput: run\n")
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)); import sys; "
    code += "from attnorm.cli import main; sys.exit(main(['train', '--config', sys.argv[1]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"attnorm: error: {path}, line 1: a recipe must be plain fields")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["recipe.yaml"]


SEEDS = [path.read_bytes() for path in RECIPES[:3]] + [
    content if isinstance(content, bytes) else content.encode() for content, _ in ATTACKS.values() if len(content) < 500
]
PIECES = (
    b"!!python/name:os.system |&a |*a|[|{|}|? |: |- |\n|  |>\n|'|\"\\x|"
    b"%YAML 9|---\n|\xff|\0|#|null|.nan|detector:\n  |epochs: "
).split(b"|")


@fuzzed(300)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 20), st.sampled_from(PIECES)), max_size=6),
    tail=st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace"))),
)
def test_any_recipe_is_refused_or_means_something(tmp_path, seed, changes, tail, tally):
    """Pieces of YAML in the place of others: either all values are of their fields' types, or one line says why not."""
    content = bytearray(seed)
    for at, length, piece in changes:
        content[at : at + length] = piece
    path = tmp_path / "recipe.yaml"
    path.write_bytes(bytes(content) + tail)
    tally["inputs"] += 1
    try:
        values = read_recipe(path, TrainConfig)
    except ConfigError:
        refusal(path)
        return
    kinds = dict(leaves(TrainConfig))
    assert all(is_of(value, kinds[name]) for name, value in values.items())
