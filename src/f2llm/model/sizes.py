"""The shapes of the family: how wide, how deep, how many parameters, how trained, by whom taught (F2LLM-v2, Table 1).

A shape is Qwen3's dense decoder without the language-model head: the model ends at the last hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass

from f2llm.core.errors import ConfigError

QWEN3_VOCAB = 151_936
"""Rows of Qwen3's embedding table: 151,669 tokens, padded to a multiple of 128."""


@dataclass(frozen=True)
class Shape:
    """One decoder's dimensions; all counts, none in bytes.

    `heads * head_dim` need not equal `hidden`: pruning narrows the residual stream and leaves the heads alone.
    """

    hidden: int
    layers: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float = 1e6
    rms_eps: float = 1e-6
    max_positions: int = 40_960

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the token table."""
        return self.vocab_size * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, the token table included, no language-model head."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.mlp + 2 * self.hidden + 2 * self.head_dim
        return self.embedding_parameters + self.layers * layer + self.hidden

    def validate(self) -> None:
        """ConfigError where no decoder of this shape can exist."""
        for name in ("hidden", "layers", "mlp", "heads", "kv_heads", "head_dim", "vocab_size", "max_positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"shape.{name} is {getattr(self, name)}; give a positive number")
        if self.heads % self.kv_heads:
            raise ConfigError(f"shape.heads is {self.heads}; give a multiple of kv_heads, which is {self.kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"shape.head_dim is {self.head_dim}; rotary positions need an even number")
        if self.rope_theta <= 0 or self.rms_eps <= 0:
            raise ConfigError(f"shape.rope_theta is {self.rope_theta}, rms_eps {self.rms_eps}; both must be positive")


FAMILY: dict[str, Shape] = {
    "80M": Shape(320, 8, 2048, 16, 8, 128, QWEN3_VOCAB),
    "160M": Shape(640, 9, 1536, 16, 8, 128, QWEN3_VOCAB),
    "330M": Shape(896, 16, 2560, 16, 8, 128, QWEN3_VOCAB),
    "0.6B": Shape(1024, 28, 3072, 16, 8, 128, QWEN3_VOCAB),
    "1.7B": Shape(2048, 28, 6144, 16, 8, 128, QWEN3_VOCAB),
    "4B": Shape(2560, 36, 9728, 32, 8, 128, QWEN3_VOCAB),
    "8B": Shape(4096, 36, 12288, 32, 8, 128, QWEN3_VOCAB),
    "14B": Shape(5120, 40, 17408, 40, 8, 128, QWEN3_VOCAB),
}
"""The eight published sizes; 80M, 160M and 330M are pruned from 0.6B."""

TEACHERS: dict[str, str] = {"80M": "0.6B", "160M": "0.6B", "330M": "0.6B", "0.6B": "1.7B", "1.7B": "4B"}
"""Student -> teacher; 4B and above are trained without one."""

LEARNING_RATES: dict[str, float] = {
    "80M": 4e-5, "160M": 3e-5, "330M": 2e-5, "0.6B": 1e-5, "1.7B": 9e-6, "4B": 7e-6, "8B": 6e-6, "14B": 5e-6,
}  # fmt: skip
"""Peak learning rates, at 512 queries a step."""

EPOCHS: dict[str, int] = {"80M": 4, "160M": 3, "330M": 3, "0.6B": 2, "1.7B": 2, "4B": 2, "8B": 2, "14B": 2}
"""Passes over the training data."""


def matryoshka_dims(hidden: int, min_dim: int = 8) -> list[int]:
    """The nested dimensions, ascending: powers of two from `min_dim` to below `hidden`, then `hidden` itself."""
    powers = (2**exponent for exponent in range(hidden.bit_length()))
    return [power for power in powers if min_dim <= power < hidden] + [hidden]


def inference_bytes(shape: Shape, tokens: int, bytes_per_number: int) -> int:
    """Bytes that a CPU needs for the weights and one forward pass, without gradients, over a pack of `tokens` tokens.

    Counted is the fullest moment of a layer: where attention puts the runs of a pack together, or where SwiGLU writes
    its product. Not counted: a chunk of element-wise work (some 6 MB), copies of a shared prefix's keys and values, and
    what the heap wastes (1.2 to 1.5 times the sum, measured). A GPU does not work in chunks: its passing part is up to
    1.3 times as large in float32, 1.7 times in bfloat16.
    """
    inner, kv_inner = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    rotary = 2 * shape.head_dim
    # Residual stream and its norm; query, key, value; what is attended to, run by run and joined, or o_proj's output.
    attention = 2 * shape.hidden + (inner + 2 * kv_inner) + inner + max(inner, shape.hidden)
    # Residual stream before and after attention, and its norm; gate, up and product, or product and down_proj's output.
    mlp = 3 * shape.hidden + shape.mlp + max(2 * shape.mlp, shape.hidden)
    return bytes_per_number * (shape.parameters + tokens * (rotary + max(attention, mlp)))
