"""A profile against a simulated machine, whose clock and meter only the networks move, and counts by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attnorm.cli import main
from attnorm.detection.config import DetectorConfig
from attnorm.errors import ConfigError, JobError
from attnorm.evidence import interleaved, profile, profile_energy, profile_networks
from attnorm.evidence.meters import NoMeterError
from attnorm.evidence.profile import profile_models
from attnorm.evidence.profile_config import ProfileConfig
from attnorm.models import create_model
from attnorm.training.checkpoint import CheckpointMeta, save_checkpoint
from tests.evidence.simulated import CLASSES, MACHINE, SIDE
from tests.training.narrow_detectors import shrink

HERE = "tests.evidence.simulated"
QUICK, SLOW = f"{HERE}:quick", f"{HERE}:slow"
PIXELS = 3 * SIDE * SIDE
PARAMETERS = CLASSES * PIXELS + CLASSES


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and energy are those of the simulated machine."""
    monkeypatch.setattr(interleaved, "time", MACHINE)
    monkeypatch.setattr(profile_energy, "time", MACHINE)
    monkeypatch.setattr(profile, "meter_for", lambda _: MACHINE)


def config(**settings: Any) -> ProfileConfig:
    given = {"models": f"{QUICK},{SLOW}", "batch_size": "2", "image_size": SIDE, "rounds": 8, "device": "cpu"}
    return ProfileConfig(**{**given, **settings})


def test_times_are_those_of_the_clock(simulated: None):
    """10 and 40 ms in inference, 30 and 120 ms in training, all of it in the forward pass; batches of 2 and 5."""
    result = profile_models(config(batch_size="2,5", energy_seconds=0))
    assert [(case["mode"], case["batch_size"]) for case in result["cases"]] == [
        *(("inference", 2), ("inference", 5)),
        *(("training", 2), ("training", 5)),
    ]
    for case in result["cases"]:
        factor = 1 if case["mode"] == "inference" else 3
        for name, tick in ((QUICK, 10), (SLOW, 40)):
            row = case["networks"][name]
            assert row["latency_ms"] == dict.fromkeys(("median", "p95", "low", "high"), pytest.approx(tick * factor))
            assert row["images_per_second"] == pytest.approx(case["batch_size"] * 1000 / (tick * factor), rel=1e-3)
            assert row["rounds"] == row["calls"] == 8
        assert case["networks"][SLOW]["ratio"] == pytest.approx({"median": 4, "low": 4, "high": 4, "rounds": 8})
    phases = result["cases"][-1]["networks"][QUICK]["phases_ms"]
    assert phases == pytest.approx({"forward": 30, "backward": 0, "update": 0})


def test_p95_is_of_single_calls(simulated: None, monkeypatch: pytest.MonkeyPatch):
    """21 calls of 1 to 21 ms: 95% of the way through their order lies the one of 20 ms."""
    lengths = iter([0.001] * 2 + [k / 1000 for k in range(1, 22)])
    timed = interleaved.Interleaved({"a": lambda: _tick(next(lengths))}, sample_s=0)
    timed.run(21)
    times = profile._times(timed, "a", "a", profile.cases(config())[0])  # pyright: ignore
    assert times["latency_ms"] == {"median": 11.0, "p95": 20.0, "low": 6.0, "high": 16.0}


def _tick(seconds: float):
    MACHINE.sleep(seconds)
    yield "only"


def test_energy_is_net_of_rest_and_per_image(simulated: None):
    """Per batch of 2, 10 ms at 100 W above rest: 0.5 J an image; 40 ms at 50 W: 1 J. At rest 50 W."""
    result = profile_models(config(mode="inference", energy_seconds=0.6))
    assert result["energy"]["meter"] == {
        "name": "a simulated meter",
        "covers": "a simulated machine",
        "idle_watts": 50.0,
    }
    quick, slow = (result["cases"][0]["networks"][name]["energy"] for name in (QUICK, SLOW))
    assert quick["joules_per_image"] == pytest.approx(0.5)
    assert (quick["watts"], quick["watts_with_idle"]) == pytest.approx((100, 150))
    assert slow["joules_per_image"] == pytest.approx(1.0)
    assert slow["joules_per_image_with_idle"] == pytest.approx(2.0)
    assert slow["ratio"]["median"] == pytest.approx(2.0)


def test_without_a_meter_energy_is_null_with_the_reason(simulated: None, monkeypatch: pytest.MonkeyPatch):
    def none(_: torch.device) -> None:
        raise NoMeterError("there is no counter")

    monkeypatch.setattr(profile, "meter_for", none)
    result = profile_models(config(mode="inference"))
    assert result["energy"] == {"meter": None, "why_not": "no meter on this machine: there is no counter"}
    assert "energy" not in result["cases"][0]["networks"][QUICK]


def test_memory_by_hand(simulated: None):
    """A linear layer on 2 images.

    There before: weights, images, labels, in training the momentum. Highest in inference: the logits beside them.
    Kept for backward: the images, which the layer needs, and of the loss the logarithms of the probabilities, the
    labels and the sum of the classes' weights.
    """
    result = profile_models(config(models=QUICK, energy_seconds=0))
    inference, training = (case["networks"][QUICK] for case in result["cases"])
    batch = 2 * PIXELS * 4 + 2 * 8
    assert inference["held_bytes"] == PARAMETERS * 4 + batch
    assert inference["peak_bytes"] == inference["held_bytes"] + 2 * CLASSES * 4
    assert training["held_bytes"] == 2 * PARAMETERS * 4 + batch
    assert training["peak_bytes"] >= training["held_bytes"] + PARAMETERS * 4  # the gradients
    assert training["saved_bytes"] == 2 * PIXELS * 4 + 2 * CLASSES * 4 + 2 * 8 + 4


def test_counts_by_hand(simulated: None):
    """A linear layer: a MAC for each weight, nothing else."""
    result = profile_models(config(models=QUICK, mode="inference", energy_seconds=0))
    (model,) = result["models"]
    assert (model["parameters"], model["macs"]) == (PARAMETERS, CLASSES * PIXELS)
    assert model["operations"] == {"elements": {}, "elementwise": 0, "paper": CLASSES * PIXELS}
    assert result["images"] == {"channels": 3, "size": SIDE, "num_classes": CLASSES, "detection": False}


def test_what_cannot_be_measured_says_why_and_the_others_go_on(simulated: None):
    refusing = f"{HERE}:refusing_training"
    result = profile_models(config(models=f"{refusing},{QUICK}", energy_seconds=0.6))
    inference, training = result["cases"]
    assert "failed" not in inference["networks"][refusing]
    assert training["networks"][refusing] == {"failed": "ValueError: there is no training", "energy": None}
    assert training["networks"][QUICK]["latency_ms"]["median"] == pytest.approx(30)
    assert training["networks"][QUICK]["ratio"] is None  # there is no first to compare with
    with pytest.raises(JobError, match="not one network could be measured; the first: ValueError: there is no train"):
        profile_models(config(models=refusing, mode="training"))


def test_what_cannot_be_counted_says_why(simulated: None):
    name = f"{HERE}:uncounted"
    (model,) = profile_models(config(models=name, mode="inference", energy_seconds=0))["models"]
    assert model["macs"] is model["operations"] is None
    assert model["not_counted"].startswith("every operation must be in the counting convention, and aten._fft")


def test_every_case_is_measured_once(simulated: None):
    result = profile_models(
        config(models=QUICK, mode="inference", dtype="float32,bfloat16", channels_last=True, energy_seconds=0)
    )
    found = [(case["dtype"], case["channels_last"], case["compiled"]) for case in result["cases"]]
    assert found == [("float32", False, False), ("bfloat16", False, False), ("float32", True, False),
                     ("bfloat16", True, False)]  # fmt: skip


def test_a_detector_is_measured_on_images_with_objects(monkeypatch: pytest.MonkeyPatch):
    """A narrow one. The operations of its heads are counted too: RoIAlign reads 2 x 2 samples in each of 7 x 7 bins."""
    shrink(monkeypatch)
    for setting in ("train_proposals", "test_proposals"):
        monkeypatch.setitem(DetectorConfig.__init__.__kwdefaults__, setting, 16)
    name = "faster_rcnn_test_resnet_fpn"
    settings = {"models": name, "batch_size": "1", "image_size": 64, "rounds": 6, "seconds": 0, "device": "cpu"}
    result = profile_models(ProfileConfig(**settings, energy_seconds=0))
    (model,) = result["models"]
    proposals, rest = divmod(model["operations"]["elements"]["RoIAlign"], 8 * 16 * 7 * 7 * 2 * 2)  # 16 channels
    assert 1 <= proposals <= 16
    assert rest == 0
    assert model["not_counted"] is None
    for case in result["cases"]:
        row = case["networks"][name]
        assert row["peak_bytes"] > row["held_bytes"] > 4 * model["parameters"]
        assert row["images_per_second"] == pytest.approx(1000 / row["latency_ms"]["median"], rel=1e-3)


def test_the_command_writes_json_and_a_picture(simulated: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """JSON is what the function gives; the table has the simulated numbers; every setting is in the file."""
    file, plot = tmp_path / "new" / "profile.json", tmp_path / "profile.png"
    flags = [
        "--models",
        f"{QUICK},{SLOW}",
        "--rounds",
        "6",
        "--batch-size",
        "2",
        "--image-size",
        str(SIDE),
        "--energy-seconds",
        "0.6",
    ]
    arguments = [*flags, "--per-layer", "--accuracy", f"{QUICK}=70,{SLOW}=71.5", "--device", "cpu"]
    assert main(["profile", *arguments, "--plot", str(plot), "--json", str(file)]) == 0
    out = capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["format"] == "attnorm-profile"
    assert result["config"]["accuracy"] == f"{QUICK}=70,{SLOW}=71.5"
    assert set(result["config"]) == set(ProfileConfig.__dataclass_fields__)
    assert result["command"].startswith("attnorm profile --models")
    assert result["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "convention" in result
    assert [model["accuracy"] for model in result["models"]] == [70.0, 71.5]
    assert [layer["macs"] for layer in result["models"][0]["layers"] if layer["name"] == "linear"] == [CLASSES * PIXELS]
    assert "4.00 [4.00, 4.00]" in out
    assert "a simulated meter, of a simulated machine; 50.0 W at rest" in out
    assert max(map(len, out.splitlines())) <= 140
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--models", "resnet8_cifra"], 2, "did you mean resnet8_cifar"),
        (["--models", "resnet18,resnet18"], 2, "models must be named once each; got resnet18 more than once"),
        (["--models", ","], 2, "models must name at least one"),
        (["--models", "a", "--batch-size", "1,x"], 2, "batch_size must be whole numbers from 1, separated by commas"),
        (["--models", "a", "--batch-size", "0"], 2, "batch_size must be whole numbers from 1"),
        (["--models", "a", "--dtype", "float8"], 2, "dtype must be of float32, bfloat16, float16, separated by commas"),
        (["--models", "a", "--rounds", "5"], 2, "rounds must be at least 6"),
        (["--models", "a", "--plot", "x.svg"], 2, "plot must end in .png; got x.svg"),
        (["--models", "a", "--accuracy", "a=3"], 2, "accuracy is for the plot"),
        (["--models", "a", "--accuracy", "b=3", "--plot", "x.png"], 2, "accuracy must be of the networks in models"),
        (["--models", "a", "--accuracy", "a=x", "--plot", "x.png"], 2, "accuracy must be name=value pairs in percent"),
        (["--models", "a", "--accuracy", "a=101", "--plot", "x.png"], 2, "accuracy must be name=value pairs in perce"),
        (["--models", "mask_rcnn_resnet18_fpn", "--torchcompile"], 2, "torchcompile is for classification networks"),
        (["--models", "faster_rcnn_test_resnet_fpn", "--image-size", "16"], 2, "image_size must be at least 32"),
        (["--models", f"resnet8_cifar,{HERE}:nothing"], 2, f"{HERE} has none of the name nothing"),
        (["--models", f"{HERE}:not_a_function"], 2, "must be a function"),
        (["--models", "no.such:function"], 2, "no.such cannot: ModuleNotFoundError"),
        (["--models", f"{HERE}:raising"], 1, "must give a network when called without arguments, and raised ValueErr"),
        (["--models", f"{HERE}:giving_text"], 1, "must give a torch.nn.Module; got str"),
        (["--models", f"{HERE}:giving_maps"], 1, "must give logits (N, classes) for images (N, C, H, W); got a tensor"),
        (["--models", QUICK], 1, "must take images of (3, 224, 224), and raised RuntimeError"),
        (["--models", "resnet8_cifar,resnet18"], 2, "resnet8_cifar is for 32 pixels, resnet18 for 224"),
        (
            ["--models", "test_resnet,faster_rcnn_test_resnet_fpn"],
            2,
            "models must all be detectors or all be classificatio",
        ),
        (["--models", "missing.safetensors"], 1, "there is no file missing.safetensors"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *arguments, "--device", "cpu"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert part in err


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "profile.json"):
        assert main(["profile", "--models", "resnet8_cifar", "--json", str(path)]) == 2
        assert "json must be a file that can be written; got" in capsys.readouterr().err


def test_a_failing_job_leaves_no_json(simulated: None, tmp_path: Path):
    file = tmp_path / "profile.json"
    flags = ["--models", f"{HERE}:refusing_training", "--image-size", str(SIDE), "--mode", "training"]
    assert main(["profile", *flags, "--json", str(file)]) == 1
    assert list(tmp_path.iterdir()) == []


def test_float16_needs_a_cuda_device():
    with pytest.raises(ConfigError, match="float16"):
        profile_models(config(dtype="float16"))


FLAGS = """
    accuracy batch_size channels_last convention device dtype energy_seconds image_size in_chans json mode models
    num_classes per_layer plot rounds seconds torchcompile
"""


def test_flags_are_frozen():
    assert sorted(ProfileConfig.__dataclass_fields__) == FLAGS.split()


def test_a_checkpoint_brings_its_images_classes_and_accuracy(tmp_path: Path):
    """One of grey images of 28 pixels with 5 classes; a network given by name is built for the same images."""
    network = create_model("resnet8_cifar", num_classes=5, in_chans=1)
    meta = CheckpointMeta(
        model="resnet8_cifar", num_classes=5, in_chans=1, classes=tuple("abcde"), dataset="made_up", image_size=28,
        mean=(0.5,), std=(0.5,), crop_pct=1.0, interpolation="bilinear", metrics={"top1": 61.5},
    )  # fmt: skip
    path = str(tmp_path / "best.safetensors")
    save_checkpoint(path, network, meta)
    models = f"{path},resnet20_cifar"
    with pytest.raises(ConfigError, match=r"best.safetensors is for 28 pixels, resnet20_cifar for 32: say which"):
        profile_models(ProfileConfig(models=models, device="cpu"))
    settings = {"mode": "inference", "batch_size": "1", "rounds": 6, "seconds": 0, "energy_seconds": 0}
    result = profile_models(ProfileConfig(models=models, image_size=28, device="cpu", **settings))
    assert result["images"] == {"channels": 1, "size": 28, "num_classes": 5, "detection": False}
    assert [model["num_classes"] for model in result["models"]] == [5, 10]
    assert [model["accuracy"] for model in result["models"]] == [61.5, None]
    assert result["models"][0]["parameters"] == sum(p.numel() for p in network.parameters())


def test_torchvisions_networks_by_name():
    """A prefix and no module of one's own; torchvision's ResNet-18 has the parameters of timm's."""
    networks, images = profile_networks.build(config(models="torchvision:resnet18,resnet18", image_size=64))
    counts = [sum(p.numel() for p in network.model.parameters()) for network in networks]
    assert counts == [11_689_512] * 2
    assert [network.num_classes for network in networks] == [1000, 1000]
    assert images.size == 64
