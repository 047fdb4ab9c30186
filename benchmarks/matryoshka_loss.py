"""What the one-pass matryoshka loss saves against a loop over the dims: time of a forward and backward, memory between.

Run it with: python benchmarks/matryoshka_loss.py --rows 1024 --dim 1024 --runs 5

Workload: the in-batch loss of random queries and documents [rows, dim], dims 8, 16, ... dim, float32, all cores. Both
forms run in this process, in turn; figures are medians. The losses and gradients must agree (1e-4), or there is no
figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from datetime import date

import torch
import torch.nn.functional as F
from torch import Tensor

from f2llm.bench.training import seconds
from f2llm.core.allocator import tune_allocator
from f2llm.core.machine import hardware
from f2llm.model.sizes import matryoshka_dims
from f2llm.train.losses import in_batch_loss, matryoshka_weights

TEMPERATURE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    tune_allocator()
    dims = matryoshka_dims(options.dim)
    generator = torch.Generator().manual_seed(0)
    Q, P = (torch.randn(options.rows, options.dim, generator=generator, requires_grad=True) for _ in range(2))
    target = torch.arange(options.rows)
    forms = {
        "one pass": lambda: in_batch_loss(Q, P, target, dims, TEMPERATURE)[0],
        "loop": lambda: loop(Q, P, dims),
    }
    check(Q, *forms.values())
    found: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.runs):
        for name, form in forms.items():
            found[name].append(measure(Q, P, form))
    median = {name: statistics.median(values) for name, values in found.items()}
    result = {
        "rows": options.rows,
        "dims": dims,
        "milliseconds": {name: round(1000 * value, 1) for name, value in median.items()},
        "kept_MB": {name: round(kept_bytes(form) / 1e6, 1) for name, form in forms.items()},
        "times_faster": round(median["loop"] / median["one pass"], 2),
        "hardware": hardware(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=2))


def loop(Q: Tensor, P: Tensor, dims: list[int]) -> Tensor:
    """The formula as it stands in the paper: every dim by itself."""
    total = torch.zeros(())
    for dim, weight in zip(dims, matryoshka_weights(dims), strict=True):
        cosines = F.normalize(Q[:, :dim], dim=-1) @ F.normalize(P[:, :dim], dim=-1).T
        total = total + weight * F.cross_entropy(cosines / TEMPERATURE, torch.arange(len(Q)))
    return total


def check(Q: Tensor, one_pass: Callable[[], Tensor], by_dim: Callable[[], Tensor]) -> None:
    values, gradients = [], []
    for form in (one_pass, by_dim):
        Q.grad = None
        value = form()
        value.backward()  # type: ignore[no-untyped-call]
        assert Q.grad is not None
        values.append(value.item())
        gradients.append(Q.grad)
    if abs(values[0] / values[1] - 1) > 1e-4 or (gradients[0] - gradients[1]).abs().max() > 1e-4:
        raise SystemExit(f"the two forms differ ({values}); there is nothing to compare")


def kept_bytes(form: Callable[[], Tensor]) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = form()
    del loss
    return sum(kept.values())


def measure(Q: Tensor, P: Tensor, form: Callable[[], Tensor]) -> float:
    """Seconds of a forward and backward."""
    Q.grad = P.grad = None
    return seconds(lambda: form().backward())  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
