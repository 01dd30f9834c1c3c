"""Synthetic sequences to classify: inputs [N, steps * features], step after step, and labels [N].

Symbols are one-hot encoded. Each problem is a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded.synthetic import Inputs, Labels, N, Problem, binned


def one_hot(sequence: Labels, symbols: int) -> Inputs:
    """Symbols [N, steps] as [N, steps * symbols]."""
    return np.eye(symbols)[sequence].reshape(len(sequence), -1)


def markov(steps: int, symbols: int, n_classes: int, concentration: float) -> Problem:
    """Which of several random Markov chains a sequence comes from.

    A low `concentration` of the Dirichlet distribution of transitions makes chains distinct.
    """
    rng = np.random.default_rng(0)
    shape = (n_classes, symbols)
    transitions = rng.dirichlet(np.full(symbols, concentration), size=shape).cumsum(axis=-1)
    y = rng.integers(0, n_classes, size=N)
    state = rng.integers(0, symbols, size=N)
    visited = []
    for _ in range(steps):
        visited.append(state)
        below = transitions[y, state] < rng.uniform(size=(N, 1))
        state = np.minimum(below.sum(axis=1), symbols - 1)
    return one_hot(np.stack(visited, axis=1), symbols), y


def counting(steps: int, symbols: int, n_classes: int) -> Problem:
    """How often the first symbol occurs, in classes of about equal size."""
    rng = np.random.default_rng(0)
    marked = rng.uniform(size=(N, steps)) < rng.uniform(size=(N, 1))
    sequence = np.where(marked, 0, rng.integers(1, symbols, size=(N, steps)))
    return one_hot(sequence, symbols), binned(marked.sum(axis=1), n_classes)


def majority(steps: int, symbols: int) -> Problem:
    """Which symbol is the most frequent; the first of them where several are."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(symbols, 2.0), size=N).cumsum(axis=1)
    drawn = rng.uniform(size=(N, steps, 1)) > shares[:, None]
    sequence = np.minimum(drawn.sum(axis=2), symbols - 1)
    counts = np.eye(symbols)[sequence].sum(axis=1)
    return one_hot(sequence, symbols), counts.argmax(axis=1)


def marked(steps: int, symbols: int) -> Problem:
    """Which symbol stands where a further input is 1."""
    rng = np.random.default_rng(0)
    sequence = rng.integers(0, symbols, size=(N, steps))
    at = rng.integers(0, steps, size=N)
    tokens = np.concatenate([np.eye(symbols)[sequence], np.eye(steps)[at][..., None]], axis=2)
    return tokens.reshape(N, -1), sequence[np.arange(N), at]


def adding(steps: int, n_classes: int) -> Problem:
    """The sum of two marked values among others (Hochreiter and Schmidhuber, 1997), in classes."""
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(N, steps))
    marks = rng.uniform(size=(N, steps)).argsort(axis=1) < 2
    return _side_by_side(values, marks), binned((values * marks).sum(axis=1), n_classes)


def brackets(steps: int, n_classes: int) -> Problem:
    """How deep a random balanced sequence of opening and closing brackets is nested."""
    rng = np.random.default_rng(0)
    move = rng.permuted(np.tile([1, -1], (N, steps // 2)), axis=1)
    lowest = move.cumsum(axis=1).argmin(axis=1)[:, None]
    balanced = np.take_along_axis(move, (lowest + 1 + np.arange(steps)) % steps, axis=1)
    depth = balanced.cumsum(axis=1).max(axis=1)
    return one_hot((balanced < 0).astype(np.int64), 2), binned(depth, n_classes)


def events(steps: int, channels: int, noise: float) -> Problem:
    """In which of several noisy channels, each with one pulse, the pulse comes first."""
    rng = np.random.default_rng(0)
    at = rng.uniform(size=(N, steps)).argsort(axis=1)[:, :channels]
    pulses = np.eye(steps)[at].transpose(0, 2, 1)
    return _noisy(pulses.reshape(N, -1), noise, rng), at.argmin(axis=1)


def autoregressive(steps: int, coefficients: Sequence[tuple[float, float]]) -> Problem:
    """Which second-order autoregressive process a series comes from."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(coefficients), size=N)
    first, second = np.array(coefficients)[y].T
    series = [np.zeros(N), np.zeros(N)]
    for _ in range(30 + steps):  # 30 steps to forget the start
        series.append(first * series[-1] + second * series[-2] + rng.normal(size=N))
    x = np.stack(series[-steps:], axis=1)
    return x / x.std(axis=1, keepdims=True), y


def tones(steps: int, frequencies: Sequence[float], noise: float) -> Problem:
    """The frequency, in cycles a step, of a sine of random phase."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(frequencies), size=N)
    phase = rng.uniform(size=(N, 1)) + np.array(frequencies)[y][:, None] * np.arange(steps)
    return _noisy(np.sin(2 * np.pi * phase), noise, rng), y


def chirps(steps: int, noise: float) -> Problem:
    """Whether the frequency of a sine of random phase falls, stays or rises."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=N)
    time = np.linspace(0, 1, steps)
    cycles = 1.5 * time + 1.2 * (y[:, None] - 1) * (time**2 - time)
    phase = rng.uniform(0, 0.5, size=(N, 1)) + cycles
    return _noisy(np.sin(2 * np.pi * phase), noise, rng), y


def trends(steps: int, noise: float) -> Problem:
    """Whether a noisy series falls or rises, steadily or in one step at a random time."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, size=N)
    at = rng.integers(2, steps - 1, size=(N, 1))
    ramp = np.broadcast_to(np.linspace(-1, 1, steps), (N, steps))
    step = np.where(np.arange(steps) < at, -1.0, 1.0)
    shape = np.where(y[:, None] < 2, ramp, step) * np.where(y % 2, 1, -1)[:, None]
    return _noisy(shape, noise, rng), y


def walks(steps: int, persistence: Sequence[float]) -> Problem:
    """How likely a walker's next step of random length goes the way the last one went."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(persistence), size=N)
    keeps = rng.uniform(size=(N, steps)) < np.array(persistence)[y][:, None]
    moves = np.where(keeps, 1, -1).cumprod(axis=1) * rng.choice([-1, 1], size=(N, 1))
    return (moves * rng.uniform(0.5, 1.5, size=(N, steps))).cumsum(axis=1), y


def orbits(steps: int, noise: float) -> Problem:
    """Noisy points along a line, a circle run either way, or a figure of eight, in the plane."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, size=N)
    angle = 2 * np.pi * (rng.uniform(size=(N, 1)) + np.arange(steps) / steps)
    other = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.sin(2 * angle)])
    points = _side_by_side(np.cos(angle), other[y, np.arange(N)])
    return _noisy(points * rng.uniform(0.5, 1.5, size=(N, 1)), noise, rng), y


def spikes(steps: int, channels: int, n_classes: int, contrast: float) -> Problem:
    """Which of several random patterns of rates the spike counts of some channels follow."""
    rng = np.random.default_rng(0)
    rates = np.exp(contrast * rng.normal(size=(n_classes, steps * channels)))
    y = rng.integers(0, n_classes, size=N)
    return rng.poisson(rates[y]).astype(np.float64), y


def _side_by_side(*features: NDArray[np.generic]) -> Inputs:
    """Features [N, steps] each as [N, steps * features]."""
    return np.stack(features, axis=2).reshape(N, -1).astype(np.float64)


def _noisy(x: Inputs, deviation: float, rng: np.random.Generator) -> Inputs:
    return x + deviation * rng.normal(size=x.shape)
