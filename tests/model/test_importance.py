from pathlib import Path

import pytest
import torch
from torch import Tensor

from f2llm.core.errors import DataError
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.importance import Scores, load_scores, save_scores, score
from f2llm.model.weights import LoadedWeights, StoredWeights
from tests.conftest import SMALL, random_decoder
from tests.model.test_prune import CU, some_ids


def test_scores_are_what_hooks_on_the_whole_decoder_see() -> None:
    """An independent path: the real forward pass of `Decoder`, in float64."""
    decoder, ids = random_decoder(SMALL).double(), some_ids()
    seen: dict[str, list[Tensor]] = {"norm": [], "mlp": [], "layer": []}
    for layer in decoder.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(lambda _, inputs, output: seen["norm"].append(output))
        layer.mlp.down_proj.register_forward_hook(lambda _, inputs, output: seen["mlp"].append(inputs[0]))
        layer.register_forward_hook(lambda _, inputs, output: seen["layer"].extend([inputs[0], output]))
    decoder.norm.register_forward_hook(lambda _, inputs, output: seen["norm"].append(output))
    with torch.no_grad():
        decoder(ids, CU)
        found = score(LoadedWeights(decoder), [(ids, CU)])
    norms, mlp = torch.stack(seen["norm"]), torch.stack(seen["mlp"])
    torch.testing.assert_close(found.hidden_square, norms.square().sum(1))
    torch.testing.assert_close(found.hidden_abs, norms.abs().sum(1))
    torch.testing.assert_close(found.hidden_sum, norms.sum(1))
    torch.testing.assert_close(found.mlp_square, mlp.square().sum(1))
    before, after = torch.stack(seen["layer"][::2]), torch.stack(seen["layer"][1::2])
    turned = 1 - torch.cosine_similarity(before, after, dim=-1)
    torch.testing.assert_close(found.influence, turned.mean(1))
    stretched = ((after.norm(dim=-1) - before.norm(dim=-1)) / before.norm(dim=-1)).abs()
    torch.testing.assert_close(found.norm_change, stretched.mean(1))
    variance = norms.var(1, unbiased=False)[found.norms_of([0, 2])].sum(0)
    torch.testing.assert_close(found.hidden([0, 2], "variance", "sum", 0), variance)


def test_batches_add_up(small_decoder: Decoder) -> None:
    weights, ids = LoadedWeights(small_decoder), some_ids()
    once, twice = score(weights, [(ids, CU)]), score(weights, [(ids, CU), (ids, CU)])
    assert twice.tokens == 2 * once.tokens
    torch.testing.assert_close(twice.hidden_square, 2 * once.hidden_square)
    torch.testing.assert_close(twice.influence, once.influence)
    torch.testing.assert_close(once.energy.mean(1), torch.ones(7, dtype=torch.float64), rtol=0.01, atol=0)


def test_stored_weights_score_like_loaded_ones(model_directory: Path, small_decoder: Decoder) -> None:
    stored = StoredWeights(model_directory, checkpoint.read_shape(model_directory))
    one, other = (score(weights, [(some_ids(), CU)]) for weights in (stored, LoadedWeights(small_decoder)))
    for name, value in vars(one).items():
        torch.testing.assert_close(value, getattr(other, name), rtol=1e-9, atol=1e-12)


def test_scores_are_found_again_by_their_identity(small_decoder: Decoder, tmp_path: Path) -> None:
    found, path = score(LoadedWeights(small_decoder), [(some_ids(), CU)]), tmp_path / "scores.safetensors"
    assert load_scores(path, "a") is None
    save_scores(found, path, "a")
    again = load_scores(path, "a")
    assert isinstance(again, Scores)
    assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(getattr(again, n))) for n, v in vars(found).items())
    assert load_scores(path, "b") is None, "another model or text"
    path.write_bytes(b"damaged")
    assert load_scores(path, "a") is None


def test_no_text_is_told(small_decoder: Decoder) -> None:
    with pytest.raises(DataError, match="no calibration text"):
        score(LoadedWeights(small_decoder), [])
