"""The command line: what it takes, what it says when something is wrong, and with which exit code."""

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import attnorm
from attnorm import cli
from attnorm.cli import COMMANDS, main
from attnorm.data.coco_config import DETECTION, CocoConfig
from attnorm.detection.config import DetectorConfig
from attnorm.errors import ConfigError
from attnorm.options import normalise, parse_settings
from attnorm.training.config import TrainConfig
from attnorm.training.use_config import EvalConfig, ModelsConfig, PredictConfig

DETECTOR = ["train", "--model", "mask_rcnn_resnet18_fpn", "--dataset", "shapes", "--output", "o"]
RECIPES = sorted((Path(__file__).parents[1] / "configs" / "quickstart").glob("*.yaml"))

# A flag is a promise: scripts and recipes rely on it. Adding one is a decision, and so is a line here.
TRAIN_FLAGS = """
    aa amp amp_dtype augment batch_size channels_last checkpoint_hist clip_grad coco crop_pct cutmix data_dir dataset
    decay_milestones decay_norm decay_rate detector device drop drop_path dry_run epochs grad_accum_steps image_size
    in_chans init initial_checkpoint interpolation log_interval log_tensorboard log_wandb lr lr_base lr_base_scale
    lr_base_size max_bad_images min_lr mixup model model_ema model_ema_decay momentum nesterov num_classes opt output
    pretrained progress recovery_interval reprob resume sched seed shard_window smoothing strategy sync_bn torchcompile
    train_split val_split warmup_epochs warmup_iters warmup_lr weight_decay workers
"""
EVAL_FLAGS = """
    amp amp_dtype annotations backend batch_size channels_last checkpoint crop_pct data_dir dataset device id_dir
    image_size images interpolation iou_type json max_bad_images outlier_score per_category predictions restrict_classes
    save_predictions val_split workers
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a finished run on the digits."""
    output = tmp_path_factory.mktemp("cli") / "run"
    flags = ["--model", "resnet8_cifar_an", "--dataset", "digits", "--epochs", "2", "--batch-size", "64", "--lr", "0.1"]
    assert main(["train", *flags, "--data-dir", "unused", "--output", str(output), "--resume", "auto"]) == 0
    return output


@pytest.fixture
def said(capsys):
    """Runs a command that must fail; gives its exit code and its one line."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("attnorm: ")
        return code, lines[0]

    return call


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_top_level_help_imports_nothing_heavy(arguments):
    """What makes the help slow is torch (seconds) and above; so that is looked for, not a time."""
    heavy = "{'torch', 'lightning', 'timm', 'numpy', 'jsonargparse', 'matplotlib', 'yaml'}"
    code = f"import sys; from attnorm.cli import main; code = main({arguments}); "
    done = python(code + f"print(sorted({heavy} & set(sys.modules))); sys.exit(code)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_command_help_imports_no_framework(command):
    heavy = "{'torch', 'lightning', 'timm', 'torchvision', 'matplotlib'}"
    code = f"import sys; from attnorm.cli import main; code = main([{command!r}, '--help']); "
    done = python(code + f"print(sorted({heavy} & set(sys.modules))); sys.exit(code)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"usage: attnorm {command}")
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_and_version(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert [
        name for name in ("models", "train", "eval", "predict", "convert", "compare") if f"  {name} " not in text
    ] == []
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"attnorm {attnorm.__version__}\n"


def test_flags_are_frozen():
    assert sorted(item.name for item in fields(TrainConfig)) == TRAIN_FLAGS.split()
    assert sorted(item.name for item in fields(EvalConfig)) == EVAL_FLAGS.split()
    assert sorted(item.name for item in fields(PredictConfig)) == (
        ["checkpoint", "device", "input", "output", "score_threshold"]
    )
    assert sorted(item.name for item in fields(ModelsConfig)) == ["describe", "filter", "json", "plot"]


def test_flags_are_shown_with_dashes_and_explained(capsys):
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--batch-size BATCH_SIZE images per process and step" in text
    assert "--batch_size" not in text
    for item in fields(TrainConfig):
        names = [item.name]
        if is_dataclass(item.type):
            names = [f"{item.name}.{field.name}" for field in fields(item.type)]
        assert [name for name in names if f"--{name.replace('_', '-')} " not in text] == []


def test_both_spellings_and_switches():
    switches = frozenset({"amp", "sync_bn"})
    given = [
        "--data-dir",
        "my-dir/a_b",
        "--amp",
        "--sync-bn",
        "false",
        "--no-amp",
        "--lr=1e-3",
        "--amp=true",
        "--sync_bn",
    ]
    assert normalise(given, switches) == [
        *("--data_dir", "my-dir/a_b", "--amp=true", "--sync_bn", "false", "--amp=false", "--lr=1e-3", "--amp=true"),
        "--sync_bn=true",
    ]


def test_a_recipe_gives_values_and_flags_override_them(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 7\nlr: 0.3\namp: true\nmodel: resnet8_cifar\n")
    arguments = ["--config", str(recipe), "--lr", "1e-3", "--output", "x", "--no-amp"]
    config = parse_settings(TrainConfig, arguments, command="attnorm train", recipe=True)
    assert config == TrainConfig(model="resnet8_cifar", output="x", epochs=7, lr=1e-3)


def test_print_config_is_a_recipe(tmp_path, capsys):
    assert main(["train", "--model", "m", "--output", "o", "--mixup", "0.2", "--print_config"]) == 0
    recipe = tmp_path / "printed.yaml"
    recipe.write_text(capsys.readouterr().out)
    config = parse_settings(TrainConfig, ["--config", str(recipe)], command="attnorm train", recipe=True)
    assert config == TrainConfig(model="m", output="o", mixup=0.2)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_accepted(path):
    from attnorm.evidence.config import CompareConfig, check_compare
    from attnorm.training.checks import check_recipe

    content = yaml.safe_load(path.read_text())
    if "models" in content:
        check_compare(parse_settings(CompareConfig, ["--config", str(path)], command="attnorm compare", recipe=True))
    else:
        network = "mask_rcnn_resnet18_fpn" if content["dataset"] in DETECTION else "m"
        named = [] if "model" in content else ["--model", network]
        flags = ["--config", str(path), *named, "--output", "o"]
        check_recipe(parse_settings(TrainConfig, flags, command="attnorm train", recipe=True))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], f"the command must be one of {', '.join(COMMANDS)}; got 'trian'"),
        (["train"], "required: model"),
        (["train", "--model", "m"], "required: output"),
        (["train", "--model", "m", "--output", "o", "--epoch", "3"], "unrecognized arguments: --epoch"),
        (["train", "--model", "m", "--output", "o", "--epochs", "1.5"], "epochs: must be of type int, got 1.5"),
        (["train", "--model", "m", "--output", "o", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["train", "--model", "m", "--output", "o", "--dataset", "digit"], "dataset must be one of digits"),
        (["train", "--model", "m", "--output", "o", "--lr", "0.1", "--lr-base", "0.1"], "lr and lr_base exclude"),
        ([*DETECTOR, "--detector.box-head", "3fc"], "detector.box_head: must be one of '2fc', '4conv1fc', got 3fc"),
        ([*DETECTOR, "--detector.box-norm", "gn"], "detector.box_norm gn needs convolutions: take box_head 4conv1fc"),
        ([*DETECTOR, "--detector.min-size", "x"], "detector.min_size: must be one of int, [int, ...], got x"),
        ([*DETECTOR, "--detector.head", "x"], "unrecognized arguments: --detector.head"),
        ([*DETECTOR, "--coco.jitter-size", "9"], "coco.jitter_size must be at least 32 pixels; got 9"),
        ([*DETECTOR, "--decay-milestones", "16,22"], "decay_milestones: must be a list such as [1,2], got 16,22"),
        (["train", "--model", "resnet8_cifra", "--output", "no/where"], "did you mean resnet8_cifar"),
        (["train", "--model", "m", "--output", "o", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["eval"], "a checkpoint, or annotations and predictions, must be given; got neither"),
        (["eval", "--checkpoint", "x", "--batch-size", "0"], "batch_size must be at least 1"),
        (["models", "--filter", "vgg*"], "'vgg*' matches none"),
        (["models", "--describe", "aognet_13m"], "got 'aognet_13m': did you mean aognet_12m"),
        (["models", "--describe", "resnet18", "--json", "x"], "describe shows one network, resnet18"),
        (["models", "--describe", "mask_rcnn_resnet18_an_fpn"], "mask_rcnn_resnet18_an_fpn is one: give resnet18_an,"),
        (["models", "--plot", "x.png"], "plot draws the network that describe names, and it names none"),
        (["models", "--describe", "aognet_12m", "--plot", "x.jpg"], "plot must end in .png or .svg; got x.jpg"),
        (["models", "--describe", "resnet8_cifar", "--plot", "x.png"], "resnet8_cifar has no graph to draw"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_exit_with_2(said, arguments, part):
    code, line = said(*arguments)
    assert code == 2
    assert part in line
    assert not Path("no").exists()


def test_a_recipe_with_an_unknown_field(said, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 3\nlearning_rate: 0.1\n")
    code, line = said("train", "--config", recipe, "--model", "resnet8_cifar", "--output", tmp_path / "run")
    assert code == 2
    assert "no field 'learning_rate'" in line
    assert not (tmp_path / "run").exists()


def test_sections_from_a_recipe_and_from_flags(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("detector:\n  min_size: [64, 96]\n  box_head: 4conv1fc\ncoco:\n  augment: lsj\n")
    flags = ["--config", str(recipe), *DETECTOR[1:], "--detector.max-size", "128", "--no-coco.aspect-grouping"]
    config = parse_settings(TrainConfig, flags, command="attnorm train", recipe=True)
    assert config.detector == DetectorConfig(min_size=(64, 96), max_size=128, box_head="4conv1fc")
    assert config.coco == CocoConfig(augment="lsj", aspect_grouping=False)


def folder_of_images(root, parts=("train", "val"), classes=("cat", "dog"), count=3):
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def break_nothing(root):
    return root / "nothing"


def break_empty(root):
    (root / "empty").mkdir()
    return root / "empty"


def break_class(root):
    for path in (folder_of_images(root) / "train" / "dog").iterdir():
        path.unlink()
    return root


def break_image(root):
    """One truncated image, and no patience with it."""
    path = folder_of_images(root) / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:300])
    return root


@pytest.mark.parametrize("damage", [break_nothing, break_empty, break_class, break_image], ids=lambda f: f.__name__)
def test_bad_data_exit_with_1_and_leave_no_result(tmp_path, capfd, damage):
    data, output = damage(tmp_path), tmp_path / "run"
    flags = ["--dataset", "folder", "--data-dir", str(data), "--image-size", "32", "--max-bad-images", "0"]
    flags += ["--batch-size", "6", "--epochs", "1", "--model", "resnet8_cifar", "--output", str(output)]
    assert main(["train", *flags]) == 1
    err = capfd.readouterr().err
    assert err.splitlines()[-1].startswith("attnorm: error: ")
    assert "Traceback" not in err
    assert str(data) in err
    assert not (output / "record.json").exists()
    assert not list(tmp_path.rglob("*.safetensors")) + list(tmp_path.rglob("*.part"))


def test_a_checkpoint_of_another_architecture(said, run, tmp_path):
    content = (run / "last.safetensors").read_bytes()
    wrong = tmp_path / "wrong.safetensors"
    # Another name of the same length in the header: a file that somebody mixed up.
    wrong.write_bytes(content.replace(b"resnet8_cifar_an", b"resnet8_cifar_se"))
    answer = tmp_path / "answer.json"
    code, line = said("eval", "--checkpoint", wrong, "--json", answer)
    assert code == 1
    assert "belongs to another architecture" in line
    assert not answer.exists()


def test_other_classes_than_the_checkpoint_has(said, run, tmp_path):
    folder_of_images(tmp_path / "data")
    flags = ["--dataset", "folder", "--data-dir", tmp_path / "data"]
    code, line = said("eval", "--checkpoint", run / "last.safetensors", *flags)
    assert code == 1
    assert "must have the 10 classes" in line
    assert "it has 2" in line


def test_a_loss_that_is_not_finite(tmp_path, capsys):
    output = tmp_path / "run"
    flags = ["--model", "resnet8_cifar", "--output", str(output), "--epochs", "2", "--lr", "1e35", "--progress", "none"]
    assert main(["train", *flags]) == 1
    line = capsys.readouterr().err
    assert line.startswith("attnorm: error: the loss must stay finite")
    assert "at step " in line
    assert "learning rate " in line
    assert not (output / "record.json").exists()


def test_eval_repeats_the_number_of_the_run(run, tmp_path, capsys):
    answer = tmp_path / "answer.json"
    assert main(["eval", "--checkpoint", str(run / "best.safetensors"), "--json", str(answer)]) == 0
    result, record = json.loads(answer.read_text()), json.loads((run / "record.json").read_text())
    assert (result["top1"], result["count"], result["dataset"]) == (record["best_top1"], 797, "digits")
    assert f"top-1 {record['best_top1']:.2f}" in capsys.readouterr().out


def test_predict_names_classes_and_draws_them(run, tmp_path, capsys):
    from sklearn.datasets import load_digits

    digits, images = load_digits(), tmp_path / "images"
    (images / "more").mkdir(parents=True)
    right = digits.images[:3]
    for name, image in zip(("a.png", "b.png", "more/a.png"), right, strict=True):
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(images / name)
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:60])
    (images / "notes.txt").write_text("not an image")
    output = images / "out"
    for _ in range(2):  # its own pictures are not taken for images the second time
        assert main(["predict", "--checkpoint", str(run / "last.safetensors"), "--input", str(images),
                     "--output", str(output)]) == 1  # fmt: skip
        assert "1 of 4 images could not be read" in capsys.readouterr().err
    result = json.loads((output / "predictions.json").read_text())
    assert [item["image"] for item in result["predictions"]] == [
        str(images / n) for n in ("a.png", "b.png", "more/a.png")
    ]
    assert result["unreadable"] == [str(images / "broken.png")]
    for item in result["predictions"]:
        assert [entry["probability"] for entry in item["top"]] == sorted(
            (e["probability"] for e in item["top"]), reverse=True
        )
        assert len(item["top"]) == 5
        assert sum(entry["probability"] for entry in item["top"]) <= 1 + 1e-6
        assert Image.open(output / item["picture"]).size == (800, 360)


def test_predictions_are_the_evaluation_part_s(run, tmp_path):
    """An image file of a test digit gets the logits that `eval` gives it."""
    import torch

    from attnorm.data import DataConfig, load_data
    from attnorm.training.checkpoint import load_checkpoint
    from attnorm.training.objective import prepare_images
    from attnorm.training.predict import ClassPredictor, classify

    model, meta = load_checkpoint(run / "last.safetensors")
    pixels, _ = load_data(DataConfig(dataset="digits"), parts=("val",)).val[5]
    Image.fromarray(pixels[0].numpy()).save(tmp_path / "digit.png")
    shown, read = ClassPredictor(model, meta).read(tmp_path / "digit.png")
    assert torch.equal(read, pixels)
    assert shown.size == (8, 8)
    with torch.no_grad():
        expected = model(prepare_images(pixels[None], torch.tensor(meta.mean), torch.tensor(meta.std)))[0].softmax(0)
    for entry in classify(model, read, meta, torch.device("cpu")):
        assert entry["probability"] == pytest.approx(expected[entry["class"]].item(), rel=1e-6)
        assert entry["label"] == str(entry["class"])


@pytest.mark.parametrize("target", ["nothing", "folder"])
def test_predict_without_images(said, run, tmp_path, target):
    (tmp_path / "folder").mkdir()
    output = tmp_path / "out"
    code, line = said(
        "predict", "--checkpoint", run / "last.safetensors", "--input", tmp_path / target, "--output", output
    )
    assert code == 1
    assert str(tmp_path / target) in line
    assert not output.exists()


def raising(monkeypatch, error):
    def command(arguments):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "train", (command, ""))


def test_an_interrupt_has_its_own_code(said, monkeypatch):
    raising(monkeypatch, KeyboardInterrupt())
    assert said("train") == (130, "attnorm: interrupted")


def test_an_interrupt_in_the_middle_of_training(tmp_path, capsys, monkeypatch):
    from attnorm.training import module

    def step(self, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.TrainModule, "training_step", step)
    assert main(["train", "--model", "resnet8_cifar", "--output", str(tmp_path / "run"), "--progress", "none"]) == 130
    assert capsys.readouterr().err == "attnorm: interrupted\n"


def test_an_error_of_the_program_is_one_line_too(said, monkeypatch):
    raising(monkeypatch, ZeroDivisionError("a\nb"))
    code, line = said("train")
    assert code == 1
    assert "ZeroDivisionError: a b" in line


@pytest.mark.parametrize("error", [ConfigError("wrong"), ZeroDivisionError("oh")])
def test_debug_shows_the_traceback(monkeypatch, error):
    raising(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["train", "--debug"])


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [(["--epochs", "0"], 2, "epochs must be"), (["--dataset", "folder", "--data-dir", "/nowhere"], 1, "/nowhere")],
)
def test_as_a_program(tmp_path, flags, code, part):
    """In a process of its own: the code and one line, with nothing of the libraries around it."""
    command = [
        sys.executable,
        "-m",
        "attnorm.cli",
        "train",
        "--model",
        "resnet8_cifar",
        "--output",
        str(tmp_path / "run"),
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert part in done.stderr
    assert not (tmp_path / "run").exists()
