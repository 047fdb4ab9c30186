"""The memory plan against what autograd saves and what the kernel counts."""

import io
import json
import subprocess
import sys
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from f2llm.core.errors import ConfigError
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import FAMILY, Shape
from f2llm.train import memory
from f2llm.train.memory import MemoryPlan, micro_batch_tokens_for, plan_memory, saved_bytes

SMALL = [Shape(40, 2, 112, 4, 2, 24, 500), Shape(64, 3, 96, 4, 1, 32, 300), Shape(32, 1, 64, 2, 2, 16, 100)]
LENGTHS = [10, 10, 10, 25, 70]
CPU = torch.device("cpu")


def meta(shape: Shape) -> Decoder:
    with torch.device("meta"):
        return Decoder(shape)


def plan(shape: Shape = FAMILY["80M"], tokens: int = 4096, **options: object) -> MemoryPlan:
    return plan_memory(shape, micro_batch_tokens=tokens, **options)  # type: ignore[arg-type]


def storages_saved(decoder: nn.Module, *arguments: object, **options: object) -> dict[int, int]:
    """Bytes of each storage that a forward pass saves, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            found[place] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        decoder(*arguments, **options)
    return found


def measured(shape: Shape, checkpoint_activations: bool) -> int:
    decoder = Decoder(shape, checkpoint_activations=checkpoint_activations)
    decoder.init_weights(0)
    ids = torch.randint(shape.vocab_size, (sum(LENGTHS),))
    return sum(storages_saved(decoder, ids, [0, *accumulate(LENGTHS)], last_token_only=True).values())


@pytest.mark.parametrize("size", FAMILY)
def test_the_lasting_parts_are_those_of_the_decoder(size: str) -> None:
    decoder = meta(FAMILY[size])
    parameters = sum(parameter.numel() for parameter in decoder.parameters())
    linear = sum(module.weight.numel() for module in decoder.modules() if isinstance(module, nn.Linear))
    made = plan(FAMILY[size], precision="bf16")
    assert (made.weights, made.gradients, made.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)
    assert made.copies == 2 * linear
    assert made.table_gradient == 4 * decoder.embed_tokens.weight.numel()
    assert made.total == 16 * parameters + made.activations + made.copies
    assert made.passing == made.copies


def test_fsdp_divides_what_lasts_and_gathers_one_layer_and_the_root() -> None:
    shape = FAMILY["0.6B"]
    whole, part = plan(shape), plan(shape, processes=8, strategy="fsdp", precision="bf16")
    assert (part.weights, part.gradients, part.optimizer) == (whole.weights // 8, whole.gradients // 8, whole.optimizer // 8)  # fmt: skip  # noqa: E501
    decoder = meta(shape)
    layer = sum(parameter.numel() for parameter in decoder.layers[0].parameters())
    root = decoder.embed_tokens.weight.numel() + decoder.norm.weight.numel()
    assert part.gathered == 2 * (layer + root) + 4 * layer
    assert part.copies == 0
    assert part.table_gradient == whole.table_gradient


def test_ddp_divides_nothing() -> None:
    assert plan(processes=8, strategy="ddp") == plan(processes=1, strategy="single")


def test_the_gradient_of_the_token_table_counts_where_it_outgrows_the_activations() -> None:
    made = plan(FAMILY["80M"], tokens=1)
    assert made.total == made.weights + made.gradients + made.optimizer + made.table_gradient


@pytest.mark.parametrize("shape", SMALL)
def test_activations_are_what_autograd_saves(shape: Shape) -> None:
    predicted = saved_bytes(shape, sum(LENGTHS), len(LENGTHS), "fp32", False)
    assert 0.6 < measured(shape, False) / predicted < 1.6


@pytest.mark.parametrize("shape", SMALL)
def test_checkpointing_keeps_the_layers_inputs_and_one_layer(shape: Shape) -> None:
    inputs = measured(shape, True)
    one_layer = measured(Shape(**{**asdict(shape), "layers": 2}), False) if shape.layers > 1 else measured(shape, False)
    predicted = saved_bytes(shape, sum(LENGTHS), len(LENGTHS), "fp32", True)
    assert shape.layers * shape.hidden * sum(LENGTHS) * 4 <= inputs < predicted
    assert 0.6 < max(inputs, one_layer) / predicted < 1.6


STEPS = """
import ctypes, sys, torch
from pathlib import Path
from f2llm.core.allocator import tune_allocator
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape
from f2llm.train.optim import make_optimizer

def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

def steps(shape, texts, length, count, recompute):
    decoder = Decoder(shape, checkpoint_activations=recompute)
    decoder.init_weights(0)
    optimizer = make_optimizer(decoder, weight_decay=0.01, betas=(0.9, 0.98))
    bounds = list(range(0, texts * length + 1, length))
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        for micro_batch in range(2):
            ids = torch.randint(shape.vocab_size, (texts * length,))
            decoder(ids, bounds, last_token_only=True).square().sum().backward()
        optimizer.step()

if sys.argv[1] == "exact":  # every block of 128 KiB or more is mapped alone and goes back at once
    ctypes.CDLL(None).mallopt(-3, 2**17)
else:
    tune_allocator()
torch.set_num_threads(1)
steps(Shape(8, 2, 8, 2, 1, 4, 16), 2, 3, 1, False)
before = peak()
hidden, layers, mlp, vocab, texts, recompute = map(int, sys.argv[2:])
steps(Shape(hidden, layers, mlp, 8, 4, 64, vocab), texts, 50, 2, bool(recompute))
print(peak() - before)
"""


def peak_growth(allocator: str, case: tuple[int, ...]) -> int:
    """How much two steps of two micro-batches raise the high-water mark of a new process.

    Not `ru_maxrss`: a new process inherits that from the one that starts it.
    """
    command = [sys.executable, "-c", STEPS, allocator, *map(str, case)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def plan_of(case: tuple[int, ...]) -> MemoryPlan:
    hidden, layers, mlp, vocab, texts, recompute = case
    shape = Shape(hidden, layers, mlp, 8, 4, 64, vocab)
    return plan(shape, 50 * texts, sequences=texts, checkpoint_activations=bool(recompute))


# hidden, layers, mlp, vocab, texts of 50 tokens, checkpoint_activations
CASES = {
    "activations": (256, 4, 1024, 8192, 60, 0),
    "checkpointing": (128, 8, 512, 4096, 60, 1),
    "token table": (256, 2, 512, 60_000, 8, 0),
}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and sets glibc's allocator")


@linux
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_counts_what_was_planned(name: str) -> None:
    assert peak_growth("exact", CASES[name]) == pytest.approx(plan_of(CASES[name]).total, rel=0.15)


@linux
def test_the_hosts_share_covers_what_the_heap_wastes() -> None:
    case = CASES["activations"]
    assert peak_growth("tuned", case) < plan_of(case).total / memory.HOST_SHARE


def test_the_automatic_budget_is_the_largest_that_fits() -> None:
    shape, found = FAMILY["160M"], []
    for budget in range(4 * 10**9, 40 * 10**9, 3 * 10**9):
        tokens = micro_batch_tokens_for(shape, budget)
        assert tokens % 256 == 0
        assert plan(shape, tokens).total <= budget < plan(shape, tokens + 256).total
        found.append(tokens)
    assert found == sorted(found)
    assert micro_batch_tokens_for(shape, 8 * 10**9, checkpoint_activations=True) > micro_batch_tokens_for(shape, 8 * 10**9)  # fmt: skip  # noqa: E501


def test_the_automatic_budget_may_be_just_256_tokens() -> None:
    least = plan(FAMILY["80M"], 256).total
    assert micro_batch_tokens_for(FAMILY["80M"], least) == 256
    with pytest.raises(ConfigError, match=r"needs 1\.\d\d GB .* 1\.00 GB"):
        micro_batch_tokens_for(FAMILY["80M"], 10**9)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_free_memory_is_that_of_the_machine_without_cgroups(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  1000 kB\n", "proc/self/cgroup": "5:cpu:/\n0::/\n"})
    assert memory.available_bytes(CPU, tmp_path) == 1000 * 1024 // 2


def test_a_cgroup_of_version_2_limits_even_from_above(tmp_path: Path) -> None:
    cgroup = "sys/fs/cgroup/outer"
    write(tmp_path, {"proc/meminfo": "MemAvailable: 9000 kB\n", "proc/self/cgroup": "0::/outer/inner\n"})
    write(tmp_path, {f"{cgroup}/inner/memory.max": "max\n", f"{cgroup}/inner/memory.current": "50\n"})
    write(tmp_path, {f"{cgroup}/memory.max": "5000\n", f"{cgroup}/memory.current": "4500\n"})
    write(tmp_path, {f"{cgroup}/memory.stat": "anon 4000\ninactive_file 500\n"})
    assert memory.available_bytes(CPU, tmp_path) == 500


def test_a_cgroup_of_version_1_may_be_mounted_as_the_root(tmp_path: Path) -> None:
    cgroup = "sys/fs/cgroup/memory"
    write(tmp_path, {"proc/meminfo": "MemAvailable: 9000 kB\n", "proc/self/cgroup": "4:cpu,memory:/docker/1\n0::/\n"})
    write(tmp_path, {f"{cgroup}/memory.limit_in_bytes": "3000\n", f"{cgroup}/memory.usage_in_bytes": "2000\n"})
    assert memory.available_bytes(CPU, tmp_path) == 500


def test_free_memory_is_half_the_machine_where_nothing_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.available_bytes(CPU, tmp_path) == memory.FALLBACK // 4


def test_tables_and_sentences() -> None:
    plans = memory.family_plans(8192, "bf16", 8, "fsdp")
    assert [made.name for made in plans] == list(FAMILY)
    assert json.loads(json.dumps([asdict(made) for made in plans]))[0]["total"] == plans[0].total
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(memory.memory_table(plans))
    assert f"{plans[3].total / 1e9:.2f}" in console.export_text()
    assert memory.describe(plans[0]).startswith("80M needs ")
