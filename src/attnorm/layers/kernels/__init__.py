"""The layer's steps as Triton kernels, for CUDA; Triton's interpreter runs them on a CPU, slowly, for the tests.

The steps are the five of :mod:`attnorm.layers.eager`, with the same arguments and meaning. Importing this package
imports triton where it is installed; where it is not, only :func:`obstacle` exists, and says so.
"""

from importlib.util import find_spec

from attnorm.layers.kernels.obstacle import obstacle

__all__ = ["obstacle"]

if find_spec("triton") is not None:
    from attnorm.layers.kernels.affine import apply
    from attnorm.layers.kernels.gradients import gradient_sums, input_gradient
    from attnorm.layers.kernels.library import attentive_norm
    from attnorm.layers.kernels.middle import coefficients, coefficients_backward
    from attnorm.layers.kernels.moments import measure

    __all__ += [
        "apply",
        "attentive_norm",
        "coefficients",
        "coefficients_backward",
        "gradient_sums",
        "input_gradient",
        "measure",
    ]
