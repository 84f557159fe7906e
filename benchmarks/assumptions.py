"""What docs/scale.md assumes of GPUs, links, storage and machines; `python -m benchmarks.scale` reckons with yours."""

from benchmarks.scale_model import Cluster

PER_MACHINE = 8
IMAGES = 1_281_167  # ImageNet's training part ...
IMAGE_BYTES = 147_897_477_120 / IMAGES  # ... of which this is the length of ILSVRC2012_img_train.tar ...
IMAGE_PIXELS = 469 * 387  # ... and this the size of the average photograph
# ResNet-50 in mixed precision: 1,200 on one V100, 2,470 on one A100, 2,078 on each of eight
# (NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5, README).
GPU_RATE = 2000
# Bytes per second that an all-reduce attains, and seconds for a small message: by NVLink within a machine; between
# machines by InfiniBand, four adapters of 200 Gbit/s in each.
LINK_RATE, LINK_DELAY = 200e9, 1.5e-6
NETWORK_RATE, NETWORK_DELAY = 100e9, 5e-6
SAVE_SECONDS, RESTART_SECONDS = 5.0, 180.0
MACHINE_HOURS = 48.0  # between two times that one machine is taken away or fails
STALL_SHARE, STALL_SECONDS = 1e-5, 0.3  # reads that storage answers late, and by how much in the mean


def cluster(gpus: int) -> Cluster:
    """So many GPUs, eight to a machine, with the links assumed above."""
    return Cluster(
        gpus=gpus,
        per_machine=PER_MACHINE,
        link_rate=LINK_RATE,
        network_rate=NETWORK_RATE,
        link_delay=LINK_DELAY,
        network_delay=NETWORK_DELAY,
    )


def sentences() -> tuple[str, ...]:
    """The constants above, in words."""
    return (
        f"{GPU_RATE:,} images/s on a GPU (ResNet-50, mixed precision; NVIDIA's "
        "[DeepLearningExamples](https://github.com/NVIDIA/DeepLearningExamples) reports 1,200 on one V100, 2,470 on "
        "one A100, 2,078 on each of eight)",
        f"{PER_MACHINE} GPUs in a machine, joined by NVLink: {LINK_RATE / 1e9:.0f} GB/s in an all-reduce, "
        f"{LINK_DELAY * 1e6:g} µs for a small message",
        f"machines joined by InfiniBand: {NETWORK_RATE / 1e9:.0f} GB/s each (four adapters of 200 Gbit/s), "
        f"{NETWORK_DELAY * 1e6:g} µs",
        f"ImageNet: {IMAGES:,} images of {IMAGE_BYTES / 1e3:.0f} kB and 469 x 387 pixels in the mean",
        f"one read in {1 / STALL_SHARE:,.0f} is late, by {STALL_SECONDS:g} s in the mean (exponentially distributed)",
        f"a machine is taken away or fails every {MACHINE_HOURS:g} hours in the mean, and the whole run with it; a "
        f"state is saved in {SAVE_SECONDS:g} s; {RESTART_SECONDS:g} s pass from a kill until training goes on",
    )
