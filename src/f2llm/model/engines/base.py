"""What runs a model: token ids in, last-token states out. `model.embedder` and the server call nothing else of it.

An engine knows no texts, prompts, dimensions or norms. It may be called from several threads at once, and keeps no
state between calls but the keys and values of some prefixes; a text's state does not depend on the texts beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from f2llm.model.vectors import Vectors

Ids = NDArray[np.integer[Any]]
"""Token ids of one text, [T]."""


class Engine(Protocol):
    """A loaded model: `name` ("torch", "openvino"), hidden size `width`, the `device` that it computes on."""

    name: str
    width: int
    device: str

    def embed(self, texts: Sequence[Ids], prefix: Ids | None = None) -> Vectors:
        """Last-token states [N, width], not normalised, of N texts of one token or more, EOS included.

        Each text is read after `prefix`, which is the same for all of them and is not repeated in the texts; its keys
        and values may be kept for later calls. All texts are computed together, so the caller bounds their number.
        """
        ...
