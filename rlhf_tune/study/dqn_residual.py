"""The Q-networks over the lattice of moves: expected improvement plus a learned residual.

    Q(s, a) = EI(s, a) + min_i clip(r_i(s, a) - r_i(s, a*)),    r_i = rho_i + gamma V_i

Each candidate move is described by what the posterior says of it and of a*, the move that expected
improvement would take. `rho` corrects the expected improvement of the next trial, `V` values the
trials after it; both are zero in an untrained network (`rlhf_tune.pretraining.network` trains
them). The networks are pessimistic: the least residual counts (Fujimoto et al., 2018,
arXiv:1802.09477), only where all would make the same move. Clipped to half the largest expected
improvement, they choose among moves that are about as good, and do no harm elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.network import Network, load, save
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.history import History
from rlhf_tune.study.prior import axis_of
from rlhf_tune.study.process import points_at
from rlhf_tune.study.state import StudyState
from rlhf_tune.tensors import SHIPPED

Floats = NDArray[np.float64]

# Not tuned:
DISCOUNT = 0.9
BOUND = 0.5
"""The largest residual, relative to the largest expected improvement."""
HORIZON = 20
"""Trials assumed where the budget is not known."""
FEATURES = (
    "improvement in deviations",
    "log deviation",
    "log expected improvement",
    "expected improvement",
    "mean",
    "is stay",
    "decades of learning rate from the incumbent",
    "decades of batch size from the incumbent",
    "length scales from the incumbent",
    "parameters",
    "trials left",
    "log trials so far",
    "log noise",
    "prior mean above the incumbent's",
)


@dataclass(frozen=True)
class View:
    """The candidates [M] of a state as the network sees them.

    Attributes:
        features: [M, F] of each candidate.
        ei: [M] expected improvement, in scales; 0 where a move is not allowed.
    """

    features: Floats
    ei: Floats


@dataclass(frozen=True, eq=False)
class QMap:
    """An ensemble of N networks of features that are shifted and scaled.

    Attributes:
        shift: [F]
        scale: [F]
        network: From a candidate's features and those of the candidate of largest expected
            improvement to rho and V; its weights are [N, inputs, outputs], biases [N, 1, outputs].
    """

    shift: Floats
    scale: Floats
    network: Network

    def q(self, view: View) -> Floats:
        """The values [M] of the candidates, in scales."""
        each = self.each(view)
        moves = np.where(view.ei > 0, each, -np.inf).argmax(axis=1)
        return np.asarray(each.min(axis=0) if (moves == moves[0]).all() else view.ei)

    def each(self, view: View) -> Floats:
        """[N, M] the values of the candidates by each network, in scales."""
        scores = self.scores(view)
        residual = scores[..., 0] + DISCOUNT * scores[..., 1]
        apart = residual - residual[:, view.ei.argmax(), None]
        bound = BOUND * view.ei.max()
        return np.asarray(view.ei + np.clip(apart, -bound, bound))

    def scores(self, view: View) -> Floats:
        """[N, M, 2] rho and V of the candidates by each network, in scales."""
        return self.network(inputs(self.normalised(view.features), view.ei))

    def normalised(self, features: Floats) -> Floats:
        """Features [..., F] of about unit size, without outliers."""
        return np.asarray(np.clip((features - self.shift) / self.scale, -5, 5))


def save_qmap(qmap: QMap, path: Path, about: Mapping[str, str]) -> None:
    """Write a network in single precision."""
    save(qmap.network, path, about, shift=qmap.shift, scale=qmap.scale)


def load_qmap(path: Path) -> QMap:
    """Read a network.

    Raises:
        InvalidInputError: If the file holds none.
    """
    try:
        network, others = load(path)
        qmap = QMap(others["shift"], others["scale"], network)
    except KeyError as exc:
        raise InvalidInputError(
            f"a Q-network must be one that `rlhf-tune pretrain` wrote, but {path} lacks {exc}"
        ) from exc
    if len(qmap.shift) != len(FEATURES) or network.layers[0][0].ndim != 3:
        raise InvalidInputError(
            f"Q-networks must be an ensemble over {len(FEATURES)} features, but {path} was written "
            "by an earlier version; train them again by `rlhf-tune pretrain --network`"
        )
    return qmap


@cache
def shipped_qmap() -> QMap:
    """The network that comes with the package."""
    return load_qmap(SHIPPED.with_name("qmap.safetensors"))


def q_values(state: StudyState, network: QMap | None = None) -> Floats:
    """The values [M] of the candidate moves by a network; by default the shipped one."""
    return (network or shipped_qmap()).q(view(state))


def inputs(features: Floats, ei: Floats) -> Floats:
    """[M, 2 F] each candidate's features beside those of the one with the largest EI."""
    return np.concatenate([features, np.broadcast_to(features[ei.argmax()], features.shape)], 1)


def view(state: StudyState) -> View:
    """Describe the candidates of a state."""
    history, row, cells = state.history, state.incumbent, state.cells
    seen = state.outlook
    here = points_at(history, cells, row)
    incumbent = points_at(history, history.cells[row : row + 1], row)
    predicted = seen.predict(here)
    gain, deviation = predicted.mean - float(seen.performance[row]), predicted.deviation
    ei = seen.gain(row, predicted)
    known = state.prior.mean_at(here.places) - state.prior.mean_at(incumbent.places)
    trials = len(history.numbers)
    left = max(0, (state.planned_trials or max(HORIZON, trials + 1)) - trials)
    every = (
        np.clip(gain / deviation, -6, 3),
        np.log(deviation + 1e-3),
        np.log(ei + 1e-6) / 5,
        10 * ei,
        gain,
        (cells == history.cells[row]).all(axis=1),
        *_distances(history, row, cells),
        len(history.lattice.axes),
        left / HORIZON,
        np.log(trials),
        np.log(seen.surrogate.noise + 1e-6) / 5,
        known,
    )
    return View(_columns(every, len(cells)), np.where(state.allowed, ei, 0.0))


def _columns(parts: tuple[object, ...], rows: int) -> Floats:
    columns = [np.broadcast_to(np.asarray(part, dtype=np.float64), rows) for part in parts]
    return np.stack(columns, axis=1)


def _distances(history: History, row: int, cells: NDArray[np.int64]) -> list[object]:
    """Distances [M] along learning rate and batch size, 0 where there is no such axis; and any."""
    lattice = history.lattice
    there, here = lattice.positions(cells), lattice.positions(history.cells[row : row + 1])
    away = np.abs(there - here)
    found = (axis_of(lattice, "learning_rate"), axis_of(lattice, "batch_size"))
    scaled = lattice.in_length_scales(there) - lattice.in_length_scales(here)
    along = [0.0 if axis is None else away[:, axis] for axis in found]
    return [*along, np.linalg.norm(scaled, axis=1)]
