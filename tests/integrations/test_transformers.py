"""The adapter of Hugging Face's `Trainer` keeps the contract, and says what it refuses."""

import math

import numpy as np
import pytest
from loop_owners import LOSS, RNG, LoopContract, torch

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Guard, Move
from rlhf_tune.safety.custom import constraint
from rlhf_tune.testing import Fitted, outside

pytest.importorskip("transformers")

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from rlhf_tune_integrations.transformers import fit

TOKENS = RNG.integers(0, 30, size=(120, 8))
SAMPLES = [
    {"input_ids": torch.tensor(row), "labels": int(row[0] > 15), "number": number}
    for number, row in enumerate(TOKENS)
]
TRAIN, VALIDATION = SAMPLES[:72], SAMPLES[72:]
SOUND = RunPolicy(lambda _: Move("sound", {"learning_rate": 1e-2}), Guard(0.0, 0.0))


def bert():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=2, **size, **layers))
    model.batches = 0
    model.register_forward_pre_hook(count)
    return model


def count(model, _):
    """How many batches it was trained on."""
    model.batches += model.training


def collate(samples):
    return {
        "input_ids": torch.stack([sample["input_ids"] for sample in samples]),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("trainer"))


class Scene:
    """Trainers that write into a folder of the test's."""

    folder = ""

    def trainer(self, **arguments):
        callbacks = arguments.pop("callbacks", [])
        optimizers = arguments.pop("optimizers", (None, None))
        settings = {
            "num_train_epochs": 4,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 64,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "use_cpu": True,
        }
        args = TrainingArguments(self.folder, **{**settings, **arguments})
        return Trainer(
            bert(),
            args,
            data_collator=collate,
            train_dataset=TRAIN,
            eval_dataset=VALIDATION,
            callbacks=callbacks,
            optimizers=optimizers,
        )


SCENE = Scene()
make = SCENE.trainer


@pytest.fixture(autouse=True)
def _in_a_folder(folder):
    SCENE.folder = folder


def val_loss(model) -> float:
    batch = collate(VALIDATION)
    model.eval()
    with torch.no_grad():
        return float(LOSS(model(batch["input_ids"]).logits, batch["labels"]))


def driven(trainer, **driving):
    return fit(trainer, **{"verbose": 0, **driving})


class TestTransformers(LoopContract):
    def begin(self):
        driven(make(num_train_epochs=1000))

    def fitted(self, steps, **driving):
        trainer = make(max_steps=steps)
        history = driven(trainer, **driving)
        return Fitted(history, trainer.state.global_step, val_loss(trainer.model))

    def scheduled(self):
        return lambda: driven(make(lr_scheduler_type="linear"))

    def accumulating(self):
        trainer = make(num_train_epochs=1000, gradient_accumulation_steps=3)
        made = self.loops.enter_context(outside(lambda: driven(trainer)))
        return made, lambda: trainer.model.batches, 3


def test_it_learns_and_leaves_the_trainer_as_it_was():
    trainer = make(num_train_epochs=8, gradient_accumulation_steps=2)
    before = val_loss(trainer.model)
    callbacks = len(trainer.callback_handler.callbacks)
    history = driven(trainer)
    assert val_loss(trainer.model) < before - 0.3
    assert {"loss", "val_loss", "learning_rate"} <= history.history.keys()
    assert trainer.state.global_step == 8 * 5  # the last step of an epoch takes one batch
    assert "training_step" not in vars(trainer)
    assert len(trainer.callback_handler.callbacks) == callbacks


def test_several_data_sets_judge_together_and_are_told_apart():
    trainer = make()
    trainer.eval_dataset = {"many": VALIDATION[:32], "few": VALIDATION[32:]}
    history = driven(trainer).history
    many, few = (np.array(history[f"val_{name}_loss"]) for name in ("many", "few"))
    assert history["val_loss"] == pytest.approx((32 * many + 16 * few) / 48, rel=1e-6)
    assert val_loss(trainer.model) <= min(history["val_loss"]) + 1e-4


def test_a_trainer_is_driven_again_from_where_it_is():
    trainer = make(num_train_epochs=1)
    first, again = (min(driven(trainer).history["val_loss"]) for _ in range(2))
    assert again < first


@pytest.mark.slow
def test_the_loss_of_a_step_is_the_mean_over_all_its_batches():
    losses = []
    for each in (1, 3):
        settings = {"per_device_train_batch_size": 24 // each, "gradient_accumulation_steps": each}
        trainer = Trainer(gpt2(), make(max_steps=1, **settings).args, train_dataset=ROWS)
        driving = {"validation": lambda: {"val_loss": 1.0}, "policy": "constant"}
        losses.append(driven(trainer, **driving).history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_the_rate_of_a_move_is_the_one_of_the_step():
    class Rates(TrainerCallback):
        seen = ()

        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
            self.seen = (*self.seen, optimizer.param_groups[0]["lr"])

    def halve(state):
        return Move("half", {"learning_rate": state.now["learning_rate"] / 2})

    rates = Rates()
    driven(make(callbacks=[rates]), policy=RunPolicy(halve, None, stretches=1))
    assert [rates.seen[9 * epoch + 4] for epoch in range(4)] == [5e-4, 2.5e-4, 1.25e-4, 6.25e-5]
    assert len(set(rates.seen)) == 4


def gpt2():
    torch.manual_seed(0)
    size = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    nothing = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, **size, **nothing))


ROWS = [dict.fromkeys(("input_ids", "labels"), torch.arange(8) + i % 9) for i in range(64)]


def test_a_language_model_learns_with_metrics_of_ones_own():
    model = gpt2()
    args = make().args
    trainer = Trainer(model, args, train_dataset=ROWS)

    def perplexity():
        batch = {k: torch.stack([row[k] for row in ROWS]) for k in ROWS[0]}
        loss = float(model(**batch).loss)
        return {"val_loss": loss, "val_perplexity": math.exp(loss)}

    history = driven(trainer, validation=perplexity, monitor="val_perplexity")
    assert history.history["val_perplexity"][-1] < 15
    with pytest.raises(InvalidInputError, match="no eval_dataset"):
        driven(Trainer(model, args, train_dataset=ROWS))


@pytest.mark.slow
def test_a_model_that_was_loaded_is_tuned_gently(tmp_path):
    bert().save_pretrained(tmp_path)
    trainer = make(num_train_epochs=8)
    trainer.model = BertForSequenceClassification.from_pretrained(tmp_path)
    trainer.model_wrapped = trainer.model
    assert driven(trainer).range_test[0].learning_rate == pytest.approx(1e-3)
    assert driven(make(num_train_epochs=8)).range_test[0].learning_rate > 1e-2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr_scheduler_type": "linear"}, "is 'linear' .the default"),
        ({"lr_scheduler_type": "constant_with_warmup"}, "one owner"),
        ({"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
         "load_best_model_at_end=True"),
    ],
)  # fmt: skip
def test_what_cannot_be_driven_is_refused_before_training(arguments, words):
    trainer = make(**arguments)
    with pytest.raises(InvalidInputError, match=words):
        driven(trainer)
    assert trainer.model.batches == 0


def test_an_evaluation_without_a_loss_says_what_is_missing():
    trainer = make()
    trainer.label_names = ["nonsense"]
    with pytest.raises(InvalidInputError, match=r"gave no loss.*label_names"):
        driven(trainer)


def test_a_scheduler_handed_over_is_refused():
    optimizer = torch.optim.SGD(bert().parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(InvalidInputError, match="StepLR"):
        driven(make(optimizers=(optimizer, schedule)))


@pytest.mark.slow
def test_what_the_loop_raises_comes_out_and_ctrl_c_ends_the_run():
    class Failing(TrainerCallback):
        def __init__(self, error):
            self.error = error

        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 20:
                raise self.error

    trainer = make(callbacks=[Failing(OSError("disk full"))])
    with pytest.raises(OSError, match="disk full") as caught:
        driven(trainer, policy=SOUND)
    assert val_loss(trainer.model) <= min(caught.value.history.history["val_loss"])
    trainer = make(callbacks=[Failing(KeyboardInterrupt())])
    history = driven(trainer, policy=SOUND)
    assert history.interrupted
    assert val_loss(trainer.model) <= min(history.history["val_loss"])


@pytest.mark.slow
def test_a_run_that_is_over_is_handed_back_without_a_step(tmp_path):
    first, again = make(), make()
    history = driven(first, checkpoint=tmp_path)
    assert driven(again, checkpoint=tmp_path).history == history.history
    assert again.model.batches == 0
    assert val_loss(again.model) == val_loss(first.model)


@pytest.mark.slow
def test_early_stopping_of_the_users_ends_the_run():
    stopping = EarlyStoppingCallback(1, early_stopping_threshold=1e9)
    watching = {"eval_strategy": "epoch", "metric_for_best_model": "loss"}
    trainer = make(callbacks=[stopping], num_train_epochs=20, **watching)
    history = driven(trainer, policy=SOUND)
    assert history.interrupted
    assert trainer.state.global_step < 180
    assert val_loss(trainer.model) <= min(history.history["val_loss"])


def test_a_constraint_nobody_keeps_is_told():
    def norm(model):
        return float(sum(p.detach().square().sum() for p in model.parameters()))

    trainer = make(num_train_epochs=1)
    with pytest.raises(CannotCertify) as caught:
        driven(trainer, constraints=[constraint("norm", norm, at_most=0.1)])
    assert caught.value.best is trainer.model
