"""timm's RandAugment and its relatives, with random numbers that are the sample's own.

timm draws from the global states of `random` and NumPy. Here both are set from the sample's stream for the length of
one call and put back after it, so that an image depends on (seed, epoch, sample) alone, as in
:mod:`attnorm.data.augment`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

from attnorm.errors import ConfigError

_TRANSLATION = 0.45  # largest shift, as a share of the image's side; timm's own training script has the same


class Policy:
    """Random changes of colour and geometry, named as timm names them.

    Sources: E. Cubuk et al., "RandAugment", arXiv 1909.13719; "AutoAugment", arXiv 1805.09501.

    Args:
        name: for example "rand-m9-mstd0.5" (two changes of magnitude 9 with a spread of 0.5).
        image_size: side of the images, pixels.
        resample: for changes of geometry.
        mean: per channel, on the scale 0 to 1; fills what comes in from outside.

    Raises:
        ConfigError: timm does not understand the name.
    """

    def __init__(self, name: str, *, image_size: int, resample: Image.Resampling, mean: Sequence[float]) -> None:
        try:
            self._change = _make(name, image_size, resample, mean)
        except (AssertionError, ValueError, KeyError) as error:
            raise ConfigError(
                f'aa must be a policy of timm such as "rand-m9-mstd0.5"; got "{name}" ({error or "not understood"})'
            ) from None

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """A changed copy of an RGB image; the numbers come from `rng`."""
        with _global_numbers_from(rng):
            return self._change(image)


def _make(
    name: str, image_size: int, resample: Image.Resampling, mean: Sequence[float]
) -> Callable[[Image.Image], Image.Image]:
    from timm.data import auto_augment

    settings = {
        "translate_const": int(image_size * _TRANSLATION),
        "img_mean": tuple(round(255 * value) for value in mean),
        "interpolation": resample,
    }
    kind = name.partition("-")[0]
    if kind == "rand":
        return auto_augment.rand_augment_transform(name, settings)
    if kind == "augmix":
        return auto_augment.augment_and_mix_transform(name, settings)
    return auto_augment.auto_augment_transform(name, settings)


@contextmanager
def _global_numbers_from(rng: np.random.Generator) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  timm draws from this state
    random.seed(int(rng.integers(2**63)))
    np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
