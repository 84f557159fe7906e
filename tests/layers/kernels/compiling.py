"""Compile every kernel for Hopper; run as a script, without the interpreter. No device is needed.

Prints one line of JSON for each: name, bytes of shared memory, number of wide loads and stores, and the number of
pixels where that is a constant.
"""

import json
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attnorm.layers.kernels import affine, attention_backward, gradients, middle_forward, mixture_backward, moments
from attnorm.layers.kernels.launch import middle_settings, pass_settings

HOPPER = GPUTarget("cuda", 90, 32)
FLOATS = ("slope", "eps", "logit_eps", "var_eps", "unbias")


def compile_kernel(kernel, constants, x_type="fp32", ones=()):
    """Compile with 16-byte aligned pointers, int32 sizes, and x, y, dy and dx of one type.

    Sizes named in `ones` become the constant 1, as Triton makes them when they are 1 at launch.
    """
    constants |= dict.fromkeys(set(ones) & set(kernel.arg_names), 1)
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages") if key in constants}
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*" + (x_type if name in ("x_ptr", "y_ptr", "dy_ptr", "dx_ptr") else "fp32")
            attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name in FLOATS else "i32"
    made = triton.compile(ASTSource(kernel, signature, constants, attributes), target=HOPPER, options=options)
    wide = re.findall(r"(?:ld|st)\.global(?:\.\w+::\w+)*\.v\d\.b32", made.asm["ptx"])
    report = {"kernel": kernel.__name__, "shared": made.metadata.shared, "wide": len(wide)}
    print(json.dumps({**report, "pixels": constants.get("pixels")}), flush=True)


def compile_passes(channels_last, x_type, activation, ones=()):
    itemsize = 4 if x_type == "fp32" else 2
    settings = pass_settings(32, 64, 196, channels_last=channels_last, itemsize=itemsize, processors=132)
    compile_kernel(moments._measure_kernel, settings.constants(), x_type, ones)
    for kernel in (affine._apply_kernel, gradients._sums_kernel, gradients._input_gradient_kernel):
        compile_kernel(kernel, {**settings.constants(), "ACTIVATION": activation}, x_type, ones)


def compile_middle(components, gate, logit_norm, pool, ones=()):
    settings = middle_settings(32, 2048, components)
    constants = {**settings.constants(), "GATE": gate, "LOGIT_NORM": logit_norm, "POOL": pool, "LOGIT_POOL": pool}
    pointers = ["logit_mean_ptr", "logit_rstd_ptr", "norm_weight_ptr"]
    absent = dict.fromkeys(pointers if logit_norm == "none" else [])
    bias = {} if logit_norm == "none" else {"logit_bias_ptr": None}
    sizes = {"BLOCK_C": settings.logit_channels, "BLOCK_K": settings.block_components, "num_warps": 4}
    compile_kernel(middle_forward._logits_kernel, {**sizes, **bias}, ones=ones)
    norm_bias = {"norm_bias_ptr": None} if logit_norm == "none" else {}
    compile_kernel(middle_forward._coefficients_kernel, {**constants, **absent, **norm_bias}, ones=ones)
    compile_kernel(mixture_backward.mixture_kernel, {**settings.constants(), "POOL": pool}, ones=ones)
    absent |= {"d" + pointer: value for pointer, value in bias.items()}
    compile_kernel(attention_backward.attention_kernel, {**constants, **absent}, ones=ones)


if __name__ == "__main__":
    compile_passes(False, "fp32", "silu")
    compile_passes(True, "bf16", "hard_swish")
    whole_rows = ("splits", "blocks_per_split")
    compile_passes(False, "fp16", "none", whole_rows)
    compile_passes(True, "fp16", "none", (*whole_rows, "samples", "channels", "pixels"))
    compile_middle(20, "hard_sigmoid", "batch", True)
    compile_middle(100, "softmax", "layer", False)
    compile_middle(10, "sigmoid", "none", False)
    compile_middle(1, "hard_sigmoid", "batch", True, ("samples", "channels", "components", "blocks"))
    compile_middle(1, "softmax", "layer", False, ("samples", "channels", "components", "blocks"))
    compile_kernel(moments._combine_kernel, {"BLOCK": 256})
    compile_kernel(gradients._add_splits_kernel, {"BLOCK": 256})
    compile_kernel(middle_forward._group_statistics_kernel, {"BLOCK": 8, "num_warps": 1}, ones=["size"])
    compile_kernel(mixture_backward.group_kernel, {"BLOCK": 8, "num_warps": 1})
