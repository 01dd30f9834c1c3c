"""Synthetic images to classify: pixels [N, side * side] and labels [N].

Each problem is a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.recorded.synthetic import N, Problem


def gratings(side: int, noise: float) -> Problem:
    """Images of waves in one of four directions, of random frequency and phase."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, size=N)
    angle = (y * np.pi / 4)[:, None, None]
    row, column = np.mgrid[:side, :side]
    frequency = rng.uniform(0.15, 0.25, size=(N, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, size=(N, 1, 1))
    along = np.cos(angle) * column + np.sin(angle) * row
    images = np.sin(2 * np.pi * frequency * along + phase) + noise * rng.normal(
        size=(N, side, side)
    )
    return images.reshape(N, -1), y


def shapes(side: int, noise: float) -> Problem:
    """Images of a square, a plus, a diagonal cross or a full block at a random place."""
    rng = np.random.default_rng(0)
    stencil = np.zeros((4, 5, 5))
    stencil[0, [0, -1], :] = stencil[0, :, [0, -1]] = 1
    stencil[1, 2, :] = stencil[1, :, 2] = 1
    stencil[2] = np.maximum(np.eye(5), np.eye(5)[::-1])
    stencil[3, 1:4, 1:4] = 1
    y = rng.integers(0, 4, size=N)
    images = noise * rng.normal(size=(N, side, side))
    for image, label in zip(images, y, strict=True):
        top, left = rng.integers(0, side - 4, size=2)
        image[top : top + 5, left : left + 5] += stencil[label]
    return images.reshape(N, -1), y


def textures(side: int, widths: Sequence[float]) -> Problem:
    """Images of smoothed noise; the class is the width of the smoothing."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(widths), size=N)
    white = rng.normal(size=(N, side, side))
    images = np.stack([gaussian_filter(w, widths[k]) for w, k in zip(white, y, strict=True)])
    contrast = np.clip(images / images.std(axis=(1, 2), keepdims=True), -2, 2)
    return contrast.reshape(N, -1), y


def glyphs(side: int, kinds: int, noise: float) -> Problem:
    """Random 5x5 characters of black and white pixels, each at a random place."""
    rng = np.random.default_rng(0)
    alphabet = rng.integers(0, 2, size=(kinds, 5, 5))
    y = rng.integers(0, kinds, size=N)
    images = noise * rng.normal(size=(N, side, side))
    for image, label in zip(images, y, strict=True):
        top, left = rng.integers(0, side - 4, size=2)
        image[top : top + 5, left : left + 5] += alphabet[label]
    return images.reshape(N, -1), y


def spots(side: int, most: int, noise: float) -> Problem:
    """One to `most` round spots of random place, size and brightness; the class is their number."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, most, size=N)
    centre = rng.uniform(0, side - 1, size=(2, N, most, 1, 1))
    radius = rng.uniform(0.6, 1.2, size=(N, most, 1, 1))
    row, column = np.mgrid[:side, :side]
    spot = np.exp(-((row - centre[0]) ** 2 + (column - centre[1]) ** 2) / (2 * radius**2))
    shown = rng.uniform(0.6, 1, size=(N, most)) * (np.arange(most) <= y[:, None])
    images = np.einsum("nk,nkij->nij", shown, spot) + noise * rng.normal(size=(N, side, side))
    return images.reshape(N, -1), y


def lighting(side: int, noise: float) -> Problem:
    """Bumpy surfaces lit at a low angle, along the rows or along the columns."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=N)
    heights = gaussian_filter(rng.normal(size=(N, side + 1, side + 1)), (0, 1, 1))
    down, right = np.diff(heights, axis=1)[:, :, 1:], np.diff(heights, axis=2)[:, 1:]
    slope = np.where(y[:, None, None] == 1, down, right) / down.std()
    shaded = np.clip(slope + 0.5, 0, 2.5)  # what faces away lies in shadow
    return (shaded + noise * rng.normal(size=shaded.shape)).reshape(N, -1), y


def bars(side: int, shown: float, noise: float) -> Problem:
    """Whether the lit lines of an image, a random share of all, are rows or columns."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, size=N)
    lit = (rng.uniform(size=(N, side, 1)) < shown) * np.ones((1, 1, side))
    images = np.where(y[:, None, None] == 1, lit, lit.transpose(0, 2, 1))
    return (images + noise * rng.normal(size=images.shape)).reshape(N, -1), y
