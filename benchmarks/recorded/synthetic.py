"""Synthetic tables to classify: functions that return inputs [N, d] and labels [N].

Each is a pure function of its arguments. Several differ from scikit-learn's generators only in
being lifted into more dimensions, so that a problem of two coordinates is not a problem of two
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

Inputs = NDArray[np.float64]
Labels = NDArray[np.int64]
Problem = tuple[Inputs, Labels]

N = 1792
"""Samples of every synthetic problem, before the division into training and validation."""


def binned(target: NDArray[Any], n_classes: int) -> Labels:
    """Classes of equal size from a real target [N], in ascending order."""
    edges = np.quantile(target, np.linspace(0, 1, n_classes + 1)[1:-1])
    return np.asarray(np.digitize(target, edges), dtype=np.int64)


def lifted(points: Inputs, dims: int, noise: float) -> Inputs:
    """Points [N, k] rotated into `dims` >= k dimensions, plus noise of that deviation."""
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(dims, points.shape[1])))
    return np.asarray(points @ basis.T + noise * rng.normal(size=(len(points), dims)))


def from_sklearn(maker: str, **options: Any) -> Problem:
    """A problem from a generator of `sklearn.datasets`, by its name."""
    x, y = getattr(datasets, maker)(n_samples=N, random_state=0, **options)
    return x, y


def lifted_from_sklearn(maker: str, dims: int, noise: float, **options: Any) -> Problem:
    """A low-dimensional problem from `sklearn.datasets`, lifted into `dims` dimensions."""
    x, y = from_sklearn(maker, **options)
    return lifted(x, dims, noise), y


def regression(maker: str, n_classes: int, **options: Any) -> Problem:
    """A regression problem from `sklearn.datasets`, its target binned into classes."""
    x, y = from_sklearn(maker, **options)
    return x, binned(y, n_classes)


def hastie() -> Problem:
    """Whether ten Gaussian inputs lie outside a sphere (Hastie et al., 2009, example 10.2)."""
    x, y = datasets.make_hastie_10_2(n_samples=N, random_state=0)
    return x, (y > 0).astype(np.int64)


def teacher(dims: int, hidden: int, n_classes: int) -> Problem:
    """Labels of a random two-layer tanh network on Gaussian inputs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, dims))
    features = np.tanh(x @ rng.normal(size=(dims, hidden)))
    logits = features @ rng.normal(size=(hidden, n_classes))
    return x, (logits - logits.mean(axis=0)).argmax(axis=1)


def fourier(dims: int, frequency: float) -> Problem:
    """The sign of a random sum of waves; a higher frequency is harder to fit."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, dims))
    phase = rng.uniform(0, 2 * np.pi, size=20)
    waves = np.cos(frequency * x @ rng.normal(size=(dims, 20)) + phase)
    return x, binned(waves @ rng.normal(size=20), 2)


def parity(bits: int, dims: int) -> Problem:
    """The parity of the first `bits` of `dims` random bits."""
    x = np.random.default_rng(0).integers(0, 2, size=(N, dims))
    return x.astype(np.float64), x[:, :bits].sum(axis=1) % 2


def checkerboard(cells: int, dims: int) -> Problem:
    """The colour of a square of a `cells` x `cells` board, lifted into `dims` dimensions."""
    points = np.random.default_rng(0).uniform(-1, 1, size=(N, 2))
    squares = np.floor((points + 1) / 2 * cells).astype(np.int64)
    return lifted(points, dims, 0.05), squares.sum(axis=1) % 2


def spirals(arms: int, turns: float, dims: int) -> Problem:
    """Which of several interleaved spirals a point is on."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, arms, size=N)
    radius = np.sqrt(rng.uniform(0.02, 1, size=N))
    angle = 2 * np.pi * (turns * radius + y / arms)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return lifted(points, dims, 0.03), y


def waveform() -> Problem:
    """Noisy mixtures of two of three triangular waves (Breiman et al., 1984), 21 inputs."""
    rng = np.random.default_rng(0)
    grid = np.arange(1, 22)
    waves = np.stack([np.maximum(6 - np.abs(grid - centre), 0) for centre in (7, 15, 11)])
    y = rng.integers(0, 3, size=N)
    first, second = waves[[0, 0, 1]][y], waves[[1, 2, 2]][y]
    share = rng.uniform(size=(N, 1))
    return share * first + (1 - share) * second + rng.normal(size=(N, 21)), y


def led(flip: float, irrelevant: int) -> Problem:
    """Digits on a seven-segment display with flipped segments (Breiman et al., 1984)."""
    rng = np.random.default_rng(0)
    segments = "1110111 0010010 1011101 1011011 0111010 1101011 1101111 1010010 1111111 1111011"
    lit = np.array([[int(s) for s in digit] for digit in segments.split()])
    y = rng.integers(0, 10, size=N)
    shown = lit[y] ^ (rng.uniform(size=(N, 7)) < flip)
    return np.hstack([shown, rng.integers(0, 2, size=(N, irrelevant))]).astype(np.float64), y


def xor_clouds(dims: int, spread: float) -> Problem:
    """Gaussian clouds at the corners of a cube in three dimensions, labelled by parity."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 2, size=(N, 3))
    points = 2.0 * corners - 1 + spread * rng.normal(size=(N, 3))
    return lifted(points, dims, 0.1), corners.sum(axis=1) % 2


def heavy_tails(dims: int, n_classes: int) -> Problem:
    """A noisy linear rule on log-normal inputs: after min-max scaling most values are near 0."""
    rng = np.random.default_rng(0)
    x = rng.lognormal(sigma=1.0, size=(N, dims))
    target = np.log(x) @ rng.normal(size=dims) + rng.normal(size=N)
    return x, binned(target, n_classes)


def sparse_rule(dims: int, relevant: int) -> Problem:
    """A noisy linear rule that uses only `relevant` of `dims` inputs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, dims))
    return x, binned(x[:, :relevant].sum(axis=1) + 0.5 * rng.normal(size=N), 2)


def tree(depth: int, dims: int, n_classes: int) -> Problem:
    """Labels of a random axis-aligned decision tree on uniform inputs, one in twenty wrong."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(N, dims))
    leaf = np.zeros(N, dtype=np.int64)
    for level in range(depth):
        feature = rng.integers(0, dims, size=2**level)[leaf]
        threshold = rng.uniform(0.35, 0.65, size=2**level)[leaf]
        leaf = 2 * leaf + (x[np.arange(N), feature] > threshold)
    y = (np.arange(2**depth) % n_classes)[rng.permutation(2**depth)][leaf]
    return x, np.where(rng.uniform(size=N) < 0.05, rng.integers(0, n_classes, size=N), y)


def motif(length: int, symbols: int, motifs: Sequence[Sequence[int]]) -> Problem:
    """Which of several motifs a random symbol sequence (one-hot encoded) contains somewhere."""
    rng = np.random.default_rng(0)
    sequence = rng.integers(0, symbols, size=(N, length))
    y = rng.integers(0, len(motifs), size=N)
    for row, label in enumerate(y):
        at = rng.integers(0, length - len(motifs[label]) + 1)
        sequence[row, at : at + len(motifs[label])] = motifs[label]
    return np.eye(symbols)[sequence].reshape(N, -1), y


def polynomial(dims: int, degree: int, terms: int, n_classes: int) -> Problem:
    """A random sum of products of `degree` inputs, binned."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, dims))
    factors = rng.uniform(size=(terms, dims)).argsort(axis=1)[:, :degree]
    return x, binned(x[:, factors].prod(axis=2) @ rng.normal(size=terms), n_classes)


def categories(columns: int, levels: int, n_classes: int, noise: float) -> Problem:
    """One-hot encoded columns, each level of which speaks for or against each class."""
    rng = np.random.default_rng(0)
    level = rng.integers(0, levels, size=(N, columns))
    effect = rng.normal(size=(columns, levels, n_classes))
    votes = effect[np.arange(columns), level].sum(axis=1)
    y = (votes + noise * rng.gumbel(size=votes.shape)).argmax(axis=1)
    return np.eye(levels)[level].reshape(N, -1), y


def ellipsoids(dims: int, shares: Sequence[float]) -> Problem:
    """Gaussian classes of unequal size and covariance, whose means are near each other."""
    rng = np.random.default_rng(0)
    y = rng.choice(len(shares), size=N, p=shares)
    axes = rng.normal(size=(len(shares), dims, dims)) / np.sqrt(dims)
    means = 0.7 * rng.normal(size=(len(shares), dims))
    return means[y] + np.einsum("nij,nj->ni", axes[y], rng.normal(size=(N, dims))), y


def subspaces(dims: int, rank: int, n_classes: int, noise: float) -> Problem:
    """Points near one of several random linear subspaces, all through the origin."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, size=N)
    bases = np.linalg.qr(rng.normal(size=(n_classes, dims, rank)))[0]
    points = np.einsum("ndr,nr->nd", bases[y], rng.normal(size=(N, rank)))
    return points + noise * rng.normal(size=(N, dims)), y


def voronoi(dims: int, cells: int, n_classes: int) -> Problem:
    """The class of the nearest of several random prototypes; several prototypes share a class."""
    rng = np.random.default_rng(0)
    x, prototypes = rng.uniform(size=(N, dims)), rng.uniform(size=(cells, dims))
    distances = ((x[:, None] - prototypes) ** 2).sum(axis=2)
    return x, distances.argmin(axis=1) % n_classes


def products(pairs: int, dims: int) -> Problem:
    """The sign of the sum of the products of `pairs` pairs of inputs."""
    x = np.random.default_rng(0).normal(size=(N, dims))
    return x, binned((x[:, :pairs] * x[:, pairs : 2 * pairs]).sum(axis=1), 2)


def topics(words: int, n_classes: int, length: float) -> Problem:
    """Counts of words in texts of about `length` words on one topic and a bit of the others."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, size=N)
    rates = rng.dirichlet(np.full(words, 0.3), size=n_classes)
    mixture = rng.dirichlet(np.full(n_classes, 0.7), size=N) + np.eye(n_classes)[y]
    return rng.poisson(length / 2 * mixture @ rates).astype(np.float64), y


def logit(dims: int, slope: float, offset: float) -> Problem:
    """Labels drawn from a logistic model: the best model errs often, or one class is rare."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, dims))
    score = slope * x @ rng.normal(size=dims) / np.sqrt(dims) + offset
    return x, (rng.logistic(size=N) < score).astype(np.int64)


def formula(terms: int, width: int, dims: int) -> Problem:
    """Whether any of several random conjunctions of `width` literals holds for random bits."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(N, dims))
    variables = rng.uniform(size=(terms, dims)).argsort(axis=1)[:, :width]
    signs = rng.integers(0, 2, size=(terms, width))
    return x.astype(np.float64), (x[:, variables] == signs).all(axis=2).any(axis=1).astype(np.int64)


def arm(joints: int) -> Problem:
    """The quadrant in which an arm of equal links ends, from the angles of its joints."""
    angles = np.random.default_rng(0).uniform(-np.pi / 2, np.pi / 2, size=(N, joints))
    turned = np.exp(1j * angles.cumsum(axis=1)).sum(axis=1)
    return angles, binned(turned.real, 2) + 2 * binned(turned.imag, 2)


def loudest(groups: int, members: int, noise: float) -> Problem:
    """Which group of inputs has the largest sum, as judged with some noise."""
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(N, groups, members))
    judged = x.sum(axis=2) + noise * rng.normal(size=(N, groups))
    return x.reshape(N, -1), judged.argmax(axis=1)


def distances(dims: int, n_classes: int) -> Problem:
    """How far apart two points are, in classes of equal size."""
    first, second = np.random.default_rng(0).uniform(size=(2, N, dims))
    return np.hstack([first, second]), binned(np.linalg.norm(first - second, axis=1), n_classes)


def missing(dims: int, share: float, n_classes: int) -> Problem:
    """A linear rule on inputs of which a share is lost and replaced by 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, dims))
    target = x @ rng.normal(size=dims)
    return np.where(rng.uniform(size=x.shape) < share, 0, x), binned(target, n_classes)
