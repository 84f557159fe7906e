"""What a run reads: its settings. Imports nothing heavy, since the command line takes its flags from here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnorm.data.coco_config import DETECTION, CocoConfig
from attnorm.errors import ConfigError, DataError

BUILTIN = ("digits", "fashion_mnist", "cifar10", "cifar100")
IMAGENET_EVAL = (  # ImageNet's other labels and other images: to evaluate on, not to train on
    "imagenet_real",
    "imagenet_v2_matched_frequency",
    "imagenet_v2_threshold0.7",
    "imagenet_v2_topimages",
    "imagenet_sketch",
    "imagenet_a",
    "imagenet_r",
    "imagenet_o",
)
IMAGENET = ("imagenet", *IMAGENET_EVAL)
READERS = ("tar", "wds", "hfds")
STREAMS = ("hfids", "tfds")  # timm readers without random access
AUGMENT = ("default", "none", "flip", "crop_flip", "rrc_flip")
POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")  # timm's, without their numbers
INTERPOLATION = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and how they are cut.

    Attributes:
        dataset: digits (comes with scikit-learn), fashion_mnist, cifar10, cifar100, folder (one folder per class),
            imagenet (train/<wnid> and val/<wnid>, or the official flat val with val_map.txt or LOC_val_solution.csv);
            for evaluation only imagenet_real, imagenet_v2_matched_frequency, imagenet_v2_threshold0.7,
            imagenet_v2_topimages, imagenet_sketch, imagenet_a, imagenet_r and imagenet_o (data_dir is the published
            folder or the one that holds it; for imagenet_real the one of imagenet, with real.json if it is there);
            "tar:" (train.tar, val.tar, or folders of that name with tars in them; <class>/<image> inside), "wds:"
            (local WebDataset shards, images with .cls labels) or "hfds:NAME" (a Hugging Face data set). A path that
            follows "tar:" or "wds:" is taken within data_dir. For detection: "coco" (any data set with COCO's JSON
            files) and "shapes" (generated; nothing to download).
        data_dir: the folder that holds the data; not needed for digits and shapes; the cache folder for hfds.
        train_split: the part to train on. For the built-in sets "train"; else a folder's or a reader's split name.
        val_split: the part to evaluate on. None: the set's own ("test" for the built-in sets; the first of val,
            validation, test that is there for a folder). For the built-in sets also "val": a tenth of the training
            part, the same number of each class, which is then left out of training.
        image_size: side of the square images in pixels. None: the set's own (digits 8, fashion_mnist 28, cifar 32,
            shapes 128, everything else 224). Not for coco, whose images keep their sizes.
        augment: none, flip (left-right, half of the images), crop_flip (4 pixels of black added on each side, a random
            crop of the old size, flip), rrc_flip (a random part of 8 to 100 % of the area and of aspect ratio 3/4 to
            4/3, resized; flip). "default": none for digits, flip for fashion_mnist, crop_flip for cifar, else rrc_flip.
        aa: further random changes of colour and geometry for rrc_flip, named as in timm: "rand-m9-mstd0.5" is
            RandAugment; None: none.
        reprob: share of the images in which rrc_flip erases a random box (2 to 33 % of the area; the mean colour).
        interpolation: nearest, bilinear or bicubic, wherever an image is resized (always with anti-aliasing).
        crop_pct: evaluation of files: the shorter side becomes round(image_size / crop_pct), of which the central
            square is taken. The built-in sets are not cut.
        shard_window: for wds: an epoch reads the shards in random order, so many at a time, and each process shards of
            its own; the images of those are mixed. For storage on which reading here and there is slow. None: the
            images of all shards are mixed.
        coco: for detection: the files of the data set and the augmentation of its images.
        max_bad_images: so many unreadable images are named and skipped (per part and process); one more stops the run.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    train_split: str = "train"
    val_split: str | None = None
    image_size: int | None = None
    augment: str = "default"
    aa: str | None = None
    reprob: float = 0.0
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    shard_window: int | None = None
    max_bad_images: int = 10
    coco: CocoConfig = field(default_factory=CocoConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: for an unknown name or a number out of range.
        """
        if self.dataset.partition(":")[0] in STREAMS and ":" in self.dataset:
            raise ConfigError(
                f"dataset must allow random access, without which a run cannot be resumed exactly; {self.dataset} is "
                "a stream: use hfds:, or export it as folders (folder), tar files (tar:) or shards (wds:)"
            )
        if self.dataset not in (*BUILTIN, "folder", *IMAGENET, *DETECTION) and self.reader is None:
            known = ", ".join((*BUILTIN, "folder", *IMAGENET, *DETECTION, *(f"{r}:" for r in READERS)))
            raise ConfigError(f"dataset must be one of {known}; got {self.dataset!r}")
        if self.augment not in AUGMENT:
            raise ConfigError(f"augment must be one of {', '.join(AUGMENT)}; got {self.augment!r}")
        self._check_rrc_flip()
        if self.interpolation not in INTERPOLATION:
            raise ConfigError(f"interpolation must be one of {', '.join(INTERPOLATION)}; got {self.interpolation!r}")
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"crop_pct must be above 0 and at most 1; got {self.crop_pct}")
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"image_size must be at least 1 pixel; got {self.image_size}")
        self._check_shard_window()
        if self.max_bad_images < 0:
            raise ConfigError(f"max_bad_images must be at least 0; got {self.max_bad_images}")

    def _check_rrc_flip(self) -> None:
        """Refuse aa and reprob where they are wrong or would do nothing."""
        if self.aa is not None and self.aa.partition("-")[0] not in POLICIES:
            raise ConfigError(f'aa must be a policy of timm ({", ".join(POLICIES)}; "rand-m9"); got {self.aa!r}')
        if not 0 <= self.reprob <= 1:
            raise ConfigError(f"reprob must be at least 0 and at most 1; got {self.reprob}")
        if (self.aa or self.reprob) and (self.dataset in BUILTIN or self.augment not in ("default", "rrc_flip")):
            raise ConfigError(
                "aa and reprob are for data sets of files with augment rrc_flip; "
                f"got dataset {self.dataset} with augment {self.augment}: leave them out"
            )

    def _check_shard_window(self) -> None:
        """Refuse shard_window where it is wrong or would do nothing."""
        if self.shard_window is None:
            return
        if self.shard_window < 1:
            raise ConfigError(f"shard_window must be at least 1 shard; got {self.shard_window}")
        if self.reader is None or self.reader[0] != "wds":
            raise ConfigError(f"shard_window is for shards (dataset wds:); got dataset {self.dataset}: leave it out")

    @property
    def reader(self) -> tuple[str, str] | None:
        """The reader's kind and the rest of the name, ("hfds", "cifar10") for "hfds:cifar10"; None without a reader."""
        kind, colon, name = self.dataset.partition(":")
        return (kind, name) if colon and kind in READERS else None


def data_root(config: DataConfig) -> Path:
    """The folder data_dir.

    Raises:
        ConfigError: none was given.
        DataError: it does not exist or is empty.
    """
    if config.data_dir is None:
        raise ConfigError(f"data_dir must name the folder that holds the data of {config.dataset}; none was given")
    root = Path(config.data_dir)
    if not root.exists():
        raise DataError(f"data_dir must name the folder that holds the data of {config.dataset}; {root} does not exist")
    if root.is_dir() and not any(root.iterdir()):
        raise DataError(f"data_dir must name the folder that holds the data of {config.dataset}; {root} is empty")
    return root


def shortened(names: Sequence[str], count: int = 10, total: int | None = None) -> str:
    """Names for a message: the first `count` and how many more there are, of `total` where `names` are not all."""
    more = (len(names) if total is None else total) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")
