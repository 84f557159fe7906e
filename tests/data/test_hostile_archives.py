"""Archives that a stranger made: refused by name or harmless, nothing is written, memory and time stay bounded."""

import gzip
import io
import os
import pickle
import resource
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from attnorm.data import DataConfig, load_data
from attnorm.data.cifar_files import MAX_UNPACKED, find_files, read_batch, read_part
from attnorm.data.idx import read_idx
from attnorm.errors import DataError
from tests.data.apart import apart

NAME = "cifar-10-python.tar.gz"
TEST = "cifar-10-batches-py/test_batch"


def batch(**more):
    return {b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 20, **more}


def refusal(function, *arguments):
    """The message of a refusal: one line, not endless."""
    with pytest.raises(DataError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


# The machine that reads a batch.


ARRAY = (
    "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    "(I1\n{}cnumpy\ndtype\n(S'u1'\nI0\nI1\ntRI00\nS'{}'\ntb"
)
IMAGE = ARRAY.format("(I1\nI3072\nt", "x" * 3072)
BATCHES = {
    "a shape of any size": "(dS'data'\n" + ARRAY.format("(I1000000000000\nI3072\nt", "x") + "sS'labels'\n(lI1\nas.",
    "an array that is allocated": "(dS'data'\ncnumpy\nndarray\n((I1000000000000\nttRsS'labels'\n(ls.",
    "a shape of shapes": "(dS'data'\n" + ARRAY.format("I1\n" + "2\x86" * 64, "x") + "sS'labels'\n(ls.",
    "a label of many digits": f"(dS'data'\n{IMAGE}sS'labels'\n(lL{'9' * 4000}L\nas.",
    "a label that is a tuple of tuples": "(dS'labels'\n(lI1\n" + "2\x86" * 64 + "asS'data'\nNs.",
    "keys that take years to hash": "(dI1\n" + "2\x86" * 64 + "Ns.",
    "a place in a table of 64 GB": "]r\xff\xff\xff\xff.",
    "text of 4 EB": "\x80\x04\x8d" + struct.pack("<Q", 1 << 62).decode("latin-1") + "x.",
    "a call": "cposix\nsystem\n(S'touch ran'\ntR.",
    "a call in the place of the images": "(dS'data'\ncposix\nsystem\n(S'touch ran'\ntRsS'labels'\n(ls.",
    "a state for a class": "(dS'data'\n" + "cbuiltins\neval\n(S'1'\ntR}S'__class__'\nNsb" + "sS'labels'\n(ls.",
    "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("content", BATCHES.values(), ids=BATCHES)
def test_a_hostile_batch_is_refused(content, tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    assert "test_batch must " in refusal(read_batch, content.encode("latin-1"), "labels", "test_batch")
    assert os.listdir(tmp_path) == []
    tally["inputs"] += 1


def test_a_batch_cut_off_anywhere_is_refused(tally):
    content = pickle.dumps(batch(), protocol=2)
    for end in [*range(0, len(content), 997), *range(len(content) - 200, len(content))]:
        refusal(read_batch, content[:end], "labels", "test_batch")
        tally["inputs"] += 1


# Tar files of CIFAR.


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


GOOD = pickle.dumps(batch(), protocol=2)
END = bytes(1024)
SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
TARS = {
    "a name that leaves the folder": member("../cifar-10-batches-py/test_batch", GOOD) + END,
    "an absolute name": member("/tmp/test_batch", GOOD) + END,
    "a symbolic link": member(TEST, type=tarfile.SYMTYPE, linkname="/etc/passwd") + END,
    "a hard link outside": member(TEST, type=tarfile.LNKTYPE, linkname="../../etc/passwd") + END,
    "a link to itself": member(TEST, type=tarfile.SYMTYPE, linkname="test_batch") + END,
    "a device": member(TEST, type=tarfile.CHRTYPE, devmajor=1, devminor=5) + END,
    "a pipe": member(TEST, type=tarfile.FIFOTYPE) + END,
    "a folder": member(TEST, type=tarfile.DIRTYPE) + END,
    "larger than it is": member(TEST, size=1 << 62) + END,
    "of less than nothing": member(TEST, size=-512) + END,
    "a long name of 8 EB": member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1 << 62) + END,
    "a table of extensions of 8 EB": member("x", type=tarfile.XHDTYPE, size=1 << 62) + END,
    "extensions that are none": member("x", b"99999999999 path=a\n", type=tarfile.XHDTYPE) + member(TEST, GOOD) + END,
    "sparse": member("x", SPARSE, type=tarfile.XHDTYPE) + member(TEST, b"9" * 512) + END,
    "another folder": member("test_batch", GOOD) + END,
    "many members": member("a") * 1000 + member(TEST, GOOD) + END,
    "cut off": (member(TEST, GOOD) + END)[:30_000],
    "nothing": b"",
    "noise": bytes(range(256)) * 100,
}  # fmt: skip


@pytest.mark.parametrize("content", TARS.values(), ids=TARS)
def test_a_hostile_archive_of_cifar_is_refused(content, tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    for packed in (content, gzip.compress(content), gzip.compress(content)[:-9]):
        (tmp_path / NAME).write_bytes(packed)
        config = DataConfig(dataset="cifar10", data_dir=str(tmp_path))
        assert f"must hold {TEST}" in refusal(lambda config=config: load_data(config, parts=("val",)))
        tally["inputs"] += 1
    assert os.listdir(tmp_path) == [NAME]


def test_the_archive_is_otherwise_read(tmp_path):
    """Of two members of a name the first is meant; a member that leaves the folder is passed over."""
    other = pickle.dumps(batch(labels=[]), protocol=2)
    (tmp_path / NAME).write_bytes(
        gzip.compress(member("../evil", b"x") + member(TEST, GOOD) + member(TEST, other) + END)
    )
    data = load_data(DataConfig(dataset="cifar10", data_dir=str(tmp_path)), parts=("val",))
    assert len(data.val) == 20
    assert not (tmp_path.parent / "evil").exists()


# What unfolds: each in a process that may take 1 GB more than it begins with, and a minute.


def read(path):
    """The message of a refusal."""
    try:
        if "idx" in path.name:
            read_idx(path, 3)
        else:
            read_part(path, "cifar10", "test", find_files(path, "cifar10"))
    except DataError as error:
        return str(error)
    return "it was read"


def zeros(path, start, count):
    """A gzip file of `start` and so many zeros, in a thousandth of their size."""
    piece = gzip.compress(bytes(64 << 20), 1)
    path.write_bytes(gzip.compress(start) + piece * (count >> 26))
    return path


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1 << 33), "larger than it can be meant to be"),
        (member(TEST, size=1 << 29), "larger than it can be meant to be"),
        (member("other", size=3 << 30), "a member reaches to byte"),
    ],
    ids=["a long name", "the file", "a file before it"],
)
def test_an_archive_that_unfolds_is_refused(tmp_path, start, part, tally):
    path = zeros(tmp_path / NAME, start, MAX_UNPACKED // 2)
    assert part in apart(read, path, memory=1 << 30).value
    tally["inputs"] += 1


def test_an_idx_file_that_unfolds_is_refused(tmp_path, tally):
    """Its header says 10 images; no more than they take is unfolded."""
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 10, 28, 28)
    path = zeros(tmp_path / "x-idx3-ubyte.gz", header, 3 << 30)
    assert "must hold 7840 bytes after its header (10x28x28)" in apart(read, path, memory=1 << 30).value
    tally["inputs"] += 1


@pytest.mark.parametrize(
    "shape", [(1 << 31, 1 << 31, 1 << 31), (0xFFFFFFFF, 28, 28), (0, 28, 28), (11, 28, 28), (9, 28, 28)]
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_headers_that_lie(tmp_path, shape, packed, tally):
    content = struct.pack(">BBBBIII", 0, 0, 8, 3, *shape) + bytes(10 * 28 * 28)
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert "bytes after its header" in refusal(read_idx, path, 3)
    tally["inputs"] += 1


def test_an_idx_file_cut_off_anywhere_is_refused(tmp_path, tally):
    content = gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, 10, 28, 28) + os.urandom(10 * 28 * 28))
    path = tmp_path / "images.gz"
    for end in range(0, len(content), 64):
        path.write_bytes(content[:end])
        refusal(read_idx, path, 3)
        tally["inputs"] += 1


# Images in tar files.


def picture():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("content", [value for name, value in TARS.items() if name != "another folder"])
@pytest.mark.parametrize("dataset", ["tar:", "wds:"])
def test_hostile_tars_of_images(tmp_path, dataset, content, tally, monkeypatch):
    """Refused, or without an image; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.tar").write_bytes(content.replace(b"test_batch", b"aaaa/b.png") if content else content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(lambda: load_data(DataConfig(dataset=dataset, data_dir=str(tmp_path), image_size=8), parts=("train",)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # kB
    assert os.listdir(tmp_path) == ["train.tar"]
    tally["inputs"] += 1


def test_names_that_leave_the_folder_are_only_names(tmp_path):
    (tmp_path / "train.tar").write_bytes(
        member("../../cat/1.png", picture()) + member("/dog/2.png", picture())
        + member("dog/3.png", type=tarfile.SYMTYPE, linkname="/dev/zero") + END
    )  # fmt: skip
    data = load_data(DataConfig(dataset="tar:", data_dir=str(tmp_path), image_size=8), parts=("train",))
    assert data.classes == ("cat", "dog")
    assert len(data.train) == 2
    assert data.train[0][0].shape[-1] == 8
    assert os.listdir(tmp_path) == ["train.tar"]


@pytest.mark.parametrize("dataset", ["tar:", "wds:"])
def test_a_pipe_in_the_place_of_a_tar(tmp_path, dataset):
    os.mkfifo(tmp_path / "train.tar")
    assert "train.tar" in refusal(
        lambda: load_data(DataConfig(dataset=dataset, data_dir=str(tmp_path), image_size=8), parts=("train",))
    )
