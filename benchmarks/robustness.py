"""Time of the FGSM measurement beside its floor and beside other attack libraries.

The floor is what any implementation must pay for one loss: the input gradient and two forward
passes, in one compiled function where the framework has them. Ours are for two losses against
twice that floor; Foolbox and ART, timed where they are installed, have one loss, so .5 is as fast
as theirs could be. Examples:

    python -m benchmarks.robustness
    python -m benchmarks.robustness --framework torch --batch-size 32
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, publish
from rlhf_tune.safety import RobustAccuracy, perturb

EPS = 0.1
SHAPE = (28, 28, 1)
CLASSES = 10

Call = Callable[[], object]


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table per framework."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    both = ["torch", "keras"]
    parser.add_argument("--framework", choices=both, nargs="*", help="which to time (both)")
    parser.add_argument("--samples", type=int, default=1024, help="images to attack (1024)")
    parser.add_argument("--batch-size", type=int, default=256, help="at a time (256)")
    parser.add_argument("--repeats", type=int, default=7, help="timings, of which the median (7)")
    add_write(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    rng = np.random.default_rng(0)
    x = rng.random((args.samples, *SHAPE), dtype=np.float32)
    y = rng.integers(0, CLASSES, args.samples)
    head = (
        f"`python -m benchmarks.robustness {shlex.join(words)}`: {args.samples} images, "
        f"batches of {args.batch_size}."
    )
    tables = []
    for framework in args.framework or both:
        calls = {"torch": torch_calls, "keras": keras_calls}[framework](x, y, args.batch_size)
        tables.append(summary(framework, timed(calls, args.repeats)))
    Console().print(head, *tables)
    if args.write:
        publish("robustness", head, tables, args.write)
    return 0


def summary(framework: str, times: Mapping[str, float]) -> Table:
    """Each call's time and how often it holds the floor; which peers were not there to time."""
    table = Table(framework, "ms", "x floor", title=f"FGSM accuracy with {framework}")
    for name, seconds in times.items():
        table.add_row(name, f"{seconds * 1e3:.1f}", f"{seconds / times['floor']:.2f}")
    for peer in ("foolbox", "art"):
        if importlib.util.find_spec(peer) is None:
            table.add_row(peer, "not installed", "")
    return table


def timed(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    """Median seconds of each call, taken in turns so that a busy machine slows all alike."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def ours(model: Any, x: NDArray[Any], y: NDArray[Any], batch_size: int) -> dict[str, Call]:
    """The public calls on this model; the constraint fixes its own batch size."""
    constraint = RobustAccuracy(x, y, eps=EPS, at_least=0.5)
    return {
        "perturb (both losses)": lambda: perturb(model, x, y, eps=EPS, batch_size=batch_size),
        "RobustAccuracy (attacks what is right)": lambda: constraint(model),
    }


def torch_calls(x: NDArray[Any], y: NDArray[Any], batch_size: int) -> dict[str, Call]:
    """The floor, ours and the installed peers on a small CNN in torch."""
    torch = importlib.import_module("torch")
    nn = torch.nn
    torch.manual_seed(0)
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, CLASSES),
    ).eval()  # fmt: skip
    y = relabelled(y, model(torch.as_tensor(x)).argmax(1).numpy())
    inputs = torch.as_tensor(x).split(batch_size)
    labels = torch.as_tensor(y).split(batch_size)

    def floor() -> None:
        for _ in range(2):
            for batch, own in zip(inputs, labels, strict=True):
                model.requires_grad_(False)
                leaf = batch.clone().requires_grad_()
                loss = nn.functional.cross_entropy(model(leaf), own, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, leaf)
                with torch.no_grad():
                    model(batch)
                    model((batch + EPS * gradient.sign()).clamp(0, 1))

    calls = {"floor": floor, **ours(model, x, y, batch_size)}
    if importlib.util.find_spec("foolbox") is not None:
        foolbox = importlib.import_module("foolbox")
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        attack = foolbox.attacks.FGSM()
        calls["Foolbox, accuracy and FGSM, one loss"] = lambda: [
            (foolbox.accuracy(wrapped, batch, own), attack(wrapped, batch, own, epsilons=EPS))
            for batch, own in zip(inputs, labels, strict=True)
        ]
    if importlib.util.find_spec("art") is not None:
        estimators = importlib.import_module("art.estimators.classification")
        evasion = importlib.import_module("art.attacks.evasion")
        estimator = estimators.PyTorchClassifier(
            model, nn.CrossEntropyLoss(), x.shape[1:], CLASSES, clip_values=(0, 1)
        )
        fgsm = evasion.FastGradientMethod(estimator, eps=EPS, batch_size=batch_size)
        calls["ART, accuracy and FGSM, one loss"] = lambda: (
            estimator.predict(x, batch_size),
            estimator.predict(fgsm.generate(x, y), batch_size),
        )
    return calls


def keras_calls(x: NDArray[Any], y: NDArray[Any], batch_size: int) -> dict[str, Call]:
    """The floor and ours on the same CNN in Keras."""
    keras = importlib.import_module("keras")
    tf = importlib.import_module("tensorflow")
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    )
    y = relabelled(y, model.predict(x, verbose=0).argmax(1))

    @tf.function(reduce_retracing=True)
    def step(batch: Any, own: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(own, model(batch, training=False))
        moved = batch + EPS * tf.sign(tape.gradient(loss, batch))
        moved = tf.clip_by_value(moved, 0, 1)
        return model(batch, training=False), model(moved, training=False)

    inputs = [tf.constant(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    labels = [tf.constant(y[i : i + batch_size]) for i in range(0, len(y), batch_size)]

    def floor() -> None:
        for _ in range(2):
            for batch, own in zip(inputs, labels, strict=True):
                [part.numpy() for part in step(batch, own)]

    return {"floor": floor, **ours(model, x, y, batch_size)}


def relabelled(y: NDArray[Any], predicted: NDArray[Any]) -> NDArray[Any]:
    """Labels that the model gets right nine times of ten, as a trained one would."""
    return np.where(np.arange(len(y)) % 10 == 0, y, predicted)


if __name__ == "__main__":
    raise SystemExit(main())
