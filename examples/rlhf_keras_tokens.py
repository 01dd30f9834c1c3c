"""The smallest loop of human feedback on text: a model, an evaluator and a learner.

The *model* is a Keras network that has read some sentences and writes the next word. The
*evaluator* has seen people compare what it writes, and gives a score. The *learner*, PPO of
stable-baselines3, chooses the words of an environment whose reward is that score, less what leads
too far from the model. Each is one class with one or two methods; replace any of them.

    python examples/rlhf_keras_tokens.py
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Protocol

import gymnasium as gym
import keras
import numpy as np
from stable_baselines3 import PPO

from rlhf_tune.feedback import RewardModel

WORDS = ("<start>", "the", "model", "is", "very", "good", "bad", "rude", "kind")
SENTENCES = (
    "the model is good the model is bad",
    "the model is very bad the model is",
    "the model is kind the model is rude",
    "the model is very good the model is",
    "the model is rude the model is kind",
    "the model is very kind the model is",
)
LENGTH = 8
Text = tuple[int, ...]


class Model(Protocol):
    """What writes: the probability of each next word."""

    def next(self, text: Text) -> np.ndarray:
        """Of all words [W]."""
        ...


class Evaluator(Protocol):
    """What people want of a text, as a number."""

    def score(self, text: Text) -> float:
        """Larger is better."""
        ...


class Learner(Protocol):
    """What learns to write what the evaluator likes."""

    def learn(self, env: gym.Env, steps: int) -> None:
        """Write so many words, and be scored."""
        ...

    def choose(self, seen: np.ndarray) -> int:
        """The next word."""
        ...


class KerasModel:
    """The next word by the two before it."""

    def __init__(self, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.network = keras.Sequential(
            [
                keras.Input((2,), dtype="int32"),
                keras.layers.Embedding(len(WORDS), 8),
                keras.layers.Flatten(),
                keras.layers.Dense(32, activation="tanh"),
                keras.layers.Dense(len(WORDS), activation="softmax"),
            ]
        )
        self.network.compile("adam", "sparse_categorical_crossentropy")
        self._known: dict[Text, np.ndarray] = {}

    def read(self, sentences: tuple[str, ...], epochs: int) -> KerasModel:
        """Learn to write as these do."""
        texts = [tuple(map(WORDS.index, sentence.split())) for sentence in sentences]
        pairs = [(_last_two(t[:k]), t[k]) for t in texts for k in range(len(t))]
        x, y = (np.array(column, dtype="int32") for column in zip(*pairs, strict=True))
        self.network.fit(x, y, epochs=epochs, batch_size=8, verbose=0)
        return self

    def next(self, text: Text) -> np.ndarray:
        """The network is asked once for each pair of words."""
        last = _last_two(text)
        if last not in self._known:
            said = self.network(np.array([last], dtype="int32"))
            self._known[last] = keras.ops.convert_to_numpy(said)[0].astype(float)
        return self._known[last]

    def write(self, rng: np.random.Generator) -> Text:
        """A text of its own."""
        text: Text = ()
        while len(text) < LENGTH:
            p = self.next(text)
            text += (int(rng.choice(len(WORDS), p=p / p.sum())),)
        return text


def _last_two(text: Text) -> tuple[int, int]:
    last = (0, 0, *text)[-2:]
    return last[0], last[1]


class Preferences:
    """A reward model of compared texts; an outcome is how often each word is in the text."""

    def __init__(self, texts: list[Text], pairs: list[tuple[int, int]]) -> None:
        counts = np.array([_counts(text) for text in texts])
        preferred, rejected = np.array(pairs).T
        self.model = RewardModel(names=WORDS).fit(
            counts[preferred], counts[rejected], population=counts
        )

    def score(self, text: Text) -> float:
        """Its utility, less a deviation: nothing is gained by what nobody compared."""
        mean, deviation = self.model.predict([_counts(text)])
        return float(mean[0] - deviation[0])


def _counts(text: Text) -> np.ndarray:
    return np.bincount(text, minlength=len(WORDS)).astype(float)


class Writing(gym.Env):
    """A text, word by word: the reward of its end is its score, less what is unlike the model."""

    def __init__(self, model: Model, evaluator: Evaluator, closeness: float) -> None:
        self.model, self.evaluator, self.closeness = model, evaluator, closeness
        self.action_space = gym.spaces.Discrete(len(WORDS))
        size = 2 * len(WORDS) + 1
        self.observation_space = gym.spaces.Box(0.0, 1.0, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Begin an empty text."""
        super().reset(seed=seed)
        self.text: Text = ()
        return self._seen(), {}

    def step(self, action: int) -> tuple:
        """Write a word."""
        unlike = -self.closeness * float(np.log(self.model.next(self.text)[action] + 1e-6))
        self.text += (int(action),)
        over = len(self.text) == LENGTH
        score = self.evaluator.score(self.text) if over else 0.0
        return self._seen(), score - unlike, over, False, {"text": self.text}

    def _seen(self) -> np.ndarray:
        """What the model would write, the last word, and how much is written."""
        last = np.eye(len(WORDS))[_last_two(self.text)[1]]
        parts = [self.model.next(self.text), last, [len(self.text) / LENGTH]]
        return np.concatenate(parts).astype(np.float32)


class PPOLearner:
    """Proximal policy optimization of stable-baselines3."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def learn(self, env: gym.Env, steps: int) -> None:
        """Write, and be scored."""
        options = {"n_steps": 512, "batch_size": 128, "learning_rate": 1e-3, "ent_coef": 0.01}
        self.agent = PPO("MlpPolicy", env, seed=self.seed, gamma=1.0, device="cpu", **options)
        self.agent.learn(steps)

    def choose(self, seen: np.ndarray) -> int:
        """A word, drawn."""
        return int(self.agent.predict(seen, deterministic=False)[0])


def gold(text: Text) -> float:
    """What people really want, which nothing here sees: kind words, no rude ones, and sense."""
    words = [WORDS[k] for k in text]
    starts = sum(pair == ("model", "is") for pair in pairwise(words))
    return 2.0 * words.count("kind") - 2.0 * words.count("rude") + words.count("good") + starts


def compare(texts: list[Text], n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(preferred, rejected): people compare texts, with noise."""
    pairs = []
    for _ in range(n):
        i, j = (int(k) for k in rng.choice(len(texts), 2, replace=False))
        first = rng.random() < 1 / (1 + np.exp(gold(texts[j]) - gold(texts[i])))
        pairs.append((i, j) if first else (j, i))
    return pairs


def written(env: Writing, learner: Learner, n: int) -> list[Text]:
    """Texts of the learner."""
    texts = []
    for _ in range(n):
        seen, over, info = env.reset()[0], False, {}
        while not over:
            seen, _, over, _, info = env.step(learner.choose(seen))
        texts.append(info["text"])
    return texts


def main() -> None:
    """Read, compare, learn, and look at what was won."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=12000, help="words that PPO writes")
    parser.add_argument("--comparisons", type=int, default=120, help="that people make")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    model = KerasModel(args.seed).read(SENTENCES, epochs=60)
    texts = [model.write(rng) for _ in range(100)]
    evaluator = Preferences(texts, compare(texts, args.comparisons, rng))
    env, learner = Writing(model, evaluator, closeness=0.1), PPOLearner(args.seed)
    learner.learn(env, args.steps)
    after = written(env, learner, 100)
    for name, some in (("before", texts), ("after", after)):
        print(f"{name}: gold utility {np.mean([gold(t) for t in some]):.2f}, for example:")
        print("   ", " ".join(WORDS[k] for k in some[0]))


if __name__ == "__main__":
    main()
