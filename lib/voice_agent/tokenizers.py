"""How a text becomes a chunk's `tokens`, by the embedding model of its corpus."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache

__all__ = ["DIMENSIONS", "EMBEDDING_MODEL", "TOKENIZERS", "hashed_words"]

EMBEDDING_MODEL, DIMENSIONS = "feature-hashing-16", 16
"""The example's model: feature hashing needs no weights, so it works on every machine."""
VOCABULARY = 32_000


def hashed_words(text: str) -> list[int]:
    """Return one number below `VOCABULARY` per word, in order; equal words give equal numbers."""
    return [_hashed(word) for word in text.split()]


# Bounded, since an import meets as many words as its documents have misspellings.
@lru_cache(maxsize=1 << 16)
def _hashed(word: str) -> int:
    return zlib.crc32(word.strip(".,;:").lower().encode()) % VOCABULARY


TOKENIZERS: Mapping[str, Callable[[str], list[int]]] = {EMBEDDING_MODEL: hashed_words}
"""What the application can tokenize for, by `rag_corpora.embedding_model`."""
