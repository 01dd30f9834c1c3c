"""Lending under a fairness cost: the textbook's loan, and two groups with an exact optimum.

The literature's loan environment has customers who repay with a probability of .9 or .6, an amount
of 1,000 and an interest of .1. With these constants the expected profit of a loan is -10 or -340:
the best policy never lends, and "never" is perfectly fair, so nothing can be learned from it. The
constants are options here. With an interest of .5, the default, a loan to a good customer earns
350 and one to a bad customer loses 100. A penalty of lambda a unit of the gap between the two
lending rates changes nothing below lambda = 50; above it lending to everybody is best.

In the second environment two groups have different scores, repayment depends on the score alone,
and the difference of lending rates must keep a bound. Its best policy and the price of the bound
are the solution of a linear program, shown beside what A2C of stable-baselines3 learns:

    python examples/loan.py
    python examples/loan.py --interest 0.1
    python examples/loan.py --gap 0.5 --steps 20000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from rlhf_tune.envs import AveragedPolicy, FairnessCost
from rlhf_tune.rewards import Lagrangian

UNIT = 1000.0  # of rewards: networks learn numbers around 1 faster

Observation = NDArray[np.float32]
Floats = NDArray[np.float64]


class Lending(gym.Env[Observation, np.int64]):
    """A customer a step: action 1 lends. An episode is one customer, so it ends at once.

    An observation is one-hot: the customer's kind.
    """

    def __init__(self, chances: Floats, repays: Floats, amount: float, interest: float) -> None:
        """Set up.

        Args:
            chances: Of each kind of customer [K], that the next one is of it.
            repays: Of each kind [K], that a loan is repaid.
            amount: Of a loan.
            interest: Share of the amount, earned if it is repaid; else the amount is lost.
        """
        self.chances, self.repays, self.amount, self.interest = chances, repays, amount, interest
        self.profits = amount * (repays * (1 + interest) - 1)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (len(chances),), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.kinds = np.eye(len(chances), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The next customer."""
        super().reset(seed=seed)
        self._kind = int(self.np_random.choice(len(self.chances), p=self.chances))
        return self.kinds[self._kind], {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Lend or not; the reward is in units of `UNIT`."""
        repaid = self.np_random.random() < self.repays[self._kind]
        earned = self.amount * (self.interest if repaid else -1.0) if action == 1 else 0.0
        return self.kinds[self._kind], earned / UNIT, True, False, {}


def textbook(good: float, bad: float, amount: float, interest: float) -> Lending:
    """The literature's: kinds are good and bad customers, who are also the groups compared."""
    return Lending(np.array([0.5, 0.5]), np.array([good, bad]), amount, interest)


@dataclass(frozen=True)
class TwoGroups:
    """Two groups with scores of their own; repayment goes by the score alone.

    Attributes:
        shares: Of the groups [2].
        scores: Of each group, the share of each score [2, S].
        repays: By score [S].
        amount: Of a loan.
        interest: Share of the amount.
    """

    shares: Floats
    scores: Floats
    repays: Floats
    amount: float
    interest: float

    @property
    def env(self) -> Lending:
        """A kind of customer is a group and a score."""
        chances = (self.shares[:, None] * self.scores).ravel()
        return Lending(chances, np.tile(self.repays, 2), self.amount, self.interest)

    @property
    def gains(self) -> Floats:
        """Profit a customer of lending to each group at each score [2, S], by how often it is."""
        profits = self.amount * (self.repays * (1 + self.interest) - 1)
        return self.shares[:, None] * self.scores * profits

    def best(self, gap: float) -> tuple[Floats, float, float]:
        """The best policy [2, S] whose rates differ by at most `gap`, its profit, and the price.

        The price is the dual of the bound: what a unit of gap would earn.
        """
        difference = np.stack([self.scores[0], -self.scores[1]]).ravel()
        found = linprog(
            -self.gains.ravel(),
            A_ub=np.stack([difference, -difference]),
            b_ub=[gap, gap],
            bounds=(0, 1),
        )
        price = float(-np.sum(found.ineqlin.marginals))
        return found.x.reshape(self.scores.shape), float(-found.fun), price

    def judged(self, lends: Floats) -> tuple[float, float]:
        """Profit a customer, and the signed gap, of lending with chances [2, S]."""
        rates = (self.scores * lends).sum(axis=1)
        return float((self.gains * lends).sum()), float(rates[0] - rates[1])


def two_groups(amount: float, interest: float) -> TwoGroups:
    """Five scores; the first group has more of the high ones."""
    return TwoGroups(
        shares=np.array([0.6, 0.4]),
        scores=np.array([[0.05, 0.15, 0.2, 0.3, 0.3], [0.3, 0.3, 0.2, 0.15, 0.05]]),
        repays=np.array([0.5, 0.6, 0.7, 0.8, 0.95]),
        amount=amount,
        interest=interest,
    )


def learn(
    env: gym.Env[Any, Any],
    steps: int,
    seed: int,
    *,
    rate: Any,
    entropy: float = 0.0,
    averaged: Any = None,
) -> Any:
    """A2C of stable-baselines3, as it is; linear in a one-hot observation, so a table."""
    from stable_baselines3 import A2C

    agent = A2C(
        "MlpPolicy",
        env,
        n_steps=100,
        learning_rate=rate,
        ent_coef=entropy,
        policy_kwargs={"net_arch": [], "ortho_init": False},
        use_rms_prop=False,
        seed=seed,
        device="cpu",
    )
    return agent.learn(steps, callback=averaged)


def _decayed(left: float) -> float:
    """The learning rate with a share `left` of the steps to go: values come to rest."""
    return 0.05 * left


def lends(agent: Any, env: Lending) -> tuple[Floats, Floats]:
    """The chance to lend to each kind of customer [K], and the learned value of each [K]."""
    import torch

    given, _ = agent.policy.obs_to_tensor(env.kinds)
    with torch.no_grad():
        chances = agent.policy.get_distribution(given).distribution.probs[:, 1]
        values = agent.policy.predict_values(given)[:, 0] * UNIT
    return chances.numpy().astype(float), values.numpy().astype(float)


def show_textbook(args: argparse.Namespace) -> None:
    """Without a penalty, below its threshold and above it."""
    env = textbook(args.good, args.bad, args.amount, args.interest)
    good, bad = env.profits
    print(f"the textbook's loan: a good customer is worth {good:.0f}, a bad one {bad:.0f}")
    if max(good, bad) <= 0:
        print("nobody is worth a loan: never lending is best, and perfectly fair")
    for weight in args.penalties:
        priced = FairnessCost(env, lambda seen: int(seen.argmax()), weight / UNIT, window=1000)
        chances, values = lends(learn(priced, args.steps, args.seed, rate=_decayed), env)
        print(
            f"  lambda {weight:g}: lends to good {chances[0]:.2f}, to bad {chances[1]:.2f}; "
            f"values {values[0]:.0f} and {values[1]:.0f}"
        )


def show_two_groups(args: argparse.Namespace) -> None:
    """The linear program's optimum beside what is learned by dual ascent."""
    world = two_groups(args.amount, args.interest)
    _, profit, price = world.best(args.gap)
    _, free, _ = world.best(1.0)
    print(
        f"two groups, gap at most {args.gap:g}: the linear program earns {profit:.1f} a customer "
        f"({free:.1f} without a bound), and a unit of gap is worth {price:.1f}"
    )
    multiplier = Lagrangian("gap", at_most=args.gap, gain=0.005)
    scores = world.scores.shape[1]
    priced = FairnessCost(
        world.env, lambda seen: int(seen.argmax()) // scores, multiplier, window=1000, every=100
    )
    averaged = AveragedPolicy(after=args.steps // 2, every=500)
    # With entropy, since what is never tried is not learned anew when the multiplier moves.
    learn(priced, args.steps, args.seed, rate=0.1, entropy=0.01, averaged=averaged)
    chances = averaged.probabilities(world.env.kinds)[:, 1].reshape(world.scores.shape)
    earned, gap = world.judged(chances)
    late = np.mean(multiplier.history[len(multiplier.history) // 2 :]) * UNIT
    print(
        f"  learned: {earned:.1f} a customer ({earned / profit:.0%}), gap {gap:.3f}, multiplier "
        f"{late:.1f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Show both environments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--good", type=float, default=0.9, help="a good customer repays (0.9)")
    add("--bad", type=float, default=0.6, help="a bad customer repays (0.6)")
    add("--amount", type=float, default=1000.0, help="of a loan (1000)")
    add("--interest", type=float, default=0.5, help="share of the amount (0.5; literature: 0.1)")
    add("--penalties", type=float, nargs="*", default=[0.0, 20.0, 150.0], help="lambdas")
    add("--gap", type=float, default=0.08, help="bound of the two groups' lending rates (0.08)")
    add("--steps", type=int, default=20_000, help="customers to learn from, each time (20,000)")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    show_textbook(args)
    show_two_groups(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
