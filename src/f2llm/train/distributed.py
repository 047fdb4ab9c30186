"""Several processes train one model: who they are, how they talk, and how the model is spread over them.

A global batch is the same on any number of processes. Each embeds its share of the batch's texts, all gather the
embeddings, each computes the loss of the whole batch and carries the gradient of its own texts back. So every loss sees
all negatives, with gradient, and N processes give the gradient of one. Communication a step: the embeddings [N, D]
once, and the gradients (DDP: all-reduce; FSDP2: all-gather of weights and reduce-scatter of gradients, layer by layer).

Started by `torchrun`, whose environment variables tell rank and size; without them there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from f2llm.core.errors import ConfigError, F2LLMError
from f2llm.model.decoder import Decoder
from f2llm.model.pack import Pack, embed

T = TypeVar("T")
Strategy = Literal["fsdp", "ddp"]
Precision = Literal["fp32", "bf16"]
_PATIENCE = timedelta(days=7)  # one process prepares data while the others wait


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, computing on `device`; `control` is for small messages between CPUs."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks (pickled, between our own processes only)."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.size == 1:
            return flag
        vote = torch.tensor([int(flag)])
        dist.all_reduce(vote, op=dist.ReduceOp.MAX, group=self.control)
        return bool(vote.item())

    def together(self, action: Callable[[], T]) -> T:
        """Run `action` in every process; where it fails in one, it fails in all, with the first one's error."""
        result, error = None, None
        try:
            result = action()
        except F2LLMError as problem:
            error = problem
        errors = [other for other in self.gather(error) if other is not None]
        if errors:
            raise errors[0]
        return result  # type: ignore[return-value]

    def main_first(self, action: Callable[[], T]) -> T | None:
        """Run `action` in the main process while the others wait; they get None."""
        return self.together(lambda: action() if self.is_main else None)

    def gather_rows(self, own: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Rows [n, D] of all processes, of which the r-th has `counts[r]`; without gradient."""
        if self.size == 1:
            return [own]
        padded = own.new_zeros(max(counts), own.shape[1])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return [rows[:count] for rows, count in zip(found, counts, strict=True)]


def join_world() -> World:
    """The world that `torchrun` describes; a world of one without it."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda, place = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and place >= (count := torch.cuda.device_count()):
        raise ConfigError(f"process {place} of this machine has no GPU of its own, there are {count}; start {count}")
    device = torch.device("cuda", place) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    return World(rank, size, device, dist.new_group(backend="gloo", timeout=_PATIENCE))


def leave_world(world: World) -> None:
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


class Replica:
    """The decoder as this process holds it: whole, whole with averaged gradients (DDP), or a shard (FSDP2).

    The decoder's parameters are what the optimizer gets and what checkpoints hold. Matrix products run in bfloat16
    where `precision` says so; weights, gradients, normalisation and losses stay float32.
    """

    def __init__(self, decoder: Decoder, world: World, strategy: Strategy, precision: Precision) -> None:
        self.world, self.precision = world, precision
        self.sharded = world.size > 1 and strategy == "fsdp"
        self.decoder = _shard(decoder, world, precision) if self.sharded else decoder.to(world.device)
        self.module: nn.Module = self.decoder
        if world.size > 1 and not self.sharded:
            self.module = nn.parallel.DistributedDataParallel(self.decoder, gradient_as_bucket_view=True)

    def embed(self, pack: Pack, *, last: bool = True) -> Tensor:
        """Embeddings [N, D] in float32 of a pack's texts; `last`: gradients are averaged after this pack's backward."""
        module = self.module if torch.is_grad_enabled() else self.decoder
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module.require_backward_grad_sync = last
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return embed(module, pack)  # type: ignore[arg-type]  # called as the decoder is

    def whole_state(self) -> dict[str, Tensor]:
        """Every parameter whole, on the CPU, in the main process; nothing in the others. All must call it."""
        state = {}
        for name, value in self.decoder.state_dict().items():
            gathered = whole(value)
            if self.world.is_main:
                state[name] = gathered.detach().cpu()
        return state


def whole(value: Tensor) -> Tensor:
    """A tensor that may be spread over processes, gathered."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be spread over processes."""
    return value.to_local() if isinstance(value, DTensor) else value


def spread_like(part: Tensor, like: Tensor) -> Tensor:
    """`part` as this process's part of a tensor that is spread as `like` is."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def _shard(decoder: Decoder, world: World, precision: Precision) -> Decoder:
    """Every layer is a unit of its own; the token table and the last norm are the root's. Reductions are float32.

    Weights move to the device layer by layer, so that it never holds more than its shard and one layer.
    """
    half = torch.bfloat16 if precision == "bf16" else None  # for the layers; the token table stays as exact as it is
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(decoder, mesh=mesh)
    return decoder
