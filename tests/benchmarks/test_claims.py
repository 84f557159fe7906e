"""Claims beside measurements: the published differences by hand, and no number that a file does not have."""

import pytest

from attnorm.files import write_json_atomic
from benchmarks import claims
from benchmarks.differences import Difference, differences, forest, has_an

STEP = {
    "model": "resnet18_an",
    "epochs": 5,
    "difference": {"difference": 5.0, "interval": [2.63, 7.33], "images": 1000},
}
DETECTION = {
    "case": "nuclei",
    "networks": {"mask_rcnn_resnet18_fpn": {"epochs": 6}, "mask_rcnn_resnet18_an_fpn": {"epochs": 6}},
    "differences": {"mask": {"points": -1.25, "interval": [-3.0, -0.5], "images": 67}},
}


def comparison(*models):
    return {"models": [{"name": "resnet8_cifar", "difference": None}, *models]}


def compared(name, mean, interval, n=3):
    return {"name": name, "difference": {"mean": mean, "interval": interval, "n": n}}


def test_published_pages_are_up_to_date(capsys):
    assert claims.main(["--check"]) == 0, capsys.readouterr().err


def test_published_differences_by_hand():
    """README of AOGNet-v2: ResNet-50 76.99 and 78.41; of the second release, rounded: 76.9 and, at bn3, 78.2."""
    lines = claims.published_top1({}).splitlines()
    assert "| resnet50_an | normal | 76.99 | 78.41 | +1.42 | README of AOGNet-v2 |" in lines
    assert "| resnet50_an_bn3 | normal | 76.9 | 78.2 | +1.30 | docs/classification of iVMCL-Release |" in lines
    # Its twin was not released, so that there is nothing to compare it with.
    assert "densenet121_an" not in claims.published_top1({})


def test_published_detectors_by_hand():
    """39.2 and 35.2 with BatchNorm; 41.6 and 37.4 with AN in the backbone and the box head."""
    assert (
        "| mask_rcnn_resnet50_an_fpn | AN on GN | 41.6 | +2.4 | 37.4 | +2.2 |" in claims.published_ap({}).splitlines()
    )


def test_differences():
    found = differences(
        {
            "detection_path": {"steps": [DETECTION]},
            "fashion_mnist_resnet8": comparison(
                compared("resnet8_cifar_se", 1.0, [0.5, 1.5]),
                compared("resnet8_cifar_an", -0.25, [-0.75, 0.25]),
                compared("resnet8_cifar_an:num_components=4", 1.0, None, n=1),
            ),
            "imagenette_path": {"steps": [STEP]},
            "another": comparison(compared("resnet8_cifar_an", 9.0, [8.0, 10.0])),
        }
    )
    assert [(row.claim, row.networks, row.points, row.shown) for row in found] == [
        ("accuracy", "resnet8_cifar_an", -0.25, "no difference shown"),
        ("accuracy", "resnet18_an", 5.0, "AN ahead"),
        ("detection", "mask_rcnn_resnet18_an_fpn", -1.25, "AN behind"),
    ]
    assert [row.over for row in found] == ["3 seeds", "1000 images, 1 seed", "67 images, 1 seed"]
    assert len(forest(found).axes[0].get_yticklabels()) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50_an_bn3", True),
        ("resnet50:norm=an_gn:gate=softmax", True),
        ("mask_rcnn_resnet18_an_fpn", True),
        ("resnet50:norm=gn", False),
        ("resnet8_cifar_se", False),
        ("swin_small_patch4", False),
    ],
)
def test_has_an(name, expected):
    assert has_an(name) is expected


def test_measured_in_a_table():
    """An interval that contains 0 shows nothing; a difference without an interval is said to have none."""
    rows = {"imagenette_path": {"steps": [STEP]}}
    cells = claims.measured(rows).splitlines()[-1].strip("| ").split(" | ")
    assert cells[:2] == ["accuracy", "Imagenette, 128 pixels, 5 epochs"]
    assert cells[2:] == ["resnet18_an", "top-1", "+5.0 [+2.6, +7.3]", "1000 images, 1 seed", "AN ahead"]
    assert claims.measured({}) == "Not measured yet.\n"
    plain = Difference(
        claim="transfer", data="x", networks="y", number="top-1", points=3.0, low=None, high=None, over="1 seed"
    )
    assert plain.shown == "no difference shown"


def test_sizes_by_hand():
    def row(model, parameters, macs, elements):
        return {"model": model, "parameters": parameters, "macs": macs, "elements": elements, "published": []}

    table = claims.sizes(
        {
            "models": {
                "rows": [
                    row("resnet50", 1_000_000, 1000, {"relu": 60, "batch norm": 40}),
                    row("resnet50_an_bn3", 1_100_000, 1001, {"relu": 60, "mean": 65}),
                ]
            }
        }
    )
    assert table.splitlines()[2:] == ["| resnet50_an_bn3 | 1.100 | – | +10.00% | +0.10% | +25.00% |"]


def test_times_by_hand():
    row = {
        "kind": "fine_tune",
        "layout": "NCHW",
        "batch": 2,
        "networks": {"mask_rcnn_resnet50_fpn": {}, "mask_rcnn_resnet50_an_fpn": {}},
        "ratios": {
            "an_bn_fine_tune": {"median": 1.0234, "low": 0.99, "high": 1.05},
            "bn_torchvision_fine_tune": {"median": 2.0, "low": 1.9, "high": 2.1},
        },
    }
    line = "| mask_rcnn_resnet50_an_fpn | fine-tuning step | NCHW | 2 | 1.023 [0.990, 1.050] |"
    assert claims.times({"detector_cost": {"rows": [row]}}).splitlines()[2:] == [line]


def test_a_page_changed_by_hand_is_found(tmp_path, capsys):
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# x\n")
    page = tmp_path / "docs" / "results.md"
    page.write_text("# Results\n<!-- claims measured:begin -->\nold\n<!-- claims measured:end -->\nend\n")
    write_json_atomic(tmp_path / "benchmarks" / "results" / "imagenette_path.json", {"steps": [STEP]})
    assert claims.main([], root=tmp_path) == 0
    assert "+5.0 [+2.6, +7.3]" in page.read_text()
    assert (tmp_path / "docs" / "images" / "differences.png").exists()
    assert claims.main(["--check"], root=tmp_path) == 0
    page.write_text(page.read_text().replace("+5.0", "+6.0"))
    assert claims.main(["--check"], root=tmp_path) == 1
    assert "python -m benchmarks.claims" in capsys.readouterr().err


def test_the_summary_counts_what_the_rows_show():
    results = claims.read_results()
    steps = [STEP, {**STEP, "difference": {"difference": -1.0, "interval": [-3.0, 1.0], "images": 1000}}]
    kept = {name: results[name] for name in ("models", "network_cost")}
    table = claims.summary({**kept, "imagenette_path": {"steps": steps}})
    assert "of 2 differences 1 AN ahead, 1 no difference shown" in table
    # The smallest and largest of the first release: AOGNet-40M and MobileNetV2; of the second, ResNet-50's +1.50.
    assert "| +0.50 to +2.02 points on ImageNet |" in table
    assert "| 1.005 to 1.044 times BatchNorm's, on CPUs |" in table
    assert table.count("Not measured yet.") == 3  # detection, transfer, power
    assert "not measured: no meter on this machine" in claims.summary({**kept, **profiled(None)})


def profiled(meter):
    why = None if meter else "no meter on this machine"
    row = {"peak_bytes": 123_456_789, "energy": {"joules_per_image": 1.2345} if meter else None}
    cases = [
        {"mode": "inference", "batch_size": 8, "networks": {"resnet50_an": row}},
        {"mode": "training", "batch_size": 8, "networks": {"resnet50_an": {**row, "saved_bytes": 2_000_000}}},
    ]
    return {"profile_resnet50": {"date": "2026-01-02T03", "energy": {"meter": meter, "why_not": why}, "cases": cases}}


def test_power_and_memory_by_hand():
    assert claims.power(profiled(None)) == "Here: no meter on this machine (2026-01-02).\n"
    lines = claims.power(profiled({"name": "RAPL"})).splitlines()
    assert lines[2:] == ["| resnet50_an | inference | 8 | 1.23 |", "| resnet50_an | training | 8 | 1.23 |"]
    lines = claims.memory(profiled(None)).splitlines()
    assert lines[2:] == ["| resnet50_an | inference | 8 | 123.5 | – |", "| resnet50_an | training | 8 | 123.5 | 2.0 |"]
    assert claims.power({}) == claims.memory({}) == "Not measured yet.\n"


def test_transfer_is_paired_by_seed():
    """1, 2 and 3 points ahead: 2 on average, with a 95% interval of 4.303 / sqrt(3) on both sides."""
    arms = {"bn": [50.0, 51.0, 52.0], "an": [51.0, 53.0, 55.0], "swapped": [50.0, 51.0, 52.0]}
    scratch = {"bn_scratch": [40.0, 41.0, 42.0], "an_scratch": [39.0, 41.0, 43.0]}
    top1 = {"source": {}, "fashion_mnist": arms | scratch}
    study = {"source": "cifar10", "network": "resnet8_cifar", "train_images": 10_000, "target_epochs": 2}
    found = differences({"transfer_cifar10": {"study": study, "top1": top1}})
    assert [(row.claim, row.data, row.networks) for row in found] == [
        ("accuracy", "Fashion-MNIST, 10,000 images, 2 epochs", "resnet8_cifar: AN from scratch"),
        ("transfer", "CIFAR-10 to Fashion-MNIST, 10,000 images, 2 epochs", "resnet8_cifar: AN, fine-tuned"),
        (
            "transfer",
            "CIFAR-10 to Fashion-MNIST, 10,000 images, 2 epochs",
            "resnet8_cifar: BN swapped to AN, fine-tuned",
        ),
    ]
    assert (found[1].low, found[1].high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert [row.shown for row in found] == ["no difference shown"] * 3
