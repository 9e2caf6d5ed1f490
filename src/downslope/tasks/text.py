"""The data of the task `text`: English prose and Python code that every Python brings along.

It is the text of `help()` topics (`pydoc_data.topics`), or, where a distribution leaves those out,
the source of the standard library's own modules, cut at 1 MB. Bytes are tokens. A paragraph that
stands in several topics is kept once, about 0.37 MB in all, or validation would test memory. Every
tenth piece of 4 kB is kept for validation, so that both parts speak of the same things.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 4096
EVERY = 10
SOURCE_LIMIT = 1_000_000


@dataclass(frozen=True)
class Text:
    """Bytes for training and for validation, uint8, and where they came from."""

    train: NDArray[np.uint8]
    validation: NDArray[np.uint8]
    origin: str

    def digest(self) -> str:
        """Return digits that tell this text from that of another version of Python."""
        return hashlib.sha256(self.train.tobytes() + self.validation.tobytes()).hexdigest()[:16]


def load() -> Text:
    """Return the text, split."""
    origin, text = _topics() or _library_source()
    data = np.frombuffer(without_repeats(text).encode(), dtype=np.uint8)
    pieces = [data[i : i + PIECE] for i in range(0, len(data), PIECE)]
    held_out = [i % EVERY == EVERY - 1 for i in range(len(pieces))]
    train = np.concatenate([p for p, held in zip(pieces, held_out, strict=True) if not held])
    validation = np.concatenate([p for p, held in zip(pieces, held_out, strict=True) if held])
    return Text(train, validation, origin)


def without_repeats(text: str) -> str:
    """Return the text without the paragraphs that stood before, whatever their indentation."""
    first: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        first.setdefault(" ".join(paragraph.split()), paragraph)
    return "\n\n".join(first.values())


def _topics() -> tuple[str, str] | None:
    try:
        from pydoc_data import topics
    except ModuleNotFoundError:
        return None
    text = "\n\n".join(topics.topics[key] for key in sorted(topics.topics))
    return "Python's help topics", text


def _library_source() -> tuple[str, str]:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n\n".join(f.read_text(encoding="utf-8", errors="replace") for f in files)
    return "the standard library's source", text[:SOURCE_LIMIT]


def batches(data: Text, size: int, length: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield (bytes, the bytes that follow), each (size, length), int64, from random places, without end."""
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(0, len(data.train) - length, size=size)
        yield windows(data.train, starts, length)


def windows(
    text: NDArray[np.uint8], starts: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the windows that begin at `starts` and the same windows one byte on."""
    at = starts[:, None] + np.arange(length + 1)
    tokens = text[at].astype(np.int64)
    return tokens[:, :-1], tokens[:, 1:]


def validation_windows(data: Text, count: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return `count` windows spread evenly over the validation bytes, always the same."""
    starts = np.linspace(0, len(data.validation) - length - 1, count).astype(np.int64)
    return windows(data.validation, starts, length)
