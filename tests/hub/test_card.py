"""The model card says what the record says and nothing else; its code runs, and the hub's parser takes it."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from scipy.stats import binomtest

import attnorm
from attnorm.cli import main
from attnorm.errors import CheckpointError, ConfigError
from attnorm.models import create_model
from attnorm.recipes import read_recipe
from attnorm.training.checkpoint import save_checkpoint
from attnorm.training.config import TrainConfig, recorded
from attnorm.training.record import RunRecord
from tests.training.saved_detector import save_tiny_detector
from tests.training.test_checkpoint import META

CONFIG = TrainConfig(
    model="resnet8_cifar_an", dataset="folder", data_dir="/srv/me/secret", output="/srv/me/out", lr=0.03125
)
RECORD = RunRecord(
    model="resnet8_cifar_an",
    seed=17,
    config=recorded(CONFIG),
    data={"name": "folder", "train_images": 1234, "val_images": 400},
    history=[{"epoch": epoch, "top1": 80.0} for epoch in range(1, 7)]
    + [{"epoch": 7, "top1": 91.25, "top5": 100.0, "val_loss": 0.5}, {"epoch": 8, "top1": 90.0}],
    metrics={"top1": 90.0},
    metric="top1",
    best=91.25,
    best_epoch=7,
    params=77_777,
    seconds_per_epoch=12.34,
    images_per_second=5678.9,
    processes=2,
    versions={"python": "3.11.7", "torch": "2.15.0"},
    git={"commit": "0123456789abcdef", "dirty": True},
    environment={"device": "NVIDIA H100", "processor": "EPYC"},
)


@pytest.fixture
def run(tmp_path):
    """The output of a run: a checkpoint and its record."""
    meta = replace(META, metrics={"top1": 91.25, "top5": 100.0, "val_loss": 0.5})
    save_checkpoint(tmp_path / "run" / "best.safetensors", create_model(META.model, num_classes=3, in_chans=1), meta)
    RECORD.save(tmp_path / "run" / "record.json")
    return tmp_path / "run" / "best.safetensors"


def card_of(source, folder, **options):
    attnorm.save_pretrained(source, folder, **{"licence": "mit", **options})
    return ModelCard.load(folder / "README.md")


def test_every_number_is_the_records(run, tmp_path):
    card = card_of(run, tmp_path / "net", name="me/net")
    text = card.text
    low, high = binomtest(365, 400).proportion_ci(method="wilson")
    assert f"| top-1 accuracy | 91.25 | [{100 * low:.2f}, {100 * high:.2f}] | 400 images |" in text
    assert "| top-5 accuracy | 100.00 | [99.05, 100.00] | 400 images |" in text
    assert "1,234 images; 8 epochs, seed 17." in text
    assert "| training, an epoch (median) | 12.3 s on 2 × NVIDIA H100 |" in text
    assert "| training, images per second (median) | 5,679 |" in text
    assert "python 3.11.7, torch 2.15.0; commit 0123456789abcdef with uncommitted changes." in text
    assert "Epoch 7 of 8 was chosen by its results on these images" in text
    parameters = sum(p.numel() for p in create_model(META.model, num_classes=3, in_chans=1).parameters())
    assert f"| parameters | {parameters:,} |" in text
    assert "secret" not in text
    assert "/srv" not in text


def test_operations_are_counted_by_hand(tmp_path):
    """ResNet-8 on 8x8 grey images: the convolutions' products and the classifier's."""
    meta = replace(META, model="resnet8_cifar", image_size=8, metrics=None)
    model = create_model("resnet8_cifar", num_classes=3, in_chans=1)
    text = card_of(model, tmp_path / "net", meta=meta).text
    convolutions = 64 * 9 * 16 * (1 + 16 + 16)  # 8x8 maps, 16 channels
    convolutions += 16 * (9 * 32 * (16 + 32) + 16 * 32)  # 4x4 maps; the shortcut is 1x1
    convolutions += 4 * (9 * 64 * (32 + 64) + 32 * 64)  # 2x2 maps
    assert f"| multiply-accumulates for one image of 8×8 pixels | {convolutions + 64 * 3:,} |" in text
    assert "The run is not on record." in text
    assert "Nothing is on record." in text
    assert "nowhere in it" in text


def test_the_hubs_metadata(run, tmp_path):
    data = card_of(run, tmp_path / "net", name="me/net").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "timm", "image-classification")
    assert {"attnorm", "timm", "image-classification"} <= set(data.tags)
    assert data.model_name == "me/net"
    top1, top5 = data.eval_results
    low, high = binomtest(365, 400).proportion_ci(method="wilson")
    assert (top1.metric_type, top1.metric_value, top1.dataset_name) == ("accuracy", 91.25, "folder")
    assert top1.metric_args == {
        "of": "400 images",
        "interval_95_percent": pytest.approx([100 * low, 100 * high], abs=1e-4),
    }
    assert (top5.metric_name, top5.metric_value) == ("top-5 accuracy", 100.0)
    assert data.datasets is None  # a folder of somebody's has no name on the hub


def test_the_recipe_is_one(run, tmp_path):
    """It reads back as the run's configuration, without the folders of the machine."""
    text = card_of(run, tmp_path / "net").text
    recipe = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "recipe.yaml").write_text(recipe)
    read = read_recipe(str(tmp_path / "recipe.yaml"), TrainConfig)
    assert read["lr"] == 0.03125
    assert not {"data_dir", "output", "resume"} & set(read)
    assert {key: value for key, value in yaml.safe_load(recipe).items() if key in ("model", "seed")} == {
        "model": "resnet8_cifar_an", "seed": CONFIG.seed,
    }  # fmt: skip


def test_over_seeds(run, tmp_path):
    sample = {"n": 3, "mean": 91.0, "sd": 0.25, "interval": [90.379, 91.621]}
    entry = {"name": META.model, "top1": sample}
    content = {"format": "attnorm-compare", "metric": "top1", "data": {"name": "folder"}, "models": [entry]}
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(content))
    text = card_of(run, tmp_path / "net", compare=path).text
    assert "| top-1 accuracy, mean over 3 seeds | 91.00 | [90.38, 91.62] | training anew with another seed |" in text
    for wrong in ({"data": {"name": "digits"}}, {"models": []}, {"format": "x"}):
        path.write_text(json.dumps(content | wrong))
        with pytest.raises(ConfigError, match=r"compare must be a compare\.json .* with resnet8_cifar_an on folder"):
            card_of(run, tmp_path / "other", compare=path)


def test_a_record_of_another_run(run, tmp_path):
    record = run.parent / "record.json"
    RunRecord(**{**asdict(RECORD), "history": [{"epoch": 7, "top1": 91.0, "top5": 100.0}]}).save(record)
    with pytest.raises(ConfigError, match="must be of the run that made the checkpoint"):
        card_of(run, tmp_path / "net")
    for damaged in ("{", "[]", json.dumps({**asdict(RECORD), "history": 3})):
        record.write_text(damaged)
        with pytest.raises(CheckpointError, match=r"must be a record\.json"):
            card_of(run, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_text_of_others_stays_text(tmp_path):
    """Class names, data sets and provenance that would be links, tags, cells, fences or YAML."""
    evil = "](http://evil) <script>x</script> | ``` \n---\nlicense: mit"
    meta = replace(META, classes=(evil, "b", "c"), dataset=evil, provenance={"source": evil}, metrics={"top1": 50.0})
    model = create_model(META.model, num_classes=3, in_chans=1)
    card = card_of(model, tmp_path / "net", meta=meta, licence="cc0-1.0")
    assert card.data.license == "cc0-1.0"
    prose = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
    assert re.search(r"(?<!\\)<script|(?<!\\)\]\(http://evil", prose) is None
    assert "\nlicense: mit" not in card.text


def image(folder, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / "image.png")


def python_of(card):
    return re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]


@pytest.mark.parametrize("kind", ["classification", "options", "backbone", "torchvision", "detector"])
def test_its_code_runs(kind, tmp_path, monkeypatch, capsys, hub):
    """As it stands, in the folder; and from the hub, once it is there."""
    meta, model = replace(META, image_size=32, metrics=None), None
    if kind == "options":
        meta = replace(meta, model="resnet8_cifar:norm=an:gate=softmax")
    elif kind == "backbone":
        meta = replace(meta, num_classes=0, classes=())
    elif kind == "torchvision":
        meta = replace(
            meta, model="torchvision:squeezenet1_1", in_chans=3, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=64
        )
    source = {
        "detector": lambda: save_tiny_detector(tmp_path / "d.safetensors", fpn_channels=16, box_hidden=32),
    }.get(kind)
    if source is None:
        options = {} if kind == "torchvision" else {"in_chans": 1}
        model = create_model(meta.model, num_classes=meta.num_classes, **options)
    given = {"source": source() if source else model, **({} if source else {"meta": meta})}
    folder = attnorm.save_pretrained(folder=tmp_path / "net", licence="mit", **given)
    image(folder, "RGB")
    monkeypatch.chdir(folder)
    exec(python_of(ModelCard.load(folder / "README.md")), {})
    said = capsys.readouterr().out
    if kind == "detector":
        assert len(said.splitlines()) == 5
        assert said.startswith(("dog", "cat"))
    elif kind != "backbone":
        assert said.startswith(("cat", "dog", "été"))
    named = attnorm.save_pretrained(folder=tmp_path / "named", licence="mit", name="me/net", **given)
    hub.put("me/net", named)
    exec(python_of(ModelCard.load(named / "README.md")), {})
    assert capsys.readouterr().out == said
    assert len(hub.requests) > 0
    assert main(["predict", "--checkpoint", "local-dir:.", "--input", "image.png", "--output", "out"]) == (
        kind == "backbone"
    )
