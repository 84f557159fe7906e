"""Folders, tar files and shards: what is found, what is refused, and what happens to unreadable images."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from attnorm.data import DataConfig, eval_transform, load_data, make_loader
from attnorm.data.augment import SampleKey
from attnorm.data.image_files import read_image
from attnorm.errors import ConfigError, DataError


def config(root, **more) -> DataConfig:
    return DataConfig(**{"dataset": "folder", "data_dir": str(root), "image_size": 16, **more})


def test_folder_equals_torchvisions_image_folder(image_folder):
    from torchvision.datasets import ImageFolder

    data = load_data(config(image_folder))
    transform = eval_transform(16)
    for part, split in ((data.train, "train"), (data.val, "val")):
        theirs = ImageFolder(str(image_folder / split))
        assert list(data.classes) == theirs.classes
        assert len(part) == len(theirs)
        for i, (image, label) in enumerate(theirs):
            ours, our_label = part[i]
            assert our_label == label
            assert torch.equal(ours, transform(image))


def test_val_part_is_what_predict_does_to_a_file(image_folder):
    data = load_data(config(image_folder, crop_pct=0.5, interpolation="bicubic"))
    transform = eval_transform(data.image_size, data.crop_pct, data.interpolation, data.in_chans)
    file = sorted((image_folder / "val" / "cat").iterdir())[1]
    assert torch.equal(data.val[1][0], transform(read_image(str(file))))


@pytest.mark.parametrize("augment", ["none", "flip", "crop_flip", "rrc_flip"])
def test_augmentation_depends_on_seed_epoch_and_sample_only(image_folder, augment):
    for file in image_folder.glob("*/*/*.png"):
        Image.effect_noise((40, 30), 90).save(file)
    data = load_data(config(image_folder, augment=augment)).train
    keys = [SampleKey(i, epoch, 5) for epoch in (0, 1) for i in range(7)]
    batch, _ = data.__getitems__(keys)
    reverse, _ = data.__getitems__(keys[::-1])
    assert torch.equal(batch, reverse.flip(0))
    assert torch.equal(batch[:7], batch[7:]) == (augment == "none")


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_the_evaluation_folder_is_found(image_folder, name):
    (image_folder / "val").rename(image_folder / name)
    assert len(load_data(config(image_folder)).val) == 4
    assert len(load_data(config(image_folder, val_split="train")).val) == 7


def test_all_that_is_wrong_is_said_in_one_line(image_folder):
    (image_folder / "train" / "bird").mkdir()
    (image_folder / "train" / "fish").mkdir()
    (image_folder / "train" / "fish" / "notes.txt").write_text("none yet")
    (image_folder / "val").rename(image_folder / "other")
    with pytest.raises(DataError, match=r"without one: bird, fish; .* must hold a folder to evaluate on") as caught:
        load_data(config(image_folder))
    assert "\n" not in str(caught.value)


def test_classes_that_training_does_not_have(image_folder):
    (image_folder / "val" / "cat").rename(image_folder / "val" / "cow")
    (image_folder / "val" / "dog").rename(image_folder / "val" / "pig")
    with pytest.raises(DataError, match=r"one of the 2 trained on; not among them: cow, pig"):
        load_data(config(image_folder))


def test_a_class_that_evaluation_lacks_does_not_shift_the_labels(image_folder):
    for file in (image_folder / "val" / "cat").iterdir():
        file.unlink()
    (image_folder / "val" / "cat").rmdir()
    assert load_data(config(image_folder)).val.labels.tolist() == [1, 1]
    # ... nor when only the evaluation part is read, with or without a checkpoint's classes
    assert load_data(config(image_folder), parts=("val",)).val.labels.tolist() == [1, 1]
    data = load_data(config(image_folder), parts=("val",), classes=("ape", "cat", "dog"))
    assert data.val.labels.tolist() == [2, 2]
    assert data.classes == ("ape", "cat", "dog")


@pytest.mark.parametrize(
    ("root", "error", "message"),
    [(None, ConfigError, "none was given"), ("nowhere", DataError, "does not exist"), (".", DataError, "is empty")],
)
def test_missing_and_empty_folders(tmp_path, root, error, message):
    with pytest.raises(error, match=message):
        load_data(DataConfig(dataset="folder", data_dir=root and str(tmp_path / root)))


def test_a_folder_of_images_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "0.png")
    with pytest.raises(DataError, match="must hold one folder per class; it holds none"):
        load_data(config(tmp_path), parts=("train",))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-40])


def test_a_bad_image_is_left_out_of_evaluation(image_folder, caplog):
    truncate(image_folder / "val" / "cat" / "1.png")
    data = load_data(config(image_folder)).val
    loader = make_loader(data, batch_size=2, train=False)
    for _ in range(2):
        assert [labels.tolist() for _, labels in loader] == [[0], [1, 1]]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [f"skipped {data.bad_files()[0]}"]
    assert data.bad_files() == [str(image_folder / "val" / "cat" / "1.png")]
    with pytest.raises(DataError, match=r"cat/1\.png is not a readable image"):
        data[1]


def test_a_batch_of_bad_images_is_empty(image_folder):
    for i in range(2):
        truncate(image_folder / "val" / "cat" / f"{i}.png")
    images, labels = next(iter(make_loader(load_data(config(image_folder)).val, batch_size=2, train=False)))
    assert images.shape == (0, 3, 16, 16)
    assert labels.shape == (0,)


def test_the_next_of_its_class_takes_a_bad_images_place_in_training(image_folder):
    for i in (0, 3):
        truncate(image_folder / "train" / "cat" / f"{i}.png")
    data = load_data(config(image_folder, augment="none")).train
    images, labels = data.__getitems__([SampleKey(i, 0, 0) for i in range(7)])
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert images[:, 0, 8, 8].tolist() == [10, 10, 20, 10, 0, 10, 20]  # 0 -> 1; 3 -> 0, bad too -> 1


def test_a_class_of_bad_images_only(image_folder):
    for i in range(3):
        truncate(image_folder / "train" / "dog" / f"{i}.png")
    with pytest.raises(DataError, match=r"class dog must have a readable image; none of its 3 is"):
        load_data(config(image_folder)).train[SampleKey(4, 0, 0)]


# One worker only: torch 2.15 waits 5 s for each worker to end after one of them has raised an exception.
@pytest.mark.parametrize(("train", "workers"), [(False, 0), (True, 0), (True, 1)])
def test_too_many_bad_images_stop_the_run_in_one_line(image_folder, train, workers):
    for i in (0, 1):
        truncate(image_folder / "train" / "cat" / f"{i}.png")
    data = load_data(config(image_folder, max_bad_images=1)).train
    with pytest.raises(DataError) as caught:
        list(make_loader(data, batch_size=1, train=train, workers=workers))
    names = ", ".join(str(image_folder / "train" / "cat" / f"{i}.png") for i in (0, 1))
    assert str(caught.value) == (
        "folder train: at most 1 images may be unreadable (max_bad_images); "
        f"found 2: {names}; mend or remove them, or raise max_bad_images"
    )


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def same_as_folder(data, image_folder):
    folder = load_data(config(image_folder))
    assert data.classes == folder.classes
    for ours, theirs in ((data.train, folder.train), (data.val, folder.val)):
        assert ours.labels.tolist() == theirs.labels.tolist()
        for i in range(len(theirs)):
            assert torch.equal(ours[i][0], theirs[i][0])


def test_tar_files_hold_what_the_folder_holds(image_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("tars")
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            tar.add(image_folder / split, ".")
    data = load_data(config(root, dataset="tar:"))
    same_as_folder(data, image_folder)
    # read here first, then in forked workers: no open file is shared between them
    batches = list(make_loader(data.val, batch_size=1, train=False, workers=2))
    assert torch.equal(torch.cat([b[0] for b in batches]), torch.stack([data.val[i][0] for i in range(4)]))


def test_tars_within_tars_and_tars_by_class(image_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("tars") / "deeper"
    (root / "val").mkdir(parents=True)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            with tarfile.open(root / "val" / f"{name}.tar", "w") as tar:
                for file in sorted((image_folder / split / name).iterdir()):
                    add(tar, file.name, file.read_bytes())
        if split == "train":
            with tarfile.open(root / "train.tar", "w") as tar:
                for name in ("dog", "cat"):
                    add(tar, f"{name}.tar", (root / "val" / f"{name}.tar").read_bytes())
    same_as_folder(load_data(config(root.parent, dataset="tar:deeper")), image_folder)


@pytest.mark.parametrize("info", [False, True])
def test_webdataset_shards(image_folder, tmp_path_factory, info):
    root = tmp_path_factory.mktemp("shards")
    splits = {}
    for split in ("train", "val"):
        files = sorted((image_folder / split).glob("*/*.png"))
        names = []
        for shard in range(2):
            names.append(f"{'x-' * info}{split}-{shard:03d}.tar")
            with tarfile.open(root / names[-1], "w") as tar:
                for file in files[:3] if shard == 0 else files[3:]:
                    key = f"{file.parent.name}_{file.stem}"
                    add(tar, f"{key}.png", file.read_bytes())
                    add(tar, f"{key}.cls", str(int(file.parent.name == "dog")).encode())
                    add(tar, f"{key}.json", b"{}")
        splits[split] = {"filenames": names}
    if info:
        (root / "_info.json").write_text(json.dumps({"splits": splits}))
    data = load_data(config(root, dataset="wds:"))
    assert data.classes == ("0", "1")
    folder = load_data(config(image_folder))
    for ours, theirs in ((data.train, folder.train), (data.val, folder.val)):
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert all(torch.equal(ours[i][0], theirs[i][0]) for i in range(len(theirs)))
    if not info:
        assert len(load_data(config(root, dataset="wds:", train_split="train-{000..001}.tar")).train) == 7
    else:
        (root / "_info.json").write_text('{"splits": {"train": []}}')
        with pytest.raises(DataError, match=r'_info\.json must be JSON with "splits", each with "filenames"'):
            load_data(config(root, dataset="wds:"))


def test_damaged_archives_are_refused(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.tar").write_bytes(b"this is no tar" * 100)
    for dataset in ("tar:", "wds:"):
        with pytest.raises(DataError, match=r"train.tar must be an uncompressed tar") as caught:
            load_data(config(tmp_path, dataset=dataset))
        assert "\n" not in str(caught.value)
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        add(tar, "a.jpg", b"x")
        add(tar, "b.cls", b"1")
    with pytest.raises(DataError, match=r"sample /a must have an image and a \.cls; it has jpg"):
        load_data(config(tmp_path, dataset="wds:"), parts=("train",))
    with pytest.raises(DataError, match="one folder per class"):
        load_data(config(tmp_path, dataset="tar:"), parts=("train",))


def test_a_negative_label_in_a_shard(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for i, label in enumerate((1, -1)):
            add(tar, f"{i}.jpg", b"x")
            add(tar, f"{i}.cls", str(label).encode())
    with pytest.raises(DataError, match=r"labels must be 0 to 1; 1 of 2 are not \(image 1 has -1\)"):
        load_data(config(tmp_path, dataset="wds:"), parts=("train",))


def test_a_damaged_val_archive_is_not_passed_over_for_test(image_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("tars")
    for split, folder in (("train", "train"), ("test", "val")):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            tar.add(image_folder / folder, ".")
    assert len(load_data(config(root, dataset="tar:")).val) == 4
    (root / "val.tar").write_bytes(b"broken" * 200)
    with pytest.raises(DataError, match=r"val.tar must be an uncompressed tar"):
        load_data(config(root, dataset="tar:"))


def test_hugging_face_data_set(image_folder, tmp_path_factory):
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    cache = tmp_path_factory.mktemp("hf")
    data = load_data(config(cache, dataset=f"hfds:{image_folder}"))
    same_as_folder(data, image_folder)


def test_hugging_face_data_set_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match="pip install datasets"):
        load_data(DataConfig(dataset="hfds:cifar10"))
