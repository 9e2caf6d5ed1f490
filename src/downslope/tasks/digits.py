"""The data of the task `digits`: scikit-learn's 1797 handwritten digits of 8 × 8 pixels.

500 of them, always the same, are kept for validation. The clean digits are too easy to tell
optimizers apart: all soon know the 1297 training digits by heart, and the validation loss then
says only how sure of itself a model has become. So each digit is shifted by up to one pixel and
covered with noise, the training digits anew each time they are seen, the validation digits once
and for all. Under noise nothing can be learned by heart, and a lower loss is a better model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALIDATION = 500
SPLIT_SEED = 1797
NOISE = 0.6  # standard deviation, in units of the pixels' own


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8), float32, and labels (n,), int64; only the validation images are noisy yet."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    validation_images: NDArray[np.float32]
    validation_labels: NDArray[np.int64]


def load() -> Digits:
    """Return the digits, scaled to mean 0 and variance 1 over the training pixels, and split."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    validation, train = order[:VALIDATION], order[VALIDATION:]
    images = (images - images[train].mean()) / images[train].std()
    noisy = augment(images[validation], np.random.default_rng(SPLIT_SEED))
    return Digits(images[train], labels[train], noisy, labels[validation])


def batches(data: Digits, size: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield (images, labels) of `size` augmented digits without end, a new order every epoch."""
    random = np.random.default_rng(seed)
    n = len(data.train_images)
    while True:
        order = random.permutation(n)
        for start in range(0, n - size + 1, size):
            chosen = order[start : start + size]
            yield augment(data.train_images[chosen], random), data.train_labels[chosen]


def augment(images: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return the images, each shifted by -1, 0 or 1 pixel either way, with noise."""
    n, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=images.min())
    dy, dx = random.integers(0, 3, size=(2, n))
    rows = (dy[:, None] + np.arange(height))[:, :, None]
    columns = (dx[:, None] + np.arange(width))[:, None, :]
    shifted = padded[np.arange(n)[:, None, None], 0, rows, columns][:, None]
    noise: NDArray[np.float32] = random.standard_normal(shifted.shape, dtype=np.float32)
    result: NDArray[np.float32] = shifted + np.float32(NOISE) * noise
    return result
