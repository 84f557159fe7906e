"""What a comparison is made of: a recipe that all networks share, the networks and the seeds.

Imports nothing heavy: the command line reads its flags from here before torch is loaded.
"""

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from attnorm.detection.config import is_detector, split_name
from attnorm.errors import ConfigError
from attnorm.training.checks import check_recipe
from attnorm.training.config import FREE, Recipe, TrainConfig

T = TypeVar("T", str, int)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Recipe):
    """Several networks, each trained with several seeds by the same recipe.

    In initial_checkpoint, {model} stands for the name of each network and {backbone} for that of a detector's backbone.

    Args:
        models: names of the networks, separated by commas; the first is the baseline that the others are compared
            with. See `attnorm models`. Options may follow a name, such as resnet50:norm=an:gate=softmax.
        ablate: an option with its values, such as num_components=2,5,10: each network is taken with each of them, and
            stays as it is where it has nothing that the option is about. Several options are crossed, as in
            num_components=2,5:gate=sigmoid,softmax. Others are norm, placement, logit_norm, head, statistic, init_gain.
        seeds: seeds, separated by commas. Three are the fewest that give an interval worth reading.
        jobs: trainings at once, each in a process of its own with its share of the cores, or with one of the CUDA
            devices in turn.
        output: folder for the runs, compare.json and report.html. The same command goes on where it was interrupted;
            more networks or seeds can be added later.
    """

    models: str
    ablate: str | None = None
    seeds: str = "0,1,2"
    jobs: int = field(default=1, metadata=FREE)
    output: str = field(metadata=FREE)

    def model_names(self) -> tuple[str, ...]:
        """The networks in the order given.

        Raises:
            ConfigError: there is none, or one is named twice.
        """
        return _distinct("models", [part.strip() for part in self.models.split(",") if part.strip()])

    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds in the order given.

        Raises:
            ConfigError: there is none, one is named twice, or one is not a whole number from 0.
        """
        parts = _distinct("seeds", [part.strip() for part in self.seeds.split(",") if part.strip()])
        if not all(part.isdecimal() for part in parts):
            raise ConfigError(f"seeds must be whole numbers from 0, separated by commas; got {self.seeds!r}")
        return _distinct("seeds", [int(part) for part in parts])

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks in the order given."""
        return self.model_names()

    def run_config(self, model: str, seed: int) -> TrainConfig:
        """The training run of one network with one seed, which goes on from what its folder holds."""
        shared: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(Recipe)}
        if self.initial_checkpoint is not None:
            backbone = split_name(model)[1] if is_detector(model) else model
            file = self.initial_checkpoint.replace("{model}", model).replace("{backbone}", backbone)
            shared["initial_checkpoint"] = file
        return TrainConfig(**shared, model=model, seed=seed, output=self.run_folder(model, seed), resume="auto")

    def run_folder(self, model: str, seed: int) -> str:
        """Where the run of one network with one seed lies."""
        return f"{self.output}/runs/{model}/seed{seed}"


def check_compare(config: CompareConfig) -> None:
    """Refuses what cannot be compared, before data or devices are touched.

    Raises:
        ConfigError: names the field, what it must be and what came.
    """
    config.model_names()
    config.seed_numbers()
    if not config.output.strip():
        raise ConfigError("output must name a folder for the results; got an empty name")
    if config.jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {config.jobs}")
    check_recipe(config)


def _distinct(name: str, values: list[T]) -> tuple[T, ...]:
    if not values:
        raise ConfigError(f"{name} must name at least one, separated by commas; got none")
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ConfigError(f"{name} must be named once each; got {', '.join(map(str, repeated))} more than once")
    return tuple(values)
