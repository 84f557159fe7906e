"""What a run leaves to go on from, however it was stopped: by signals, by damage, by a full disk."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnorm.errors import CheckpointError, JobError
from attnorm.files import replacing
from attnorm.training import module as module_file
from attnorm.training.config import TrainConfig
from attnorm.training.evaluation import Tally
from attnorm.training.loop import fit
from attnorm.training.resume import read_state, states
from tests.fuzz import NIGHTLY

from .runs import Stopped, assert_same_weights, newest, stop_at, timeless, weights


def numbers(record):
    return [timeless(row) for row in record.history]


def send_at(patch, kind, name, place, number):
    """Sends this process a signal when a method is called for the time that `place` names, counted from 1."""
    original, calls = getattr(kind, name), [0]

    def method(*arguments, **named):
        calls[0] += 1
        if calls[0] == place:
            os.kill(os.getpid(), number)
        return original(*arguments, **named)

    patch.setattr(kind, name, method)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two epochs of ten batches, never stopped; the evaluation has eight batches."""
    output = tmp_path_factory.mktemp("whole") / "run"
    config = TrainConfig(
        model="resnet8_cifar_an",
        dataset="digits",
        output=str(output),
        epochs=2,
        batch_size=100,
        lr=0.05,
        mixup=0.2,
        drop=0.2,
        model_ema=True,
        model_ema_decay=0.9,
    )
    return config, fit(config, quiet=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("kind", "name", "place", "batches"),
    [
        (module_file.TrainModule, "training_step", 3, 3),
        (module_file.TrainModule, "training_step", 10, 10),
        (Tally, "add", 2, 10),
        (module_file.TrainModule, "take_train_means", 1, 10),
        (Tally, "add", 10, 20),
    ],
    ids=["batch", "last batch of an epoch", "evaluation", "end of an epoch", "last evaluation"],
)
def test_a_signal_saves_at_once_and_the_run_goes_on(whole, tmp_path, kind, name, place, batches, number):
    """Preemption: no batch that was trained is trained again, nor is an evaluation waited for."""
    config, expected = whole
    broken = replace(config, output=str(tmp_path / "run"))
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        send_at(patch, kind, name, place, number)
        with pytest.raises(
            JobError, match=rf"stopped by {number.name} after .*{batches:08d}\.ckpt was saved; --resume"
        ):
            fit(broken, quiet=True)
    assert signal.getsignal(number) == before
    assert newest(broken.output).name == f"resume-{batches:08d}.ckpt"
    trained = []
    with pytest.MonkeyPatch.context() as patch:
        original = module_file.TrainModule.training_step
        patch.setattr(
            module_file.TrainModule, "training_step", lambda *given: trained.append(given[2]) or original(*given)
        )
        record = fit(replace(broken, resume="auto"), quiet=True)
    assert len(trained) == 20 - batches
    assert numbers(record) == numbers(expected)
    for weight in ("last", "best"):
        assert_same_weights(weights(broken, weight), weights(config, weight))


def test_the_last_few_states_are_kept(whole, tmp_path):
    """recovery_interval 3, 10 batches an epoch: states at 3, 6, 9, 10, 13, ...; of all these the last three stay."""
    config = replace(whole[0], output=str(tmp_path / "run"), recovery_interval=3, checkpoint_hist=3)
    fit(config, quiet=True)
    assert [path.name for path in states(Path(config.output))] == [f"resume-{n:08d}.ckpt" for n in (20, 19, 16)]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": flip,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another program": lambda path: torch.save({"state_dict": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_named_and_passed_over(whole, tmp_path, monkeypatch, capfd, damage):
    config, expected = whole
    broken = replace(config, output=str(tmp_path / "run"), recovery_interval=3)
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 7)
        with pytest.raises(Stopped):
            fit(broken, quiet=True)
    last, before = states(Path(broken.output))
    DAMAGE[damage](last)
    record = fit(replace(broken, resume="auto", progress="plain"))
    said = [line for line in capfd.readouterr().err.splitlines() if last.name in line]
    assert len(said) == 1
    assert said[0].endswith(f"; going on from {before.name}")
    assert numbers(record) == numbers(expected)
    assert_same_weights(weights(broken), weights(config))


def test_where_all_are_damaged_nothing_is_trained_anew_by_itself(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"), resume="auto")
    Path(config.output).mkdir()
    for batches in (10, 20):
        (Path(config.output) / f"resume-{batches:08d}.ckpt").write_bytes(b"PK damaged")
    with pytest.raises(
        CheckpointError, match=r"00000020\.ckpt must be .*00000010\.ckpt must be .*to start anew"
    ) as error:
        fit(config, quiet=True)
    assert "\n" not in str(error.value)


def test_weights_without_a_state_are_not_trained_over(whole, tmp_path):
    """As in a folder of version 0.1, or one whose states were removed to save room."""
    config = replace(whole[0], output=str(tmp_path / "run"), resume="auto")
    Path(config.output).mkdir()
    weights_file = Path(config.output) / "last.safetensors"
    weights_file.write_bytes(b"somebody's")
    with pytest.raises(CheckpointError, match=r"weights without one; name another output, and give --initial-check"):
        fit(config, quiet=True)
    assert weights_file.read_bytes() == b"somebody's"


def equal(a, b):
    """Whether two states are the same, tensors bit for bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_no_damage_goes_unnoticed(whole, tmp_path, tally, kind):
    """A state with a byte changed, or cut short anywhere, is refused, or is the same state all the same."""
    source = newest(whole[0].output)
    content, expected = source.read_bytes(), torch.load(source, weights_only=True)
    draw = random.Random(f"{kind}{'nightly' if NIGHTLY else ''}")
    path = tmp_path / "resume-00000020.ckpt"
    for _ in range(3000 if NIGHTLY else 60):
        place = draw.randrange(len(content))
        damaged = bytearray(content[:place] if kind == "cut" else content)
        if kind == "flip":
            damaged[place] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        tally["damaged states"] += 1
        try:
            read_state(path)
        except CheckpointError:
            continue
        assert equal(torch.load(path, weights_only=True), expected), f"byte {place}"


@pytest.fixture
def little_room():
    """Lets this process write files of no more than so many bytes, as a disk that is nearly full does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("file", ["resume", "safetensors"])
def test_a_full_disk_stops_the_run_and_leaves_the_state_before(whole, tmp_path, little_room, file):
    """For real: the system refuses to write. Then there is room again, and the run ends as if nothing had been."""
    config, expected = whole
    broken = replace(config, output=str(tmp_path / "run"))
    size = (
        {"resume": newest(config.output), "safetensors": Path(config.output) / "last.safetensors"}[file].stat().st_size
    )
    if file == "resume":
        with pytest.raises(JobError, match=r"have room for resume-00000020\.ckpt, and has not; .* free some space"):
            fit(broken, quiet=True, on_epoch=lambda row: little_room(size // 2))
    else:  # the states are larger than the weights: only the weights of the first epoch find no room
        original = Tally.result
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tally, "result", lambda self: (little_room(size // 2), original(self))[1])
            with pytest.raises(JobError, match=r"have room for last\.safetensors, and has not; .* free some space"):
                fit(broken, quiet=True)
    little_room(resource.RLIM_INFINITY)
    left = {path.name for path in Path(broken.output).iterdir()}
    assert not [name for name in left if name.endswith(".part")]
    assert read_state(newest(broken.output)).batches == 10
    record = fit(replace(broken, resume="auto"), quiet=True)
    assert numbers(record) == numbers(expected)
    assert_same_weights(weights(broken), weights(config))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_named_whatever_library_hides_it(tmp_path, code):
    """As torch.save does, whose own error has another type and says nothing of the disk."""

    def write():
        with replacing(tmp_path / "state"):
            try:
                raise OSError(code, os.strerror(code))
            except OSError as error:
                raise RuntimeError("unexpected pos 64") from error

    with pytest.raises(JobError, match="must have room for state"):
        write()
    assert list(tmp_path.iterdir()) == []


def hostile_states(whole, folder):
    """By what is wrong with them: files that are whole zip archives, and no state that a run would write."""
    source = newest(whole.output)
    with zipfile.ZipFile(source) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("/data.pkl"))
    nested = b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 64  # a pair of a pair of a pair of ...: 2^64 hashes
    doors = {
        "a key without end": {**entries, name: b"\x80\x02}" + nested + b"Ns."},
        "a set without end": {**entries, name: b"\x80\x04\x8f(" + nested + b"\x90."},
        "a call": {**entries, name: b"cposix\nsystem\n(X\x04\x00\x00\x00truetR."},
        "nothing of a run": {**entries, name: b"\x80\x02}."},
    }
    for title, content in doors.items():
        with zipfile.ZipFile(folder / "resume-00000020.ckpt", "w") as archive:
            for entry, data in content.items():
                archive.writestr(entry, data)
        yield title
    with zipfile.ZipFile(folder / "resume-00000020.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    yield "a bomb"


def test_a_hostile_state_is_refused_and_nothing_of_it_is_run(whole, tmp_path, tally):
    """Within seconds, too: torch's own restricted reader would hash the nested key for ever."""
    for title in hostile_states(whole[0], tmp_path):
        with pytest.raises(CheckpointError, match="must be the resume state") as error:
            read_state(tmp_path / "resume-00000020.ckpt")
        assert "\n" not in str(error.value), title
        tally["hostile states"] += 1


def wait_until(holds):
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


COMMAND = "train --model resnet8_cifar --dataset digits --epochs 200 --batch-size 100 --workers 2 --device cpu"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_readers_outlive_a_signal_to_all_processes(tmp_path, number):
    """As torchrun and SLURM send it. Without care the readers die, and the run with them, before its state is saved."""
    output = tmp_path / "run"
    run = subprocess.Popen(
        [sys.executable, "-m", "attnorm.cli", *COMMAND.split(), "--output", str(output)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_until(lambda: states(output))
    readers = children(run.pid)
    assert len(readers) >= 2  # those of the evaluation may be there too
    for reader in readers:  # a little before, so that the run has the time to notice
        os.kill(reader, number)
    before = read_state(newest(output)).batches
    wait_until(lambda: run.poll() is not None or max(states(output)).name > f"resume-{before + 20:08d}")
    if run.poll() is None:
        os.killpg(run.pid, number)
    _, said = run.communicate(timeout=120)
    assert (run.returncode, said.splitlines()[-1].count(f"stopped by {number.name} after ")) == (1, 1), said
    with pytest.raises(ProcessLookupError):  # no process of the group is left
        os.killpg(run.pid, 0)
    assert read_state(newest(output)).batches > 0
