"""Classification as a task: which class an image is of."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from attnorm.data import ImageData
from attnorm.errors import ConfigError
from attnorm.models import create_model
from attnorm.models.described_network import known_name
from attnorm.models.initialise import initialise_as_released
from attnorm.models.spec import parse_spec
from attnorm.models.torchvision_networks import is_torchvision
from attnorm.models.transfer import TransferReport, pretrained_weights, take_weights
from attnorm.training.checkpoint import CheckpointMeta
from attnorm.training.config import TrainConfig
from attnorm.training.evaluation import evaluate
from attnorm.training.metric import TOP1
from attnorm.training.objective import draw_mix, mixed_loss, prepare_images
from attnorm.training.record import versions
from attnorm.training.task import Place, Row


class Classification:
    """See `attnorm.training.task.Task`. A batch is uint8 images (N, C, H, W) and labels (N,).

    Args:
        config: the run.
        data: both parts.
    """

    metric = TOP1
    metrics: tuple[str, ...] = ("val_loss", "top1", "top5")

    def __init__(self, config: TrainConfig, data: ImageData) -> None:
        self.config, self.data = config, data
        self.notes: tuple[str, ...] = ()
        self.initial: TransferReport | None = None
        self.train, self.val = data.train, data.val
        self._mean, self._std = torch.tensor(data.mean), torch.tensor(data.std)

    def network(self) -> nn.Module:
        """The network with the initial weights that the seed gives."""
        config, data = self.config, self.data
        if self._num_classes < len(data.classes):
            raise ConfigError(
                f"num_classes must be at least {len(data.classes)} for {data.name}, got {self._num_classes}"
            )
        in_chans = config.in_chans or data.in_chans
        if in_chans != data.in_chans:
            raise ConfigError(f"in_chans must be {data.in_chans} for {data.name}, got {in_chans}")
        rates = {"drop_rate": config.drop, "drop_path_rate": config.drop_path}
        torch.manual_seed(config.seed)
        try:
            model = create_model(
                config.model,
                num_classes=self._num_classes,
                in_chans=in_chans,
                **{name: rate for name, rate in rates.items() if rate > 0},
            )
        except TypeError as error:
            raise ConfigError(f"{config.model} does not take these settings ({error}); leave them out") from None
        if config.init == "released":
            model = initialise_as_released(model)
        if config.pretrained:
            weights = pretrained_weights(config.model, in_chans)
            self.initial = take_weights(model, weights, name=f"timm's {config.model}")
        elif config.initial_checkpoint is not None:
            self.initial = take_weights(model, config.initial_checkpoint)
        return model

    @property
    def _num_classes(self) -> int:
        return self.config.num_classes or len(self.data.classes)

    def _registered_name(self, model: nn.Module) -> str:
        """The network's name; of one from a hub or a folder, timm's own, by which it is built without them."""
        source = parse_spec(self.config.model).name
        if ":" not in source or is_torchvision(source):
            return self.config.model
        return known_name(model) + self.config.model.removeprefix(source)

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor], place: Place) -> dict[str, Tensor]:
        """The cross entropy, with what the recipe has of mixup, CutMix and label smoothing."""
        images, labels = batch
        config = self.config
        self._mean, self._std = self._mean.to(images.device), self._std.to(images.device)
        images = prepare_images(images, self._mean, self._std, channels_last=config.channels_last)
        size = (images.shape[2], images.shape[3])
        mix = draw_mix(config.mixup, len(labels), place, images.device, cutmix=config.cutmix, size=size)
        logits = model(images if mix is None else mix.images(images))
        return {"train_loss": mixed_loss(logits, labels, smoothing=config.smoothing, mix=mix)}

    def evaluate(self, model: nn.Module, loader: Iterable[Any], device: torch.device) -> Row:
        """Top-1 and top-5 in percent, and the cross entropy without smoothing."""
        result = evaluate(
            model,
            loader,
            mean=self.data.mean,
            std=self.data.std,
            device=device,
            precision=self.config.precision,
            channels_last=self.config.channels_last,
        )
        return {
            # A network may be evaluated outside the finite numbers although its training loss is finite; JSON has no
            # word for that.
            "val_loss": result["loss"] if math.isfinite(result["loss"]) else None,
            "top1": result["top1"],
            "top5": result["top5"],
            "val_count": result["count"],
        }

    def header(self, model: nn.Module) -> CheckpointMeta:
        """Network, classes and the preparation of the images."""
        data = self.data
        return CheckpointMeta(
            model=self._registered_name(model),
            num_classes=self._num_classes,
            in_chans=data.in_chans,
            classes=tuple(data.classes),
            dataset=data.name,
            image_size=data.image_size,
            mean=tuple(data.mean),
            std=tuple(data.std),
            crop_pct=data.crop_pct,
            interpolation=data.interpolation,
            attnorm_version=versions()["attnorm"],
        )

    def facts(self) -> dict[str, Any]:
        """Name, classes, channels, size and normalisation of the images."""
        data = self.data
        return {
            "name": data.name,
            "classes": list(data.classes),
            "in_chans": data.in_chans,
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
        }

    def line(self, row: Row) -> str:
        """Loss and accuracy."""
        val_loss = "inf" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
        return f"val loss {val_loss}  top-1 {row['top1']:.2f}  top-5 {row['top5']:.2f}"
