"""Time and memory of `f2llm prune` from a large shape with random weights to the three small ones of the family.

    python benchmarks/prune_large.py                          # 0.6B -> 80M, 160M, 330M
    python benchmarks/prune_large.py --shape 1.7B --shards 4 --to hidden=1024,layers=14,mlp=3072

The source is written in bfloat16, whole or in shards; its tokenizer is learnt from the calibration text, random
words. The command runs in a process of its own, whose highest resident memory is what the kernel says (pages that are
mapped from the source's files count too, though the kernel may drop them at any time).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from f2llm.model.checkpoint import config_of
from f2llm.model.sizes import FAMILY, Shape
from f2llm.model.weights import INDEX, WEIGHTS, shapes_of
from f2llm.text.tokenizer import Tokenizer


def fabricate(directory: Path, shape: Shape, shards: int) -> None:
    """A Qwen3 directory with random weights; no more than a shard of it is ever in memory."""
    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    for number, names in enumerate(groups(shape, shards), start=1):
        file = WEIGHTS if shards == 1 else f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(dict(random_tensors(shape, names, generator)), directory / file, metadata={"format": "pt"})
        places |= dict.fromkeys((f"model.{name}" for name in names), file)
    if shards > 1:
        (directory / INDEX).write_text(json.dumps({"weight_map": places}))
    (directory / "config.json").write_text(json.dumps(config_of(shape)))


def groups(shape: Shape, shards: int) -> Iterator[list[str]]:
    names = list(shapes_of(shape))
    size = -(-len(names) // shards)
    yield from (names[start : start + size] for start in range(0, len(names), size))


def random_tensors(shape: Shape, names: list[str], generator: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    shapes = shapes_of(shape)
    for name in names:
        tensor = torch.empty(shapes[name], dtype=torch.bfloat16)
        yield f"model.{name}", tensor.normal_(0, 0.02, generator=generator) if tensor.dim() > 1 else tensor.fill_(1)


def calibration(path: Path) -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(5000)]
    path.write_text("\n".join(" ".join(generator.choices(words, k=generator.randint(3, 40))) for _ in range(3000)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.6B", choices=list(FAMILY))
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--to", nargs="+", default=["80M", "160M", "330M"])
    parser.add_argument("--calibration-tokens", type=int, default=16_384)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        source, text = Path(place) / "source", Path(place) / "calibration.txt"
        source.mkdir()
        fabricate(source, FAMILY[arguments.shape], arguments.shards)
        calibration(text)
        Tokenizer.train(text.read_text().splitlines(), 8192, 1024).save(source)
        command = [sys.executable, "-m", "f2llm", "prune", str(source), "--calibration", str(text), "--json"]
        command += ["--out", f"{place}/pruned", "--calibration-tokens", str(arguments.calibration_tokens)]
        for target in arguments.to:
            command += ["--to", target]
        started = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        seconds = time.perf_counter() - started
        files = [file.stat().st_size for file in source.glob("*.safetensors")]
        results = [sum(f.stat().st_size for f in Path(place, "pruned").rglob("model.safetensors"))]
    facts = {
        "source": arguments.shape,
        "source_gb": round(sum(files) / 1e9, 2),
        "largest_shard_gb": round(max(files) / 1e9, 2),
        "results_gb": round(results[0] / 1e9, 2),
        "parameters": [model["parameters"] for model in json.loads(done.stdout)["models"]],
        "calibration_tokens": arguments.calibration_tokens,
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 2),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
