"""The adapter of Lightning keeps the contract of trainers, and says what it refuses."""

import math
import os
import signal

import pytest
from loop_owners import LOSS, TRAIN, VALIDATION, LoopContract, network, torch, val_loss

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Guard, Move
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import Fitted, outside

pytest.importorskip("lightning")

import lightning.pytorch as L  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from rlhf_tune_integrations.lightning import RunCallback, fit

pytestmark = [
    # Lightning's advice on the number of workers and the length of logs, and torch's own changes.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation"),
]


class Module(L.LightningModule):
    """Counts its batches, and remembers which rows were trained on."""

    def __init__(self, schedule=None, optimizers=1):
        super().__init__()
        self.net, self.batches, self.rows = network(), 0, []
        self.schedule, self.optimizers_made = schedule, optimizers

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        self.batches += 1
        self.rows += batch[2].tolist()
        loss = LOSS(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, _):
        outputs = self(batch[0])
        self.log("val_loss", LOSS(outputs, batch[1]))
        self.log("val_accuracy", (outputs.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        made = [torch.optim.Adam(self.parameters(), lr=1e-3) for _ in range(self.optimizers_made)]
        if self.schedule is not None:
            return made, [self.schedule(made[0])]
        return made


def loaders():
    train = TensorDataset(*map(torch.from_numpy, TRAIN), torch.arange(len(TRAIN[0])))
    validation = TensorDataset(*map(torch.from_numpy, VALIDATION))
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(validation, batch_size=64)


def trainer(**arguments):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(**{**quiet, "enable_model_summary": False, "max_epochs": 4, **arguments})


def sound(_):
    return Move("sound", {"learning_rate": 1e-2})


SOUND = RunPolicy(sound, Guard(0.0, 0.0))


def fitted(module=None, *, of=None, **driving):
    module = module or Module()
    torch.manual_seed(1)
    return module, fit(module, *loaders(), trainer=of or trainer(), **{"verbose": 0, **driving})


class TestLightning(LoopContract):
    def begin(self):
        fitted(of=trainer(max_epochs=1000))

    def fitted(self, steps, **driving):
        of = trainer(max_epochs=-1, max_steps=steps)
        module, history = fitted(of=of, **driving)
        return Fitted(history, of.global_step, val_loss(module))

    def scheduled(self):
        def step(optimizer):
            return torch.optim.lr_scheduler.StepLR(optimizer, 1)

        return lambda: fitted(Module(step))

    def accumulating(self):
        module = Module()
        of = trainer(max_epochs=1000, accumulate_grad_batches=3)
        made = self.loops.enter_context(outside(lambda: fitted(module, of=of)))
        return made, lambda: module.batches, 3

    def watched(self):
        module = Module()
        of = trainer(max_epochs=1000)

        def read():
            seen, module.rows = module.rows, []
            return seen

        return self.loops.enter_context(outside(lambda: fitted(module, of=of))), read


def test_fit_makes_a_trainer_of_its_own_and_learns():
    module = Module()
    before = val_loss(module)
    torch.manual_seed(1)
    history = fit(module, *loaders(), epochs=12, verbose=0)
    assert val_loss(module) < before - 0.1
    assert {"loss", "val_loss", "val_accuracy", "learning_rate"} <= history.history.keys()
    assert module.batches == 12 * 7
    for budget in ({}, {"epochs": 1, "steps": 2}):
        with pytest.raises(InvalidInputError, match="exactly one of `epochs` and `steps`"):
            fit(module, *loaders(), **budget)
    with pytest.raises(InvalidInputError, match="budget must be given once"):
        fit(module, *loaders(), trainer=trainer(), epochs=2)


def test_the_callback_alone_drives_a_fit_of_the_users():
    callback = RunCallback(verbose=0, policy="constant")
    of = trainer(callbacks=[callback])
    of.fit(Module(), *loaders())
    assert callback.history.epoch == [0, 1, 2, 3]
    assert of.global_step == 28


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ({"optimizers": 0}, {}, "must return one optimizer, but returned 0"),
        ({}, {"min_steps": 9}, "must be free to end"),
        ({}, {"max_epochs": -1}, "must have a budget"),
        ({}, {"limit_val_batches": 0}, "validation data and a `validation_step`"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*max_epochs")  # -1 is what is tested
def test_what_cannot_be_driven_is_refused_before_training(module, arguments, words):
    module = Module(**module)
    module.automatic_optimization = True
    with pytest.raises(InvalidInputError, match=words):
        fitted(module, of=trainer(**arguments))
    assert module.batches == 0


def test_steps_by_hand_other_owners_of_weights_and_many_processes_are_refused():
    module = Module()
    module.automatic_optimization = False
    with pytest.raises(InvalidInputError, match="automatic_optimization=False"):
        fitted(module)
    with pytest.raises(InvalidInputError, match="must train in one process, but the Lightning"):
        fitted(of=trainer(devices=2, accelerator="cpu", strategy="ddp"))
    averaging = L.callbacks.StochasticWeightAveraging(swa_lrs=1e-2)
    with pytest.raises(InvalidInputError, match="StochasticWeightAveraging"):
        fitted(of=trainer(callbacks=[averaging]))


def test_a_constraint_holds_of_what_is_handed_back_or_nothing_is():
    def norm(model):
        return float(sum(p.detach().square().sum() for p in model.parameters()))

    bound = norm(Module()) + 1.0
    module, history = fitted(constraints=[constraint("norm", norm, at_most=bound)])
    assert norm(module) <= bound
    assert history.certificate["norm"].satisfied
    with pytest.raises(CannotCertify) as caught:
        fitted(module := Module(), constraints=[constraint("norm", norm, at_most=0.1)])
    assert caught.value.best is module


class Failing(L.Callback):
    """Raises at some step."""

    def __init__(self, what):
        self.what = what

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 16:
            self.what()


def test_what_the_loop_raises_comes_out_with_the_best_state():
    def fail():
        raise OSError("disk full")

    module = Module()
    with pytest.raises(OSError, match="disk full") as caught:
        fitted(module, of=trainer(callbacks=[Failing(fail)]), policy=SOUND)
    assert "best state" in caught.value.__notes__[0]
    assert val_loss(module) <= min(caught.value.history.history["val_loss"])


def test_ctrl_c_within_the_loop_ends_the_run_and_is_heard_again_later(heard):
    module, before = Module(), heard

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    module, history = fitted(module, of=trainer(callbacks=[Failing(interrupt)]), policy=SOUND)
    assert history.interrupted
    assert val_loss(module) <= min(history.history["val_loss"])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
@pytest.mark.parametrize("skipped", [(1,), (0, 1, 2)])
def test_batches_that_the_module_skips_have_no_loss(skipped):
    class Skips(Module):
        def training_step(self, batch, number):
            return None if number in skipped else super().training_step(batch, number)

    history = fit(Skips(), *loaders(), epochs=3, verbose=0).history
    assert all(0 < loss < 2 for loss in history["loss"])
    assert min(history["val_loss"]) < 0.69


def test_early_stopping_of_the_users_ends_the_run():
    stopping = L.callbacks.EarlyStopping("val_loss", patience=8, min_delta=1e9)
    of = trainer(callbacks=[stopping], max_epochs=20)
    module, history = fitted(of=of, policy=SOUND)
    assert history.interrupted
    assert of.global_step < 140
    assert val_loss(module) == history.history["val_loss"][-1]


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    class Killed(BaseException):
        pass

    def kill(epoch):
        if epoch.number == 1:
            raise Killed

    with pytest.raises(Killed):
        fitted(checkpoint=tmp_path, on_epoch=kill, policy="constant")
    of = trainer()
    module, history = fitted(of=of, checkpoint=tmp_path, policy="constant")
    assert history.epoch == [0, 1, 2, 3]
    assert of.global_step == 21  # a stretch is one of 4 epochs; one was written
    assert math.isclose(val_loss(module), history.history["val_loss"][-1])


def test_a_run_that_is_over_is_handed_back_without_a_step(tmp_path):
    first, history = fitted(checkpoint=tmp_path)
    again, same = fitted(checkpoint=tmp_path)
    assert same.history == history.history
    assert again.batches == 0
    assert val_loss(again) == val_loss(first)


def test_moves_of_an_agent_reach_the_optimizer():
    def decide(state):
        return Move("half", {"learning_rate": state.now["learning_rate"] / 2})

    _, history = fitted(policy=RunPolicy(decide, None, stretches=1, keeps_best=False))
    assert history.history["learning_rate"] == [5e-4, 2.5e-4, 1.25e-4, 6.25e-5]
