"""What one decision changes, and what it leaves."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from tuned_models import X, Y, cnn, torch_trainer

from rlhf_tune.envs import FineTuningEnv
from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.fine_tuning import OPERATIONS, RETURN, Operation
from rlhf_tune.safety.custom import constraint
from rlhf_tune_integrations.pytorch import TorchTrainer


def environment(**options: Any) -> FineTuningEnv:
    env = FineTuningEnv(torch_trainer(), **options)
    env.reset(seed=0)
    return env


def action(env: FineTuningEnv, group: str, operation: str) -> np.int64:
    every = range(env.action_space.n)
    return np.int64(next(a for a in every if env.decode(a) == (group, operation)))


def weights(env: FineTuningEnv) -> dict[str, Any]:
    state = env.tuning.trainer.model.state_dict()
    return {key: value.clone() for key, value in state.items()}


@pytest.mark.parametrize("group", ["stem", "blocks", "head", "all"])
def test_training_a_group_changes_it_and_nothing_else(group: str) -> None:
    env = environment()
    before = weights(env)
    _, _, _, _, info = env.step(action(env, group, "tune"))
    after = weights(env)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    # "5" is a normalisation without weights; its statistics go with the layer before it.
    of = {"stem": {"0", "1"}, "blocks": {"4", "5"}, "head": {"7"}}
    assert changed == of.get(group, set().union(*of.values()))
    assert info["verdict"] == "committed"


def test_moments_of_frozen_weights_stay() -> None:
    trainer = torch_trainer()
    env = FineTuningEnv(trainer)
    env.reset(seed=0)
    env.step(action(env, "all", "tune"))
    optimizer, model = trainer._optimizer, trainer.model
    frozen = model[0].weight
    before = {key: value.clone() for key, value in optimizer.state[frozen].items()}
    env.step(action(env, "head", "tune"))
    for key, value in optimizer.state[frozen].items():
        assert torch.equal(value, before[key]), key


def test_modes_gradients_and_what_was_frozen_are_as_before() -> None:
    model = cnn()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    needed = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    first = model[0].weight.clone()
    env = FineTuningEnv(torch_trainer(model), steps=4)
    env.reset(seed=0)
    for group in ("stem", "head", "all"):
        env.step(action(env, group, "tune"))
    assert [p.requires_grad for p in model.parameters()] == needed
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model[0].weight, first)


def test_slowly_is_at_a_smaller_rate() -> None:
    moved = {}
    for operation in ("tune", "tune slowly"):
        env = environment()
        before = weights(env)
        env.step(action(env, "head", operation))
        after = weights(env)
        moved[operation] = float((after["7.weight"] - before["7.weight"]).norm())
    assert 0 < moved["tune slowly"] < 0.5 * moved["tune"]


def test_skip_changes_nothing_and_stop_ends() -> None:
    env = environment()
    before, rng = weights(env), torch.get_rng_state()
    _, reward, terminated, truncated, info = env.step(action(env, "stem", "skip"))
    assert (reward, terminated, truncated, info["verdict"]) == (0.0, False, False, "skip")
    _, reward, terminated, truncated, _ = env.step(action(env, "head", "stop"))
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert all(torch.equal(value, weights(env)[key]) for key, value in before.items())
    assert torch.equal(rng, torch.get_rng_state())


def test_the_reward_is_gain_less_costs() -> None:
    env = environment(tune_cost=0.02, switch_cost=0.03)
    start = env.tuning.metric
    _, first, _, _, info = env.step(action(env, "head", "tune"))
    assert first == pytest.approx(info["metric"] - start - 0.02)
    assert (info["tune_cost"], info["switch_cost"]) == (0.02, 0.0)
    before = info["metric"]
    _, second, _, _, info = env.step(action(env, "stem", "tune"))
    assert second == pytest.approx(info["metric"] - before - 0.05)
    assert (info["group"], info["operation"], info["switch_cost"]) == ("stem", "tune", 0.03)


def test_a_loss_that_falls_is_a_gain() -> None:
    env = environment(monitor="val_loss", tune_cost=0.0)
    start = env.tuning.metric
    _, reward, _, _, info = env.step(action(env, "head", "tune"))
    assert reward == pytest.approx(start - info["metric"])
    assert dict(zip(env.features, env.tuning.seen(), strict=True))["gain"] == pytest.approx(
        reward, abs=1e-5
    )


def test_observations_say_what_happened() -> None:
    env = environment(steps=4, task=[0.5])
    env.step(action(env, "head", "tune"))
    seen = dict(zip(env.features, env._seen(), strict=True))
    assert seen["left"] == pytest.approx(0.75)
    assert (seen["last head"], seen["last stem"]) == (1.0, 0.0)
    assert seen["spent head"] == pytest.approx(0.25)
    assert seen["distance head"] > seen["distance stem"] == 0.0
    assert (seen["depth stem"], seen["depth head"]) == (pytest.approx(1 / 6, abs=0.01), 1.0)
    assert seen["task 0"] == 0.5


def test_gradients_are_those_of_the_loss_and_leave_no_trace() -> None:
    model = cnn()
    trainer = torch_trainer(model)
    env = FineTuningEnv(trainer)
    env.reset()
    before = weights(env)
    found = env.tuning.trainer.gradients()
    model.eval()
    loss = torch.nn.functional.cross_entropy(
        model(torch.from_numpy(X[:40])), torch.from_numpy(Y[:40])
    )
    wanted = torch.autograd.grad(loss, [model[7].weight, model[7].bias])
    norm = float(torch.cat([g.flatten() for g in wanted]).norm())
    assert found["7"] == pytest.approx(norm, rel=1e-4)
    assert all(torch.equal(value, weights(env)[key]) for key, value in before.items())


def test_what_diverges_is_taken_back_and_masked() -> None:
    model = cnn()
    trainer = torch_trainer(model, rate=1e30)
    env = FineTuningEnv(trainer, steps=4)
    env.reset(seed=0)
    before, chosen = weights(env), action(env, "all", "tune")
    _, _, _, _, info = env.step(chosen)
    assert info["verdict"] == "diverged"
    assert not env.action_masks()[chosen]
    assert all(torch.equal(value, weights(env)[key]) for key, value in before.items())
    _, _, _, _, info = env.step(chosen)
    assert info["verdict"] == "masked"


def test_a_constraint_once_satisfied_is_kept() -> None:
    first = cnn()[7].weight.detach()

    def near(model: Any) -> float:
        return float((model[7].weight.detach() - first).abs().max())

    near_start = constraint("moved", near, at_most=1e-6)
    floor = constraint("always", lambda model: 1.0, at_least=0.5)
    env = FineTuningEnv(torch_trainer(), steps=4, constraints=[near_start, floor])
    env.reset(seed=0)
    chosen = action(env, "head", "tune")
    _, _, _, _, info = env.step(chosen)
    assert info["verdict"] == "violates"
    assert info["violation"]
    assert not env.action_masks()[chosen]
    _, _, _, _, info = env.step(action(env, "stem", "tune"))
    assert info["verdict"] == "committed"
    assert near(env.hand_back()) == 0


def test_what_never_holds_cannot_be_certified() -> None:
    never = constraint("never", lambda model: 0.0, at_least=0.5)
    env = FineTuningEnv(torch_trainer(), steps=2, constraints=[never])
    env.reset()
    env.step(action(env, "head", "tune"))
    with pytest.raises(CannotCertify, match="never"):
        env.hand_back()


def test_returning_goes_to_the_start_and_remembers() -> None:
    env = environment(operations=(*OPERATIONS, RETURN))
    before = weights(env)
    env.step(action(env, "head", "tune slowly"))
    _, _, _, _, info = env.step(action(env, "head", "return"))
    assert info["verdict"] == "committed"
    assert all(torch.equal(value, weights(env)[key]) for key, value in before.items())
    seen = dict(zip(env.features, env.tuning.seen(), strict=True))
    assert seen["spent head"] > 0
    assert seen["distance head"] == 0


def test_an_operation_of_the_users() -> None:
    """Pruning: half of the weights of a group become 0, which is worth something."""

    def prune(trainer: Any, names: Any) -> None:
        for name in names:
            held = trainer.layers.weights(name)
            small = [np.abs(w) < np.median(np.abs(w)) for w in held]
            trainer.layers.assign(
                name, [np.where(s, 0, w) for s, w in zip(small, held, strict=True)]
            )

    env = environment(operations=(*OPERATIONS, Operation("prune", change=prune, bonus=0.5)))
    start = env.tuning.metric
    _, reward, _, _, info = env.step(action(env, "blocks", "prune"))
    assert float((weights(env)["4.weight"] == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert reward == pytest.approx(info["metric"] - start + 0.5)
    assert info["tune_cost"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps >= 1 must hold"),
        ({"stretch": 0}, "stretch >= 1 must hold"),
        ({"tune_cost": -1.0}, "tune_cost >= 0 must hold"),
        ({"switch_cost": float("nan")}, "switch_cost >= 0 must hold"),
        ({"operations": OPERATIONS[1:]}, "the first operation must do nothing"),
        ({"operations": (*OPERATIONS, OPERATIONS[1])}, "different names"),
        ({"operations": (OPERATIONS[0], Operation("x", rate=0.0))}, "`rate` must be above 0"),
        ({"operations": (OPERATIONS[0], Operation("x", rate=1.0, stops=True))}, "does several"),
        ({"monitor": "val_f1"}, "`monitor` must be one of"),
    ],
)
def test_what_breaks_a_rule_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        FineTuningEnv(torch_trainer(), **options).reset()


def test_an_own_training_step_is_used_and_its_gradients_are_unknown() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    calls = []

    def step(batch: Any) -> torch.Tensor:
        calls.append(1)
        x, y = batch
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    trainer = TorchTrainer(
        model, optimizer, torch.nn.functional.cross_entropy, (X, Y), (X, Y), train_step=step
    )
    env = FineTuningEnv(trainer, steps=2)
    env.reset()
    before = weights(env)
    env.step(action(env, "head", "tune"))
    assert calls
    assert torch.equal(before["0.weight"], weights(env)["0.weight"])
    assert not torch.equal(before["7.weight"], weights(env)["7.weight"])
    seen = dict(zip(env.features, env.tuning.seen(), strict=True))
    assert seen["gradient stem"] == seen["gradient head"] == 0
