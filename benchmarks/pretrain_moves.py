"""Train the Q-network that moves learning rate and batch size within a run (`policy="dqn"`).

At a random stretch of a run every move is tried in turn, the run goes on without moves to its end,
and what that came to is compared with staying: a run is a function of its seed, so it can be
repeated up to there. The double DQN learns these returns, the rate's moves by way of the batch's
that follow them. Most runs are simulated (`benchmarks.runs.quadratic`), some are real ones on data
sets of *train* families (`benchmarks.runs.disturbed`), shared by all networks; a quarter of these
families only chooses the margin by which a move must be better than to stay. Interrupt it and
repeat the command to go on. Examples:

    python -m benchmarks.pretrain_moves -o runs/moves          # three networks, about 20 minutes
    python -m benchmarks.pretrain_moves -o runs/moves --seeds 1 --simulated 40 --real 0
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.recorded.sources import SOURCES
from benchmarks.runs import problems, quadratic
from benchmarks.runs.disturbed import SETTINGS, Disturbed
from benchmarks.runs.problems import Problem, Task
from rlhf_tune import files
from rlhf_tune.agents.dqn import DQN
from rlhf_tune.agents.network import Network
from rlhf_tune.agents.replay import Batch, Replay
from rlhf_tune.errors import CannotCertify
from rlhf_tune.progress import track
from rlhf_tune.run import dqn_moves
from rlhf_tune.run.dqn_moves import MOVES, RunNetwork
from rlhf_tune.run.driver import Run
from rlhf_tune.run.moves import BATCH_FACTORS, RATE_FACTORS
from rlhf_tune.run.observation import FEATURES
from rlhf_tune.run.policies import POLICIES, RunPolicy
from rlhf_tune.run.schedules import cut_and_decay
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Move
from rlhf_tune.threads import one_thread

Floats = NDArray[np.float64]
Decide = Callable[[RunState], Move | None]

STEPS = 600
MARGINS = (0.05, 0.1, 0.2)
_RESOLUTION = 0.02  # of the final loss, in units of that before training
_WANDER = 0.15  # probability of a random move before the stretch in question
_RATES, _SIZES = len(RATE_FACTORS), len(BATCH_FACTORS)
_HIDDEN = (32, 32)
_BATCH = 64
_PART = 20


class Case(Protocol):
    """A run that can be repeated."""

    def play(self, decide: Decide) -> float:
        """What it comes to, more is better."""
        ...


Make = Callable[[], Case]


def worth(value: float) -> float:
    """Of a final loss, in units of that before training: a tenth less counts alike anywhere."""
    return -math.log(value + _RESOLUTION)


def policy(decide: Decide) -> RunPolicy:
    """The default policy with other decisions."""
    return replace(POLICIES["default"], decide=decide)


@dataclass(frozen=True)
class Simulated:
    """A run in a noisy quadratic world."""

    setting: str
    seed: tuple[int, ...]

    def play(self, decide: Decide) -> float:
        """One run; nothing is gained where no state is certified."""
        world = quadratic.draw(self.setting, self.seed)
        run = Run(
            quadratic.QuadraticTrainer(world, self.seed),
            epochs=world.epochs,
            policy=policy(decide),
            constraints=world.constraints(),
            usual_rate=quadratic.USUAL_RATE,
        )
        try:
            run.drive(lambda _: None)
        except CannotCertify:
            return worth(1.0)
        return worth(run.guarded.best.value / run.guarded.unit)


@dataclass(frozen=True)
class Real:
    """A real run."""

    disturbed: Disturbed

    def play(self, decide: Decide) -> float:
        """One run."""
        return worth(self.disturbed.play(policy(decide)).value)


@dataclass(frozen=True, eq=False)
class Row:
    """What came of each move at one stretch of a run.

    Attributes:
        seen: [O]
        sizes: [3] which moves of the batch were open.
        advantage: [5, 3] of each pair of moves over staying; NaN where it was not tried.
    """

    seen: Floats
    sizes: NDArray[np.bool_]
    advantage: Floats


def explore(case: Case, seed: tuple[int, ...]) -> Row | None:
    """Try the moves at a random stretch, and stay from then on; None where it is too early.

    All moves of the rate are tried, and those of the batch after one of them.
    """
    rng = np.random.default_rng(seed)
    at, salt = int(rng.integers(2, max(3, _stretches(case)))), int(rng.integers(2**31))
    here: list[RunState] = []

    def trying(rate: int, size: int) -> Decide:
        def decide(state: RunState) -> Move:
            n = len(state.record)
            if n == at:
                here.append(state)
                return dqn_moves.moved(state, rate, size)
            return _wander(state, salt) if n < at else dqn_moves.moved(state, 0, 0)

        return decide

    stayed = case.play(trying(0, 0))
    seen = dqn_moves.observe(here[0]) if here else None
    if seen is None:
        return None
    rates, sizes = dqn_moves.allowed(here[0])
    advantage = np.full((_RATES, _SIZES), np.nan)
    advantage[0, 0] = 0.0
    with_batch = int(rng.choice(np.flatnonzero(rates)))
    pairs = [(int(r), 0) for r in np.flatnonzero(rates) if r]
    pairs += [(with_batch, int(s)) for s in np.flatnonzero(sizes) if s]
    for rate, size in pairs:
        advantage[rate, size] = case.play(trying(rate, size)) - stayed
    return Row(seen, sizes, advantage)


def _stretches(case: Case) -> int:
    """How many decisions a run takes."""
    count = 0

    def counting(state: RunState) -> Move:
        nonlocal count
        count += 1
        return cut_and_decay(state)

    case.play(counting)
    return count


def _wander(state: RunState, salt: int) -> Move:
    """Mostly stay; which move is a function of the stretch."""
    rng = np.random.default_rng((salt, len(state.record)))
    if rng.random() > _WANDER or len(state.record) < 2:
        return dqn_moves.moved(state, 0, 0)
    rates, sizes = dqn_moves.allowed(state)
    size = int(rng.choice(np.flatnonzero(sizes))) if sizes.any() else 0
    return dqn_moves.moved(state, int(rng.choice(np.flatnonzero(rates))), size)


def learn(rows: Sequence[Row], seed: int, steps: int) -> RunNetwork:
    """Train the double DQN on what the moves came to."""
    agent = DQN(
        MOVES, len(FEATURES), hidden=_HIDDEN, learning_rate=1e-3, target_period=100, seed=seed
    )
    transitions = [t for row in rows for t in _transitions(row)]
    replay = Replay(len(transitions))
    for transition in transitions:
        replay.add(transition)
    rng = np.random.default_rng(seed)
    with one_thread():
        for _ in track(range(steps), "learning"):
            agent.learn(replay.sample(_BATCH, rng))
    return RunNetwork(Network([(w.astype(float), b.astype(float)) for w, b in agent.layers]))


def _transitions(row: Row) -> list[Batch]:
    """The moves of the rate, then those of the batch that were tried after one of them."""
    made = []
    for rate in np.flatnonzero(np.isfinite(row.advantage[:, 0])):
        tried = np.isfinite(row.advantage[rate])
        later = dqn_moves.given(row.seen, int(rate))
        if (tried == row.sizes).all():  # the batch is chosen after it
            made.append(_transition(row.seen, int(rate), 0.0, later, tried))
        else:
            made.append(_transition(row.seen, int(rate), row.advantage[rate, 0], later))
        if row.sizes.any():
            made += [
                _transition(later, _RATES + int(s), row.advantage[rate, s], later)
                for s in np.flatnonzero(tried)
            ]
    return made


def _transition(
    seen: Floats, move: int, reward: float, later: Floats, sizes: NDArray[np.bool_] | None = None
) -> Batch:
    """A move that ends with its reward, or leads to the choice among moves of the batch."""
    mask = np.zeros(len(MOVES), np.bool_)
    if sizes is not None:
        mask[_RATES:] = sizes
    return Batch(
        seen.astype(np.float32),
        MOVES[move].astype(np.float32),
        np.float32(reward),
        np.float32(sizes is not None),
        later.astype(np.float32),
        mask,
    )


def rows_of(cases: Sequence[Make], seed: tuple[int, ...], file: Path, what: str) -> list[Row]:
    """One row a case; those that were made before are read from parts beside `file`."""
    parts = [range(i, min(i + _PART, len(cases))) for i in range(0, len(cases), _PART)]
    made: list[Row] = []
    for part in track(parts, what):
        path = file.with_name(f"{file.name}-{part.start}-{part.stop}.npz")
        if not path.exists():
            tried = (explore(cases[i](), (*seed, i)) for i in part)
            _write([row for row in tried if row is not None], path)
        made += _read(path)
    return made


def _write(rows: Sequence[Row], path: Path) -> None:
    columns = {
        name: [getattr(row, name) for row in rows] for name in ("seen", "sizes", "advantage")
    }
    with files.whole(path) as partial:
        np.savez(partial, **{name: np.array(column) for name, column in columns.items()})


def _read(path: Path) -> list[Row]:
    with np.load(path) as file:
        columns = file["seen"], file["sizes"], file["advantage"]
        return [Row(*values) for values in zip(*columns, strict=True)]


def simulated(count: int, *seed: int) -> list[Make]:
    """Worlds of every setting in turn."""
    return [partial(Simulated, SETTINGS[i % len(SETTINGS)], (*seed, i)) for i in range(count)]


def real(count: int, *, chooses: bool) -> list[Make]:
    """Real problems of train families, every setting in turn; a quarter of the families chooses."""
    every = problems.tasks("train", files=False)
    families = sorted({SOURCES[name].family for name, _ in every})
    ours = {family for i, family in enumerate(families) if (i % 4 == 3) == chooses}
    tasks = [task for task in every if SOURCES[task[0]].family in ours]
    order = np.random.default_rng(0).permutation(len(tasks))
    return [
        partial(_real, tasks[order[i % len(tasks)]], SETTINGS[i % len(SETTINGS)], i)
        for i in range(count)
    ]


def _real(task: Task, setting: str, seed: int) -> Real:
    return Real(Disturbed(problem(task), setting, seed).bound())


@cache
def problem(task: Task) -> Problem:
    """The task as `benchmarks.training_run` poses it."""
    return problems.problem(task, steps=STEPS)


@dataclass(frozen=True)
class Plan:
    """How much is trained on what.

    Attributes:
        simulated: Rows of each network.
        real: Rows of real runs, which all networks share.
        choosing: Real runs that choose the margin.
        steps: Of the gradient. With 8,000 the networks had learned the noise of the returns, and
            lost on worlds that they had not seen.
    """

    simulated: int = 1200
    real: int = 80
    choosing: int = 32
    steps: int = 3000


def train(plan: Plan, seed: int, folder: Path) -> tuple[RunNetwork, float]:
    """A network, and what it gained on the real runs that chose its margin."""
    shared = rows_of(real(plan.real, chooses=False), (0,), folder / "real", "real runs")
    cases = simulated(plan.simulated, seed, 0)
    rows = rows_of(cases, (seed, 0), folder / f"simulated-{seed}", f"simulated runs {seed}")
    return choose(learn([*rows, *shared], seed, plan.steps), plan.choosing)


def choose(network: RunNetwork, count: int) -> tuple[RunNetwork, float]:
    """The network with the margin that gains most on real runs, and that gain."""
    gains: dict[float, list[float]] = {margin: [] for margin in MARGINS}
    for make in track(real(count, chooses=True), "choosing"):
        case = make()
        stayed = case.play(cut_and_decay)
        for margin, found in gains.items():
            moving = partial(dqn_moves.decide, network=replace(network, margin=margin))
            found.append(case.play(moving) - stayed)
    means = {margin: float(np.mean(found)) for margin, found in gains.items()}
    best = max(means, key=means.__getitem__)
    return replace(network, margin=best), means[best]


def main(argv: Sequence[str] | None = None) -> int:
    """Train the networks, and say which one chose best."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain_moves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, metavar="FOLDER", help="networks and checkpoints")
    add("--seeds", type=int, default=3, help="networks to train (3)")
    for name, value in vars(Plan()).items():
        add(f"--{name}", type=int, default=value, help=f"see Plan ({value})")
    args = parser.parse_args(argv)
    plan = Plan(**{name: getattr(args, name) for name in vars(Plan())})
    torch.set_num_threads(1)
    (args.out / "rows").mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        network, gain = train(plan, seed, args.out / "rows")
        about = {name: str(value) for name, value in vars(plan).items()}
        about |= {"seed": str(seed), "gain": f"{gain:.4f}"}
        path = args.out / f"run_moves-{seed}.safetensors"
        dqn_moves.save(network, path, about)
        print(f"{path}: margin {network.margin}, gain where it was chosen {gain:+.4f}")
        if not gain > 0:
            print("it is no better there than to stay: keep policy='default'")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
