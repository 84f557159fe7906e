"""A checkpoint's pickle is data: whatever it asks for, nothing of it is run, imported or allocated."""

import collections
import contextlib
import copyreg
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from attnorm import inert_pickle
from attnorm.errors import CheckpointError
from attnorm.inert_pickle import Name, Opaque, UnreadableError
from attnorm.models.released import pickles, read_released
from attnorm.models.released.described import TensorEntry

TRACE = "ATTNORM_TEST_TRACE"
SHELL = f"touch ${TRACE}"
PYTHON = f"__import__('pathlib').Path(__import__('os').environ['{TRACE}']).touch()"


def ran(*_):
    """What a payload would call if the reader called anything: it leaves a file."""
    Path(os.environ[TRACE]).touch()


@pytest.fixture(autouse=True)
def trace(monkeypatch, tmp_path):
    """The file that a payload would leave; no test may leave it."""
    path = tmp_path / "payload_ran"
    monkeypatch.setenv(TRACE, str(path))
    monkeypatch.setattr(torch.hub, "load", ran)
    yield path
    assert not path.exists()


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class WithState:
    """Has a __setstate__ that must not be called."""

    def __init__(self):
        self.value = 1

    def __setstate__(self, state):
        ran()


def load(content):
    return pickles.load(io.BytesIO(content))[0]


_SHELL, _PYTHON = f"S'{SHELL}'\n".encode(), f'S"{PYTHON}"\n'.encode()
LIVE = {
    "os.system": pickle.dumps(Call(os.system, SHELL), 2),
    "GLOBAL and REDUCE": b"cposix\nsystem\n(" + _SHELL + b"tR.",
    "builtins.eval": b"cbuiltins\neval\n(" + _PYTHON + b"tR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + _SHELL + b"\x85R.",
    "INST": b"(" + _SHELL + b"iposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\n" + _SHELL + b"o.",
    "getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(" + _SHELL + b"tR.",
    "reduce nested in the arguments": pickle.dumps(Call(collections.OrderedDict, [("a", Call(os.system, SHELL))]), 2),
    "a callable made by a call": b"cfunctools\npartial\n(cposix\nsystem\n" + _SHELL + b"tR)R.",
    "a dotted name below an allowed module": b"\x80\x04ccollections\n_sys.modules.__class__\n0cos\nsystem\n"
    + _SHELL
    + b"\x85R.",
    "__setstate__": pickle.dumps(WithState(), 2),
}
DORMANT = {
    "NEWOBJ": b"\x80\x02cposix\nsystem\n" + _SHELL + b"\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04cposix\nsystem\n" + _SHELL + b"\x85}\x92.",
    "__import__": pickle.dumps(Call(__import__, "this"), 2),
    "torch.hub.load": b"ctorch.hub\nload\n(S'a'\nS'b'\ntR.",
    "a dotted name that ends like an allowed one": b"cos\nsystem collections.OrderedDict\n)R.",
    "state for OrderedDict": b"ccollections\nOrderedDict\n)R}S'__class__'\ncbuiltins\neval\nsb.",
    "persistent id": _SHELL + b"Q.",
    "persistent id with a class": b"(S'module'\ncposix\nsystem\nS'f'\nS's'\nS'x'\ntQ.",
    "textual persistent id": b"Ptouch\n.",
}


@pytest.mark.parametrize("content", (LIVE | DORMANT).values(), ids=LIVE | DORMANT)
def test_nothing_is_run(content):
    """Each runs code in an ordinary unpickler, or would in a lenient one; here it leaves an inert object or nothing."""
    try:
        value = load(content)
    except UnreadableError:
        return
    assert isinstance(value, (Opaque, Name, dict))


@pytest.mark.parametrize("name", LIVE)
def test_the_payloads_are_live(name, trace):
    """Python's own unpickler does run them: the test above would see it."""
    pickle.loads(LIVE[name])
    assert trace.exists()
    trace.unlink()


def test_nothing_is_imported():
    """Naming a class must not import its module, which runs the module."""
    assert "this" not in sys.modules
    assert load(b"cthis\ns\n.") == Name("this.s")
    assert load(b"\x80\x04\x8c\x04this\x8c\x01s\x93)R.") == Opaque("this.s")
    assert "this" not in sys.modules


def test_registered_extensions_are_not_used(monkeypatch):
    """EXT codes name functions of the process's registry, past every check of names."""
    copyreg.add_extension("builtins", "eval", 0x7A)
    try:
        pickle.loads(b"\x82\x7a.")  # fills the cache from which C unpicklers take it without asking
        assert load(b"\x80\x02\x82\x7a" + _PYTHON + b"\x85R.") == Opaque("an extension")
    finally:
        copyreg.remove_extension("builtins", "eval", 0x7A)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x02]r\xff\xff\xff\xff.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
        b"I" + b"9" * 100_000 + b"\n.",
    ],
    ids=["text", "long text", "bytearray", "memo index", "frame", "integer", "digits"],
)
def test_claimed_sizes_take_no_memory(content):
    """A few bytes can claim 4 GB of text, or a memo slot that an array-based unpickler would allocate."""
    tracemalloc.start()
    with contextlib.suppress(UnreadableError):
        load(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_endless_programs_stop(monkeypatch):
    """A list that calls copy again and again grows the memory with the square of the file."""
    monkeypatch.setattr(inert_pickle, "MAX_WORK", 10_000)
    pairs = b"](" + b"K\x01K\x02\x86" * 1000 + b"eq\x00"
    copies = b"ccollections\nOrderedDict\nh\x00\x85R" * 1000
    with pytest.raises(UnreadableError, match="far more instructions"):
        load(b"\x80\x02" + pairs + copies + b".")


def test_nested_keys_are_not_hashed():
    """To hash a tuple of itself, forty levels deep, takes years; so does printing it."""
    deep = b"K\x01" + b"2\x86" * 64
    assert load(b"\x80\x02}" + deep + b"Ns.") == {}
    for content in (b"\x80\x04" + deep + b"\x8c\x01x\x93.", b"\x80\x02(X\x07\x00\x00\x00storage" + deep * 4 + b"tQ."):
        with pytest.raises(UnreadableError):
            load(content)


@pytest.mark.parametrize(
    "content", [b"", b".", b"]", b"K", b"\x80\x02e.", b"R.", b"h\x00.", b"\x80\x02Ns.", b"garbage"]
)
def test_damaged_pickles_are_refused(content):
    with pytest.raises(UnreadableError):
        load(content)


def test_random_damage_is_refused_or_harmless():
    """Any byte changed: either it reads as something else or it is refused, and never another exception."""
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(3), "b": torch.nn.Parameter(torch.ones(2, 2))}, "epoch": 3}, file)
    content = bytearray(zipfile.ZipFile(file).read("archive/data.pkl"))
    for position in range(len(content)):
        for value in (0, 0x28, 0x52, 0x62, 0x93, 0xFF):
            damaged = bytes(content[:position]) + bytes([value]) + bytes(content[position + 1 :])
            with contextlib.suppress(UnreadableError):
                load(damaged)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_are_those_of_pickle(protocol):
    """Python's own unpickler is the independent truth for everything that is not a call."""
    value = {
        "text": ["a", "é", ""],
        "numbers": (0, -1, 255, 65536, 2**40, -(2**70), 1.5, True, None),
        3: [[], {}, (), ("nested", {"x": [1, 2]})],
    }
    assert load(pickle.dumps(value, protocol)) == value
    same = ["shared"]
    first, second = load(pickle.dumps([same, same], protocol))
    assert first is second


@pytest.mark.parametrize("protocol", [2, 4])
def test_known_calls_are_those_of_pickle(protocol):
    numpy = pytest.importorskip("numpy")
    for value in (collections.OrderedDict(a=1, b=[2]), b"\x00\xff bytes", torch.Size([2, 3])):
        assert load(pickle.dumps(value, protocol)) == value
    assert load(pickle.dumps(numpy.float64(76.25), protocol)) == 76.25
    assert load(pickle.dumps(numpy.float32(0.5), protocol)) == 0.5
    assert load(pickle.dumps(numpy.int64(-3), protocol)) == -3


def test_a_set_and_unknown_objects_are_opaque():
    assert load(pickle.dumps([{1}, frozenset({2}), 1j], 4)) == [
        Opaque("a set"),
        Opaque("a set"),
        Opaque("builtins.complex"),
    ]


def test_a_python_2_pickle():
    """Python 2 wrote text as bytes and an OrderedDict with its pairs."""
    content = b"ccollections\nOrderedDict\n((lp1\n(S'epoch'\nI120\nlp2\natRp3\n."
    assert load(content) == {"epoch": 120}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "payload",
    [Call(os.system, SHELL), Call(eval, PYTHON), WithState(), Call(getattr, "", "join")],
    ids=["os.system", "eval", "__setstate__", "getattr"],
)
def test_payloads_in_whole_files(tmp_path, payload, legacy):
    """Beside the weights a payload is a foreign object; in the place of weights the file is refused."""
    for place in (
        {"state_dict": {"x": torch.ones(2)}, "loss_scaler": payload},
        payload,
        {"state_dict": {"x": payload}},
    ):
        path = tmp_path / "payload.pth.tar"
        torch.save(place, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError):
            read_released(path)


def test_tensors_are_described_not_read():
    file = io.BytesIO()
    torch.save({"a": torch.arange(6).reshape(2, 3).T}, file)
    (entry,) = load(zipfile.ZipFile(file).read("archive/data.pkl")).values()
    assert isinstance(entry, TensorEntry)
    assert (entry.shape, entry.stride, entry.offset, entry.dtype) == ((3, 2), (1, 3), 0, torch.int64)
