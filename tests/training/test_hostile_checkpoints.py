"""Checkpoints that a stranger made, by every door: one line that names the file, nothing run, memory and time bounded.

Pickles instruction by instruction are in tests/parity/test_released_pickles.py, resume states in test_resume.py.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnorm
from attnorm.cli import main
from attnorm.errors import CheckpointError
from attnorm.inert_pickle import UnreadableError
from attnorm.models import create_model
from attnorm.models.released import pickles
from attnorm.models.transfer import take_weights
from attnorm.training.checkpoint import KEY, CheckpointMeta, load_checkpoint, read_meta, save_checkpoint
from attnorm.training.config import TrainConfig
from attnorm.training.loop import fit
from tests.data.apart import apart
from tests.fuzz import fuzzed
from tests.training.refusing import refusals
from tests.training.test_checkpoint import META, refusal

CPU = {"device": "cpu", "progress": "none"}


@pytest.fixture(scope="module")
def good():
    """The bytes of a checkpoint: its header as a dictionary, and what comes behind."""
    torch.manual_seed(0)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"attnorm-{os.getpid()}.safetensors"
    save_checkpoint(path, create_model(META.model, num_classes=3, in_chans=1), META)
    content = path.read_bytes()
    path.unlink()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, numbers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


@pytest.fixture
def file(tmp_path, good):
    """Writes a checkpoint with another content, or another attnorm header."""

    def write(content=None, **changes):
        header, numbers = good
        meta = {"format": "pt", KEY: json.dumps({**asdict(META), **changes})}
        path = tmp_path / "net.safetensors"
        path.write_bytes(joined({**header, "__metadata__": meta}, numbers) if content is None else content)
        return path

    return write


PICTURE = str(next((Path(__file__).parents[2] / "docs" / "images").glob("*.png")))
DOORS = {
    "eval": lambda path, output: ["eval", "--checkpoint", path, "--dataset", "digits", "--device", "cpu"],
    "predict": lambda path, output: ["predict", "--checkpoint", path, "--input", PICTURE, "--output", output],
    "inspect": lambda path, output: ["inspect", "--checkpoint", path, "--dataset", "digits", "--output", output],
    "train": lambda path, output: [
        "train", "--model", "resnet8_cifar", "--initial-checkpoint", path, "--output", output, "--epochs", "1",
        "--device", "cpu",
    ],
    "resume": lambda path, output: ["train", "--model", "resnet8_cifar", "--resume", path, "--output", output],
    "convert": lambda path, output: ["convert", "--input", path, "--output", output + ".safetensors"],
    "swap": lambda path, output: ["swap", "--model", "resnet8_cifar", "--weights", path,
                                  "--output", output + ".safetensors"],
    "profile": lambda path, output: ["profile", "--checkpoint", path],
}  # fmt: skip


class Call:
    """Pickles as a call that leaves a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def payloads(trace):
    """Files whose reading by an unrestricted unpickler leaves `trace`."""
    call, weight = Call(trace), torch.ones(2)
    for zipped in (True, False):
        for name, content in {
            "alone": call,
            "beside": {"state_dict": {"fc.weight": weight}, "hook": call},
            "within": {"fc.weight": call},
            "as a key": {"state_dict": {"fc.weight": weight}, "x": {"y": [({"z": call},)]}},
        }.items():
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            yield f"{'zip' if zipped else 'legacy'}, {name}", file.getvalue()
    yield "a plain pickle", pickle.dumps(call)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(("storage", call), 2))
        archive.writestr("archive/data/0", pickle.dumps(call))
        archive.writestr("archive/code/data.pkl", pickle.dumps(call))
    yield "in every record", outer.getvalue()


@pytest.mark.parametrize("door", DOORS)
def test_no_door_of_the_command_line_runs_a_pickle(tmp_path, door, capfd, tally):
    trace = tmp_path / "ran"
    for name, content in payloads(trace):
        path = tmp_path / "net.pth"
        path.write_bytes(content)
        code = main(DOORS[door](str(path), str(tmp_path / "output")))
        assert code in (1, 2), name
        error = capfd.readouterr().err
        assert error.startswith("attnorm: error: "), name
        assert error.count("\n") == 1, name
        assert str(path) in error or "checkpoint" in error, name
        assert "please report" not in error, name
        assert sorted(os.listdir(tmp_path)) == ["net.pth"], name
        tally["inputs"] += 1


def test_the_payloads_are_live(tmp_path):
    """An unrestricted unpickler does run each: the test above would see it."""
    for name, content in payloads(tmp_path / "ran"):
        if name == "in every record":
            continue
        load = pickle.loads if name == "a plain pickle" else lambda c: torch.load(io.BytesIO(c), weights_only=False)
        load(content)
        (tmp_path / "ran").rmdir()


NO_FILES = {
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "endless noise": lambda path: path.symlink_to("/dev/urandom"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a loop of links": lambda path: (path.symlink_to(path.parent / "other"), (path.parent / "other").symlink_to(path)),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file(tmp_path, kind, capfd, tally):
    path = tmp_path / "net.safetensors"
    NO_FILES[kind](path)
    assert read_meta(path) is None
    for door in DOORS:
        assert main(DOORS[door](str(path), str(tmp_path / "output"))) in (1, 2)
        error = capfd.readouterr().err
        assert error.startswith("attnorm: error: ")
        assert error.count("\n") == 1
        assert "net.safetensors" in error
        tally["inputs"] += 1
    with pytest.raises(CheckpointError, match="must be a file"):
        attnorm.load_released(path)


def test_a_link_to_a_checkpoint_is_one(file, tmp_path):
    (tmp_path / "link.safetensors").symlink_to(file())
    assert load_checkpoint(tmp_path / "link.safetensors")[1] == META


def test_cut_off_anywhere(file, good, tally):
    """At every 64th byte, by both readers."""
    model = create_model(META.model, num_classes=3, in_chans=1)
    path = file(joined(*good))
    for end in reversed(range(0, path.stat().st_size, 64)):
        os.truncate(path, end)
        refusal(path)
        if end % 512 == 0:
            with pytest.raises(CheckpointError, match=r"net\.safetensors"):
                take_weights(model, path)
        tally["inputs"] += 1


def absurd(header):
    """Headers of safetensors that cannot be meant."""
    name = next(key for key in header if key.endswith("conv1.weight"))
    entry = header[name]
    for field, values in {
        "data_offsets": ([-4, 4], [0, 1 << 60], [4, 8], [8, 4], [0], [0.5, 1], "0,4", None, [1 << 64, 1 << 65]),
        "dtype": ("F99", "f32", 3, None, "I64", "F64", "BOOL"),
        "shape": ([1 << 40, 1 << 40], [-1], [1.5], [], [0, 1 << 62], "16", None, {"a": 1}, [1 << 70], [1] * 100_000),
    }.items():
        for value in values:
            yield {**header, name: {**entry, field: value}}
    yield {**header, name: [entry]}
    yield {**header, "more": entry}
    yield {key: value for key, value in header.items() if key != name}
    yield b"[" * 1_000_000
    yield b'{"a":' * 1_000_000
    yield b'{"a":"' + b"x" * 100_000_001 + b'"}'
    yield json.dumps(header).encode()[:-1]
    yield b"\xff" * 1000
    yield b""


def test_absurd_headers(file, good, tally):
    header, numbers = good
    for changed in absurd(header):
        message = refusal(file(joined(changed, numbers)))
        assert len(message) < 700
        assert message.isprintable()
        tally["inputs"] += 1
    for length in (1 << 63, (1 << 64) - 1, 1 << 40, 0, 7):
        refusal(file(struct.pack("<Q", length) + joined(*good)[8:]))
        tally["inputs"] += 1


VALUES = (
    None, True, -1, 0, 1 << 70, 10**4000, 1.5, float("nan"), float("inf"), "", "x" * 100_000, "\x1b[2J\n",
    [], [1], ["a", None], [[]], {}, {"a": []},
)  # fmt: skip


def test_wrong_values_in_every_field_of_our_header(file, tally):
    """Refused, or a header whose fields are of their types, as the network itself is unchanged."""
    for name in asdict(META):
        for value in VALUES:
            tally["inputs"] += 1
            path = file(**{name: value})
            try:
                _, meta = load_checkpoint(path)
            except CheckpointError:
                message = refusal(path)
                assert len(message) < 700
                assert message.isprintable()
                continue
            assert meta.model == META.model
            assert getattr(meta, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": "hf-hub:some/where"}, "nothing is fetched from for a file"),
        ({"model": "local-dir:/etc"}, "nothing is fetched from for a file"),
        ({"model": "local-dir:/etc:norm=an"}, "nothing is fetched from for a file"),
        ({"image_size": 1 << 20}, "must be at most 8192 pixels"),
        ({"crop_pct": float("nan")}, "crop_pct must be above 0 and at most 1"),
        ({"interpolation": "sinc"}, "interpolation one of"),
        ({"classes": ["a"] * 4}, "classes must be no more than num_classes, 3; there are 4"),
        ({"format_version": "1"}, "format_version must be int"),
        ({"format_version": 10**4000}, "has header version 100000"),
        ({"provenance": [1]}, "provenance must be dict"),
    ],
)
def test_what_a_header_must_not_ask_for(file, changes, part):
    message = refusal(file(**changes))
    assert part in message
    assert len(message) < 700


LARGE = (
    {"model": "vit_giant_patch14_224"},
    {"model": "resnet8_cifar_an:num_components=1000000000"},
    {"in_chans": 100_000, "mean": [0.5] * 100_000, "std": [0.5] * 100_000},
    {"model": "mask_rcnn_resnet18_fpn", "num_classes": 3, "category_ids": [1, 2], "classes": ["a", "b"],
     "detector": {"fpn_channels": 1 << 20}},
)  # fmt: skip


def test_networks_that_would_fill_the_memory(file, tmp_path, tally):
    """In a process that may take 1 GB more than it begins with, for a file of some kilobytes."""
    paths = [file(**changes).rename(tmp_path / f"{i}.safetensors") for i, changes in enumerate(LARGE)]
    for message in apart(refusals, paths, memory=1 << 30).value:
        assert "does not fit the network" in message
        tally["inputs"] += 1


@pytest.mark.parametrize(
    "text", ["[" * 500_000, '{"a":' * 500_000, '{"format_version":' + "9" * 100_000 + "}", "nul\0l", ""]
)
def test_texts_that_are_no_json(good, file, text):
    header, numbers = good
    message = refusal(file(joined({**header, "__metadata__": {KEY: text}}, numbers)))
    assert "the attnorm header of" in message
    assert len(message) < 500


def test_the_last_of_two_entries_of_a_name_counts_and_must_fit(file, good):
    """The rule of safetensors; the numbers of both lie within the file."""
    header, numbers = good
    name = next(key for key in header if key.endswith("conv1.weight"))
    again = {name: {**header[name], "shape": [144]}}
    refusal(file(joined(json.dumps(header).encode()[:-1] + b"," + json.dumps(again).encode()[1:], numbers)))


def test_weights_that_are_not_finite_are_loaded_and_the_evaluation_says_so(tmp_path, capfd):
    """What was saved is what is loaded; a number that means nothing is not printed."""
    model = create_model("resnet8_cifar", num_classes=10, in_chans=1)
    with torch.no_grad():
        model.conv1.weight.fill_(float("nan"))
    meta = {
        **asdict(META),
        "model": "resnet8_cifar",
        "num_classes": 10,
        "classes": tuple("0123456789"),
        "image_size": 8,
    }
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, model, CheckpointMeta(**meta))
    loaded, _ = load_checkpoint(path)
    assert loaded.conv1.weight.isnan().all()
    assert main(["eval", "--checkpoint", str(path), "--dataset", "digits", "--device", "cpu"]) == 0
    assert "loss not finite" in capfd.readouterr().out


def test_a_data_set_that_a_file_names_is_not_fetched(file, capfd):
    assert main(["eval", "--checkpoint", str(file(dataset="hfds:some/where")), "--device", "cpu"]) == 2
    assert "dataset must be given: " in capfd.readouterr().err


def test_a_network_from_a_folder_is_saved_by_the_name_that_needs_none(tmp_path):
    """Or its checkpoint could be used where the folder is alone."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(json.dumps({"architecture": "resnet8_cifar", "num_classes": 10}))
    config = TrainConfig(
        model=f"local-dir:{tmp_path / 'hub'}:norm=an", output=str(tmp_path / "run"), epochs=1, batch_size=512, **CPU
    )
    fit(config)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].model == "resnet8_cifar:norm=an"


@fuzzed(300)
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.binary(max_size=9), st.sampled_from(
            [b"-1", b"1e999", b"[[[[", b"}}", b'"shape":[]', b'\\"', b"null", b"NaN", b"\\\\ud800", b"9" * 30]))),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_any_damage_to_a_header_is_refused_or_harmless(file, good, edits, tally):
    """Bytes of the two headers, one within the other, replaced: what still loads is the network that it says it is."""
    header, numbers = good
    text = bytearray(json.dumps(dict(sorted(header.items()))).encode())
    for place, length, piece in edits:
        at = int(place * len(text))
        text[at : at + length] = piece
    path = file(joined(bytes(text), numbers))
    tally["inputs"] += 1
    try:
        model, meta = load_checkpoint(path)
    except CheckpointError:
        refusal(path)
        return
    assert model.num_classes == meta.num_classes
    assert sum(value.numel() * value.element_size() for value in model.state_dict().values()) == len(numbers)


def saved_pickles():
    """The pickles of checkpoints of either form, and pieces that attack."""
    content = {"state_dict": {"a": torch.ones(3), "b": torch.nn.Parameter(torch.ones(2, 2))}, "epoch": 3, "meta": [1.5]}
    file = io.BytesIO()
    torch.save(content, file)
    yield zipfile.ZipFile(file).read("archive/data.pkl")
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    yield file.getvalue()[file.getvalue().index(b"\x80\x02}q", 20) :]
    yield pickle.dumps(content["meta"] * 3, 4)


PIECES = (
    b"cos\nmkdir\n|(X\x03\x00\x00\x00ranR|\x93|i|o|\x81|\x92|R|b|Q|\x82\x01|h\x00|q\x00|j\xff\xff\xff\xff|2\x86|e|u|.|"
    b"ctorch._utils\n_rebuild_tensor_v2\n|X\x07\x00\x00\x00storage|\x8d\xff\xff\xff\xff\xff\xff\xff\x7f|I9999\n|\x94"
).split(b"|")


@fuzzed(300)
@given(
    seed=st.sampled_from(list(saved_pickles())),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 6), st.one_of(st.binary(max_size=4), st.sampled_from(PIECES))),
        min_size=1, max_size=8,
    ),
)  # fmt: skip
def test_any_damage_to_a_pickle_is_refused_or_harmless(seed, edits, tally, tmp_path_factory):
    """What still reads is inert: containers, numbers, text and descriptions, and nothing was done."""
    content = bytearray(seed)
    for place, length, piece in edits:
        at = int(place * len(content))
        content[at : at + length] = piece
    tally["inputs"] += 1
    try:
        value, _ = pickles.load(io.BytesIO(bytes(content)))
    except UnreadableError:
        return
    kinds = {dict, list, tuple, str, bytes, bytearray, int, float, bool, type(None)}
    module = type(value).__module__
    assert type(value) in kinds or module in ("attnorm.inert_pickle", "attnorm.models.released.described")
    assert not os.path.exists("ran")
