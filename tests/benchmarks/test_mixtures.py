"""What is kept of inspections, and their table, by hand."""

import json

from benchmarks import mixtures


def inspected(dataset, layers):
    made = dict.fromkeys(("finished", "versions", "git", "environment"), "x")
    return {
        "model": "resnet18_an",
        "dataset": dataset,
        "images": 1200,
        "layers": layers,
        "config": {"data_dir": "y"},
        **made,
    }


def layer(name, components, mean, directions, off=(), constant=()):
    numbers = {"lambda_mean": mean, "lambda_std_over_images": 0.1, "gamma_std_over_images_relative": 0.2}
    return {
        "name": name, "components": components, "directions": directions, "off": list(off), "constant": list(constant),
        "histogram": [1, 2], **numbers,
    }  # fmt: skip


def test_taken_in_and_shown(tmp_path):
    own = inspected("folder", [layer("layer1", 10, 0.456, 4.04), layer("layer2", 20, 0.5, 8.0, off=[3])])
    other = inspected(
        "coco", [layer("layer1", 10, 0.9, 1.0), layer("layer2", 20, 0.004, 1.5, off=[1, 2], constant=[5])]
    )
    for name, content in (("own data", own), ("nuclei", inspected("coco", [])), ("nuclei", other)):
        (tmp_path / "inspect.json").write_text(json.dumps(content))
        assert mixtures.main([name, str(tmp_path / "inspect.json")], store=tmp_path) == 0
    record = json.loads((tmp_path / "mixtures.json").read_text())
    assert mixtures.table(record).splitlines()[2:] == [
        "| own data | 1,200 | 0.46 to 0.50 | 4.0 to 8.0 | 1 + 0 of 30 |",
        "| nuclei | 1,200 | 0.00 to 0.90 | 1.0 to 1.5 | 2 + 1 of 30 |",
    ]
    # Neither the machine's folders nor what fills the pages.
    assert "data_dir" not in json.dumps(record)
    assert "histogram" not in json.dumps(record)
