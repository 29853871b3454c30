"""How a dump is compressed: the parameter and its meaning. Layer 1: no files, no programs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from playbook.errors import SettingsError

__all__ = ["AUTO", "Compression", "parse_compression"]

_FORM = re.compile(r"(auto|none|lz4)|(gzip)(?::([1-9]))?|(zstd)(?::(-?\d{1,2}))?")
ZSTD_LEVELS = range(-7, 20)
"""Beyond 19 zstd needs some GB of memory."""


@dataclass(frozen=True)
class Compression:
    """A method and its level; ``str()`` of it is how the parameter is written."""

    method: str
    """``auto``, ``none``, ``gzip``, ``lz4`` or ``zstd``."""
    level: int = 0
    """0 where the method has none."""

    def __str__(self) -> str:
        return f"{self.method}:{self.level}" if self.method in ("gzip", "zstd") else self.method


AUTO = Compression("auto")


def parse_compression(text: str) -> Compression:
    """Return what a parameter ``compression`` means; ``gzip`` is level 6, ``zstd`` level 1.

    Raises:
        SettingsError: it is none of ``auto``, ``zstd:LEVEL``, ``lz4``, ``gzip:LEVEL``, ``none``.
    """
    match = _FORM.fullmatch(text)
    if match and match[4] and int(match[5] or 1) not in ZSTD_LEVELS:
        match = None
    if not match:
        raise SettingsError(
            f"compression={text!r} is not known.",
            remedy="Write -r compression auto, zstd:LEVEL (-7 to 19), lz4, gzip:LEVEL (1 to 9) or "
            "none.",
        )
    if match[2]:
        return Compression("gzip", int(match[3] or 6))
    return Compression("zstd", int(match[5] or 1)) if match[4] else Compression(match[1])
