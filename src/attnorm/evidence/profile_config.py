"""What `attnorm profile` measures, and how. Imports nothing heavy: the command line reads its flags from here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attnorm.detection.config import is_detector
from attnorm.errors import ConfigError

# What --precision is called elsewhere in this package, see attnorm.training.evaluation.autocast.
PRECISIONS = {"float32": "32", "bfloat16": "bf16", "float16": "fp16"}
MODES = ("inference", "training")
MIN_ROUNDS = 6  # the fewest that give a 95% interval, see attnorm.evidence.interleaved


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """What networks cost on this machine: parameters, operations, time, memory and energy, side by side.

    The networks take turns, so that whatever else the machine does falls on all of them alike.

    Args:
        models: networks, separated by commas; the first is the one that the others are compared with. Each is a name of
            `attnorm models` or timm (with options such as resnet50:norm=an), a detector's name, a .safetensors
            checkpoint, or a function package.module:function that gives an nn.Module, found from here too.
        batch_size: images per step, several separated by commas.
        dtype: float32, bfloat16 or float16, several separated by commas. The weights stay in float32: the others are
            automatic mixed precision, as --amp in train and eval.
        channels_last: measure channels-last memory format too, beside the ordinary one.
        torchcompile: measure the compiled network too, beside the eager one.
        mode: what is timed; training is forward, loss, backward and a step of SGD.
        image_size: side of the square images in pixels; the networks' own when not given.
        in_chans: image channels; a checkpoint's, or 3, when not given.
        num_classes: classes of networks given by name; their own when not given. A detector's count the background,
            and are 2 when not given.
        device: auto takes a CUDA device where there is one.
        rounds: how often each network is timed in each case, at most.
        seconds: no round is begun after so many seconds of a case, but for the six that an interval needs.
        energy_seconds: how long each network runs in each case for its energy, where there is a meter; 0 leaves energy
            out.
        per_layer: show and write each layer's share too.
        convention: operations that the table shows. all are this package's, explained in docs/profile.md; paper is that
            of the AN papers (MACs + 4 for each element of BatchNorm + 1 for each of ReLU). JSON has both.
        accuracy: accuracies in percent for the plot, as name=value pairs separated by commas, or a JSON file of names
            and values, or the compare.json of `attnorm compare`. A checkpoint's own is known.
        plot: draw time, and energy where there is a meter, against accuracy where that is known to this .png file.
        json: write all numbers to this file.
    """

    models: str
    batch_size: str = "1,32"
    dtype: str = "float32"
    channels_last: bool = False
    torchcompile: bool = False
    mode: Literal["both", "inference", "training"] = "both"
    image_size: int | None = None
    in_chans: int | None = None
    num_classes: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    rounds: int = 25
    seconds: float = 30.0
    energy_seconds: float = 12.0
    per_layer: bool = False
    convention: Literal["all", "paper"] = "all"
    accuracy: str | None = None
    plot: str | None = None
    json: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be meant, before anything heavy is imported."""
        names, sizes = self.names, self.batch_sizes
        _refuse_repeated("models", names)
        _refuse_repeated("batch_size", sizes)
        _refuse_repeated("dtype", self.dtypes)
        for name in ("image_size", "in_chans", "num_classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        if self.rounds < MIN_ROUNDS:
            raise ConfigError(f"rounds must be at least {MIN_ROUNDS}, the fewest with an interval; got {self.rounds}")
        for name in ("seconds", "energy_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be a number from 0; got {getattr(self, name)}")
        if self.plot is not None and not self.plot.lower().endswith(".png"):
            raise ConfigError(f"plot must end in .png; got {self.plot}")
        if self.accuracy is not None and self.plot is None:
            raise ConfigError("accuracy is for the plot: add --plot FILE.png, or leave it out")
        if self.torchcompile and any(map(is_detector, names)):
            raise ConfigError("torchcompile is for classification networks, not for detectors; leave it out")

    @property
    def names(self) -> tuple[str, ...]:
        """The networks in the order given."""
        return _parts("models", self.models)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes in the order given."""
        parts = _parts("batch_size", self.batch_size)
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ConfigError(f"batch_size must be whole numbers from 1, separated by commas; got {self.batch_size!r}")
        return tuple(map(int, parts))

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The names of the dtypes in the order given."""
        parts = _parts("dtype", self.dtype)
        if unknown := [part for part in parts if part not in PRECISIONS]:
            raise ConfigError(f"dtype must be of {', '.join(PRECISIONS)}, separated by commas; got {unknown[0]!r}")
        return parts

    @property
    def modes(self) -> tuple[str, ...]:
        """Inference first: training changes the running statistics."""
        return MODES if self.mode == "both" else (self.mode,)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one group of rows is measured at."""

    mode: str
    batch_size: int
    dtype: str
    channels_last: bool
    compiled: bool

    def describe(self) -> str:
        """In words, without the mode."""
        layout = "channels last" if self.channels_last else "contiguous"
        return f"batch {self.batch_size}, {self.dtype}, {layout}, {'compiled' if self.compiled else 'eager'}"


def cases(config: ProfileConfig) -> list[Case]:
    """All cases of a profile, in the order in which they are measured."""
    return [
        Case(mode=mode, batch_size=size, dtype=dtype, channels_last=channels_last, compiled=compiled)
        for mode in config.modes
        for compiled in ((False, True) if config.torchcompile else (False,))
        for channels_last in ((False, True) if config.channels_last else (False,))
        for dtype in config.dtypes
        for size in config.batch_sizes
    ]


def read_accuracies(given: str | None, names: Sequence[str]) -> dict[str, float]:
    """The accuracies in percent that a user gave for the plot, by network.

    Args:
        given: `ProfileConfig.accuracy`.
        names: the networks.

    Raises:
        ConfigError: it is neither a file nor pairs, or is for none of the networks.
    """
    if given is None:
        return {}
    is_file = Path(given).is_file()
    found = _from_file(Path(given)) if is_file else dict(_pair(part) for part in _parts("accuracy", given))
    # A comparison may hold more networks than are asked for here; a pair was typed for one of them.
    strangers = [name for name in found if name not in names]
    if strangers and (not is_file or len(strangers) == len(found)):
        raise ConfigError(
            f"accuracy must be of the networks in models; got {strangers[0]!r}, not in {', '.join(names)}"
        )
    return {name: value for name, value in found.items() if name in names}


def _pair(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")  # names have options with "=" themselves
    try:
        return name.strip(), _percent(float(value)) if equals and name.strip() else _no_number()
    except ValueError:
        raise ConfigError(
            f"accuracy must be name=value pairs in percent, or a JSON file that is there; got {text!r}"
        ) from None


def _from_file(path: Path) -> dict[str, float]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") == "attnorm-compare":
            metric = content.get("metric", "top1")
            return {each["name"]: each[metric]["mean"] for each in content["models"] if each[metric]}
        return {str(name): _percent(float(value)) for name, value in content.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ConfigError(
            f"accuracy must be a JSON file of names and percent, or a compare.json; {path} is neither"
        ) from None


def _percent(value: float) -> float:
    return value if 0 <= value <= 100 else _no_number()


def _no_number() -> float:
    raise ValueError


def _parts(name: str, text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise ConfigError(f"{name} must name at least one, separated by commas; got {text!r}")
    return parts


def _refuse_repeated(name: str, parts: Sequence[object]) -> None:
    if repeated := [str(part) for index, part in enumerate(parts) if part in parts[:index]]:
        raise ConfigError(f"{name} must be named once each; got {repeated[0]} more than once")


def plain(config: ProfileConfig) -> Mapping[str, Any]:
    """All settings, for JSON."""
    return dict(vars(config))
