"""The shapes of the family: how wide, how deep, how many parameters, who teaches whom (F2LLM-v2, Table 1).

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


def matryoshka_dims(hidden: int, min_dim: int = 8) -> list[int]:
    """The nested dimensions, ascending: powers of two from `min_dim` to below `hidden`, then `hidden` itself."""
    powers = (2**exponent for exponent in range(hidden.bit_length()))
    return [power for power in powers if min_dim <= power < hidden] + [hidden]
