import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from f2llm.core.errors import ConfigError, DataError
from f2llm.model import checkpoint
from f2llm.model import prune_directory as module
from f2llm.model.doctor import diagnose
from f2llm.model.prune_directory import RECORD, prune_directory
from f2llm.model.sizes import FAMILY, Shape
from f2llm.model.weights import shapes_of
from tests.conftest import CORPUS, SMALL


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.txt"
    path.write_text("\n\n".join(line for text in CORPUS for line in text.splitlines()), encoding="utf-8")
    return path


def test_several_targets_from_one_pass(
    model_directory: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pruned"
    found = prune_directory(model_directory, ["hidden=32,layers=2", "mlp=40"], calibration, out)
    assert [result.shape for result in found] == [replace(SMALL, hidden=32, layers=2), replace(SMALL, mlp=40)]
    for result in found:
        assert all(finding.ok for finding in diagnose(result.out)), diagnose(result.out)
        assert checkpoint.read_shape(result.out) == result.shape
    settings = checkpoint.read_settings(out / "hidden-32-layers-2")
    assert settings.matryoshka_dims == [8, 16, 32]
    assert settings.prompts == checkpoint.read_settings(model_directory).prompts
    kept = json.loads((out / "hidden-32-layers-2" / RECORD).read_text())
    assert len(kept["channels"]) == 32
    assert kept["layers"] == [0, 1]
    monkeypatch.setattr(module, "score", lambda *_: pytest.fail("the scores lie beside the results"))
    [again] = prune_directory(model_directory, ["params=20K"], calibration, tmp_path / "third")
    assert 19_600 <= again.shape.parameters <= 20_000
    assert again.scores == found[0].scores


def test_nothing_but_a_model_is_replaced(model_directory: Path, calibration: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(model_directory, tmp_path / "mine" / "model"))
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for out, message in (
        (tmp_path / "mine", "would replace the input"),
        (source, "would replace the input"),
        (tmp_path, "would replace the input"),
        (calibration, "exists and is no model"),
    ):
        with pytest.raises(ConfigError, match=message):
            prune_directory(source, ["mlp=40"], calibration, out)
    with pytest.raises(ConfigError, match="exists and is no model"):
        prune_directory(model_directory, ["mlp=40"], calibration, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    assert (source / "config.json").exists()
    prune_directory(model_directory, ["mlp=40"], calibration, source)  # another model may be replaced
    assert checkpoint.read_shape(source).mlp == 40


def test_an_own_text_is_scored_anew(model_directory: Path, calibration: Path, tmp_path: Path) -> None:
    [first] = prune_directory(model_directory, ["mlp=40"], calibration, tmp_path / "a")
    calibration.write_text("Something else.\n")
    [second] = prune_directory(model_directory, ["mlp=40"], calibration, tmp_path / "b")
    assert first.scores != second.scores


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("80M", r"this model has 4/2 heads of 16"),
        ("hidden=64", r"hidden 64 is outside 1 to 48"),
        ("width=3", r"give a size \(80M"),
        ("hidden=many", r"give a size"),
        ("params=lots", r"write the number of parameters as 60M"),
        ("params=5M", r"params=5,000,000 cannot be reached"),
    ],
)
def test_wrong_targets_are_told(
    model_directory: Path, calibration: Path, tmp_path: Path, target: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prune_directory(model_directory, [target], calibration, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_broken_calibration_texts_are_told(model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt is no file"):
        prune_directory(model_directory, ["mlp=40"], tmp_path / "none.txt", tmp_path / "out")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.txt, line 1: .*save the file as UTF-8"):
        prune_directory(model_directory, ["mlp=40"], binary, tmp_path / "out")
    binary.write_bytes(b"\n\n")
    with pytest.raises(DataError, match="no calibration text"):
        prune_directory(model_directory, ["mlp=40"], binary, tmp_path / "out")


WIDE = Shape(hidden=640, layers=24, mlp=2560, heads=4, kv_heads=2, head_dim=64, vocab_size=20_000)


def shard(directory: Path, shape: Shape, tokenizer: Path) -> int:
    """A checkpoint in bfloat16, the token table and every two layers in shards of their own; bytes of the largest."""
    directory.mkdir()
    places: dict[str, str] = {}
    generator = torch.Generator().manual_seed(0)
    groups: dict[str, list[str]] = {}
    for name in shapes_of(shape):
        number = int(name.split(".")[1]) // 2 + 1 if name.startswith("layers.") else 0
        groups.setdefault(f"model-{number:05d}.safetensors", []).append(name)
    expected = shapes_of(shape)
    for file, names in groups.items():
        made = {name: torch.empty(expected[name]).normal_(0, 0.05, generator=generator) for name in names}
        save_file({f"model.{name}": tensor.bfloat16() for name, tensor in made.items()}, directory / file)
        places |= {f"model.{name}": file for name in names}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (directory / "config.json").write_text(json.dumps(checkpoint.config_of(shape)))
    (directory / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return max((directory / file).stat().st_size for file in groups)


MEASURE = """
import sys
from pathlib import Path
from f2llm.model import prune_directory as module

def resident(field):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field))
    return int(line.split()[1]) * 1024

source, calibration, out = map(Path, sys.argv[1:4])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
module.prune_directory(source, ["hidden=64,layers=2,mlp=256"], calibration, out, calibration_tokens=512)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of a process from /proc")
def test_a_sharded_source_needs_one_shard_and_the_result(
    model_directory: Path, calibration: Path, tmp_path: Path
) -> None:
    """The source has 290 MB in 13 shards; the process may grow by a shard, a layer in float32, and the result."""
    source = tmp_path / "wide"
    largest = shard(source, WIDE, model_directory / "tokenizer.json")
    whole = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    command = [sys.executable, "-c", MEASURE, str(source), str(calibration), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    grown = int(done.stdout.split()[-1])
    layer = 4 * (WIDE.parameters - WIDE.embedding_parameters) // WIDE.layers
    result = (tmp_path / "out" / "model.safetensors").stat().st_size
    overhead = 40e6  # code that the first products read in, and their buffers
    assert grown < largest + layer + 3 * result + overhead < 0.4 * whole
    assert load_file(tmp_path / "out" / "model.safetensors")["norm.weight"].dtype == torch.bfloat16


def test_the_family_can_be_named() -> None:
    old = replace(FAMILY["0.6B"], vocab_size=1000)
    found = module.parse_target("160M", old, None, module.Rule())
    assert found == replace(FAMILY["160M"], vocab_size=1000)
