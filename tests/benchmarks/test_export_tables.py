"""What docs/export.md says of inference and of 8 bits is what was measured."""

from benchmarks.export_tables import inference_ratios, inference_times, int8_accuracy

RATIO = {"median": 1.25, "low": 1.2, "high": 1.3, "rounds": 11}
TIME = {"median": 4.0, "low": 3.9, "high": 4.3}
WAYS = ("eager", "compiled", "onnxruntime")
INFERENCE = {
    "rows": [
        {
            "network": "resnet18",
            "side": 224,
            "batch": 8,
            "ms": {f"{name} {way}": TIME for name in ("resnet18", "resnet18_an") for way in WAYS},
            "ratios": dict.fromkeys(WAYS, RATIO),
        }
    ]
}
FLOAT = {"top1": 92.0, "low": 91.5, "high": 92.5, "changed_answers": 0, "size": 1_200_000, "float_nodes": None}
INT8 = {**FLOAT, "top1": 91.9, "changed_answers": 30, "size": 400_000, "float_nodes": {"Gemm": 27}}


def row(name, an_too):
    return {"checkpoint": name, "images": 10_000, "float": FLOAT, "int8": INT8, "int8_an_too": an_too}


def test_times_and_ratios():
    assert "| resnet18, 8 × 224 × 224 | 1.25 [1.20, 1.30] |" in inference_ratios(INFERENCE)
    assert inference_times(INFERENCE).count("| 4 ± 0.2 | 4 ± 0.2 | 4 ± 0.2 |") == 2


def test_accuracies_and_what_stays_in_float():
    """A network without AN has no third row: its two files in 8 bits are the same."""
    record = {"rows": [row("bn", INT8), row("an", {**INT8, "top1": 80.0, "float_nodes": {"Sqrt": 9}})]}
    table = int8_accuracy(record)
    assert "| an, 8 bits, AN too | 80.00 [91.50, 92.50] | 30 | 0.40 | 9 Sqrt |" in table
    assert "bn, 8 bits, AN too" not in table
    assert "| bn, float32 | 92.00 [91.50, 92.50] |  | 1.20 | all |" in table
