"""Products with fixed weights, x [T, in] -> x W^T [T, out] in float32: laid out once for the processor, called often.

float32   oneDNN's blocked layout, the products of `F.linear` up to rounding. Few rows, such as a query's, take a third
          of the time, because the weights are read once and in order; many rows a sixth less.
float16   FBGEMM: weights in 16 bits, multiplied and added in float32. A weight that bfloat16 holds is exact in float16
          (8 bits of precision against 11) unless it is smaller than 6e-5, where it is off by 3e-8 at most; so published
          checkpoints lose nothing, and half the bytes are kept and read.
int8      FBGEMM: weights in 7 bits with a scale an output, inputs in 8 bits with a scale a row, sums in 32 bits. A row
          never sees the scale of another, so a text's vector does not depend on those beside it. 7 bits, because AVX2
          adds pairs of products in 16 bits: 2 * 255 * 63 fits, 2 * 255 * 127 does not.

What each gains and loses is measured in docs/results/inference.md. float16 and int8 need an x86 processor; where oneDNN
is missing, float32 is `F.linear`. Limit: the functions are those that PyTorch's own compiler and quantised modules
call. It has announced to remove the latter; a version without them gets a ConfigError for int8 and float16.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from f2llm.core.errors import ConfigError

Product = Callable[[Tensor], Tensor]
_ROWS = 256  # for which oneDNN chooses its layout; other numbers of rows are as fast with it, measured for 1 to 512
_STEPS = ((32, 4), (64, 16), (_ROWS, 64))  # up to so many rows, the number is a multiple of the second
_WEIGHT, _INPUT = 63, 127  # the largest integers of 7 and 8 bits
_SMALLEST = 1e-30


def product(weight: Tensor, kind: torch.dtype) -> Product:
    """The product with a weight [out, in] on the CPU, kept as `kind`; the weight itself is not needed any more.

    ConfigError for float16 and int8 on a processor without FBGEMM. Any other type multiplies in that type.
    """
    weight = weight.detach()
    if kind == torch.float16:
        return partial(_float16, _with_fbgemm(_packed_float16, weight.float()))
    if kind == torch.int8:
        return partial(_int8, _with_fbgemm(_packed_int8, weight.float()))
    if kind == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight.float().contiguous(), _ROWS)
        return partial(_blocked, blocked)
    own = weight.to(kind).clone()
    return lambda x: F.linear(x.to(kind), own).float()


def _blocked(weight: Tensor, x: Tensor) -> Tensor:
    """oneDNN makes and keeps half a megabyte of code for every number of rows, so rows of zeros fill up to a few."""
    rows = len(x)
    if whole := -rows % next((step for most, step in _STEPS if rows <= most), _ROWS):
        x = torch.cat([x, x.new_zeros(whole, x.shape[1])])
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out[:rows]


def _float16(packed: Any, x: Tensor) -> Tensor:
    out: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, packed)
    return out


def _int8(packed: Any, x: Tensor) -> Tensor:
    """Each row is divided by its largest number before, and multiplied by it afterwards."""
    largest = x.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST)
    call = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    out: Tensor = call(x / largest, 1 / _INPUT, _INPUT + 1, packed)
    return out.mul_(largest)


def _packed_float16(weight: Tensor) -> Any:
    return torch.ops.quantized.linear_prepack_fp16(weight, None)


def _packed_int8(weight: Tensor) -> Any:
    scales = (weight.abs().amax(1) / _WEIGHT).clamp_min_(_SMALLEST).double()
    codes = (weight / scales[:, None]).round_().to(torch.int8)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that quantised tensors will leave PyTorch one day
        stored = torch._make_per_channel_quantized_tensor(codes, scales, zeros, 0)
    return torch.ops.quantized.linear_prepack(stored, None)


def _with_fbgemm(pack: Callable[[Tensor], Any], weight: Tensor) -> Any:
    """Lay out a weight with FBGEMM chosen; the choice is one for the process, and put back."""
    before = torch.backends.quantized.engine
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise ConfigError("float16 and int8 on cpu need an x86 processor; give float32 or bfloat16")
    torch.backends.quantized.engine = "fbgemm"
    try:
        return pack(weight)
    except AttributeError:  # of torch.ops
        raise ConfigError(f"torch {torch.__version__} has no float16 and int8 on cpu any more; give float32") from None
    finally:
        torch.backends.quantized.engine = before
