"""Problems of many kinds: trained live, on recorded scales, played with and without constraints."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
import pytest
import torch

from benchmarks import record_kinds, sampler
from benchmarks.kinds import catalogue, data, networks, problems, spaces, studies, training
from benchmarks.kinds.catalogue import CONSTRAINED, KINDS
from benchmarks.kinds.problems import Scale, Spec
from rlhf_tune.errors import InvalidInputError

EVERY = [spec for specs in catalogue.specs().values() for spec in specs]
RATE = {"learning_rate": 1e-2, "batch_size": 64}


def test_no_family_is_in_two_splits_and_each_kind_has_problems_in_both() -> None:
    assert list(data.SPLITS) == list(get_args(data.Split))
    names = [name for families in data.SPLITS.values() for name in families]
    assert len(set(names)) == len(names)
    assert {data.family(spec.dataset) for spec in EVERY} == set(names)
    assert len({spec.name for spec in EVERY}) == len(EVERY)
    for specs in catalogue.specs().values():
        for families in data.SPLITS.values():
            assert 4 <= sum(data.family(spec.dataset) in families for spec in specs) <= 6


def test_every_scale_is_recorded_and_of_use() -> None:
    scales = catalogue.scales()
    assert set(scales) == {spec.name for spec in EVERY}
    for spec in EVERY:
        scale = scales[spec.name]
        assert 0 <= scale.best < scale.median
        if spec.kind == "costs":
            assert 0.3 <= scale.feasible <= 0.7


def test_a_problem_without_a_scale_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "scales", dict)
    with pytest.raises(InvalidInputError, match="record_kinds"):
        catalogue.problems("four", "validation")


@pytest.mark.parametrize("name", sorted(spaces.SPACES))
def test_a_space_contains_its_start(name: str) -> None:
    space = spaces.SPACES[name]
    optuna.trial.create_trial(params=spaces.start(space), distributions=space, value=0.0)
    assert set(space) <= training.NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_a_problem_is_trained_the_same_each_time(kind: str) -> None:
    problem = catalogue.problems(kind, "validation")[0]
    first, costs = problem.values(problem.start), problem.costs(problem.start)
    problems.forget()
    assert (problem.values(problem.start) == first).all()
    assert problem.costs(problem.start) == costs
    assert first.shape == (problems.SEEDS,)
    assert len(set(first)) > 1, "training seeds differ"
    assert bool(costs) == (kind in CONSTRAINED)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_run_that_diverges_counts_as_a_constant_prediction(optimizer: str) -> None:
    chance = data.load("wine").chance
    spec = Spec("grids", "wine", "whole", depth=3, optimizer=optimizer)
    diverged = problems.measured(spec, RATE | {"learning_rate": 1e9})
    assert diverged.measure == pytest.approx(chance)
    assert (problems.measured(spec, RATE).measure < chance).any()


def test_an_accuracy_is_told_as_it_is_and_maximised() -> None:
    problem = catalogue.problems("accuracy", "validation")[0]
    told = problem.unit(problem.values(RATE)[0])
    assert problem.unit.direction == "maximize"
    assert told == pytest.approx(1 - problems.measured(problem.spec, RATE).measure[0])
    assert 0.3 < told <= 1


def test_macro_f1_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    parts = data.load("wine")
    predicted = torch.randint(3, (2, len(parts.y_val)), generator=torch.Generator().manual_seed(0))
    error = problems.error(predicted, "f1", parts)
    expected = [1 - f1_score(parts.y_val, row, average="macro") for row in predicted]
    assert error == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "module"), [("rnn", torch.nn.RNN), ("gru", torch.nn.GRU)])
def test_recurrent_networks_are_those_of_torch(kind: networks.Kind, module: type) -> None:
    shape = networks.Shape(kind, inputs=3, outputs=2, width=5)
    net = networks.network(shape)
    parameters = training.initial(shape, 2, seed=0)
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    (weight, bias, again, offset), (head, shift) = net.unpacked(parameters)
    for copy, outputs in enumerate(net.logits(parameters, x[None])):
        theirs = module(3, 5, batch_first=True)
        given = (weight[copy].T, again[copy].T, bias[copy, 0], offset[copy, 0])
        with torch.no_grad():
            for parameter, value in zip(theirs.parameters(), given, strict=True):
                parameter.copy_(value)
            expected = theirs(x)[0][:, -1] @ head[copy] + shift[copy]
        torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize(
    ("own", "theirs", "options"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.8}),
        ("adam", torch.optim.Adam, {"betas": (0.7, 0.95)}),
        ("adamw", torch.optim.AdamW, {"betas": (0.7, 0.95)}),
    ],
)
def test_steps_are_those_of_torch(own: str, theirs: type, options: dict[str, object]) -> None:
    parts = data.load("wine")
    shape = networks.Shape("mlp", parts.inputs, parts.outputs, depth=0)
    size = len(parts.y_train)  # one batch is all samples, so that no order matters
    given = training.Setting(
        1e-2, size, own, momentum=0.8, beta1=0.7, beta2=0.95, weight_decay=0.1, clip=0.5
    )
    before = training.initial(shape, 1, seed=0)
    after = training.train(shape, before, given, parts, training.Budget(5, 10**6), seed=0)
    leaf = before.clone().requires_grad_()
    optimizer = theirs([leaf], lr=1e-2, weight_decay=0.1, **options)
    for _ in range(5):
        optimizer.zero_grad()
        outputs = networks.network(shape).logits(leaf, parts.x_train[None])
        data.loss(outputs, parts.y_train[None]).mean().backward()
        torch.nn.utils.clip_grad_norm_([leaf], 0.5)
        optimizer.step()
    torch.testing.assert_close(after, leaf.detach())


@pytest.mark.parametrize("method", ["random", "default"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_short_study_of_each_kind_runs(kind: str, method: str) -> None:
    problem = catalogue.problems(kind, "validation")[-1]
    played = studies.play(None, problem, method, 0, 3)
    assert np.isfinite(played.regret).all()
    assert len(played.regret) == len(played.unsafe) == len(played.feasible) == 3
    if kind not in CONSTRAINED:
        assert played.regret[0] == pytest.approx(problem.values(problem.start).mean())


def test_regret_under_constraints_counts_feasible_trials_only() -> None:
    measured, true = np.array([0.1, 0.6, 0.2, 0.5]), np.array([0.0, 3.0, 0.3, 0.4])
    safe = np.array([False, True, True, False])
    played = studies.judged(measured, true, safe, trials=6)
    assert played.regret.tolist() == [1, 1, 0.3, 0.3, 0.3, 0.3]
    assert played.unsafe.tolist() == [1, 1, 1, 2, 2, 2]
    assert played.played.tolist() == [1, 2, 3, 4, 4, 4]
    assert played.feasible.tolist() == [False, *[True] * 5]


def test_a_flag_says_only_whether_a_constraint_holds() -> None:
    found = [p for p in catalogue.problems("fine_tuning", "validation") if p.spec.flag]
    assert len(found) == 2
    for problem in found:
        (careful,) = problem.costs({"learning_rate": 1e-6, "batch_size": 256}).values()
        (reckless,) = problem.costs({"learning_rate": 1e6, "batch_size": 8}).values()
        assert (careful, reckless) == (-1, 1)


def test_recording_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, todo = tmp_path / "scales.json", EVERY[:2]
    monkeypatch.setattr(record_kinds, "scale", lambda spec: Scale(0.0, 1.0, 0.0, 1.0, 0.1))
    assert record_kinds.record(todo[:1], file) == 1
    assert record_kinds.record(todo, file) == 1
    assert record_kinds.record(todo, file) == 0
    assert set(json.loads(file.read_text())) == {spec.name for spec in todo}


def test_a_scale_is_that_of_random_settings() -> None:
    scale = record_kinds.scale(EVERY[0], settings=6)
    assert scale.best < scale.median <= data.load(EVERY[0].dataset).chance
    assert scale.feasible == 1


def test_the_command_compares_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, keep = tmp_path / "page.md", str(tmp_path / "keep")
    few = ["--seeds", "1", "--trials", "3", "--tasks", "2", "--processes", "1"]
    words = ["--kind", "costs", "--methods", "random", "default", *few]
    for _ in range(2):
        assert sampler.main([*words, "--write", str(page), "--keep", keep]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("nothing feasible", "kinds won / tied / lost"))
    assert "nan" not in printed
    assert page.read_text().count("<!-- begin sampler-kinds-validation-costs-3 -->") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--split train", "no train split"),
        ("--shift 1", "leave it out"),
        ("--methods portfolio", "leave it out"),
    ],
)
def test_what_says_nothing_about_kinds_is_refused(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sampler.main(["--kind", "four", *words.split()])
    assert said in capsys.readouterr().err
