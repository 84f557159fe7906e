"""The authors' released checkpoints: read without running their pickles, recognised, and mapped to our networks."""

from attnorm.models.released.names import SCHEMES, Scheme
from attnorm.models.released.release import Released, load_released, read_released, to_released
from attnorm.models.released.report import LoadReport

__all__ = ["SCHEMES", "LoadReport", "Released", "Scheme", "load_released", "read_released", "to_released"]
