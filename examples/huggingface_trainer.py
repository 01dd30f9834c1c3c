"""A Hugging Face `Trainer` whose learning rate a policy moves: a tiny BERT made from a config.

Nothing is downloaded. The task: does a sequence of tokens hold more large numbers than small ones?

    python examples/huggingface_trainer.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from rlhf_tune_integrations.transformers import fit

LENGTH, TOKENS = 12, 32


def samples(count: int, seed: int) -> list[dict[str, object]]:
    """Sequences [LENGTH] of tokens, and whether most are in the upper half."""
    draws = torch.randint(TOKENS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    labels = (draws >= TOKENS // 2).float().mean(1) > 0.5
    return [{"input_ids": x, "labels": int(y)} for x, y in zip(draws, labels, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and print the loss before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=TOKENS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=LENGTH,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=16,
            lr_scheduler_type="constant",  # the policy has the rate
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            model, arguments, train_dataset=samples(480, 0), eval_dataset=samples(240, 1)
        )
        before = trainer.evaluate()["eval_loss"]
        history = fit(trainer)
    rates = history.history["learning_rate"]
    print(f"validation loss {before:.3f} -> {min(history.history['val_loss']):.3f}")
    print(f"rates {max(rates):.2g} to {min(rates):.2g}, {trainer.state.global_step} steps")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
