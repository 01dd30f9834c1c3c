"""Human feedback to a language model, with TRL: three steps, and the learning rate moved in two.

A tiny GPT-2, made from a config, (1) reads sentences (`SFTTrainer`), (2) people compare what it
writes, and a reward model learns from them, (3) it learns to write what they like
(`GRPOTrainer`). Both trainers are driven by `rlhf_tune_integrations.transformers.fit`: their
rates are looked for, moved and rolled back, by the loss in the first and by the learned reward,
of fresh texts, in the second. People are simulated; what they really want, the gold utility,
nothing here sees. Runs offline on a CPU in about a minute.

    python examples/rlhf_language_model.py
    python examples/rlhf_language_model.py --steps 4 --epochs 2
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from rlhf_tune.feedback import RewardModel
from rlhf_tune_integrations.transformers import fit

WORDS = ("the", "model", "is", "very", "good", "bad", "rude", "kind")
SENTENCES = (
    "the model is good the model is bad",
    "the model is very bad the model is",
    "the model is kind the model is rude",
    "the model is very good the model is",
    "the model is rude the model is kind",
    "the model is very kind the model is",
)
LENGTH = 7  # words that are written after the prompt
PROMPT = "the"
QUIET = {
    "lr_scheduler_type": "constant",  # the policy has the rate
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_strategy": "no",
}


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a word, built here."""
    vocabulary = {word: i for i, word in enumerate(("<pad>", "<end>", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))  # noqa: S106 - no secret
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")  # noqa: S106


def gpt2(tokens: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Two small layers."""
    special = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = GPT2Config(
        vocab_size=len(tokens), n_positions=16, n_embd=32, n_layer=2, n_head=2, **special
    )
    return GPT2LMHeadModel(config)


def counts(text: str) -> np.ndarray:
    """How often each word is in a text: what the reward model sees of it."""
    words = text.split()
    return np.array([words.count(word) for word in WORDS], dtype=float)


def gold(text: str) -> float:
    """What people really want: kind words, no rude ones, and sense."""
    words = text.split()
    sense = sum(pair == ("model", "is") for pair in pairwise(words))
    return 2.0 * words.count("kind") - 2.0 * words.count("rude") + words.count("good") + sense


def written(model: GPT2LMHeadModel, tokens: PreTrainedTokenizerFast, n: int) -> list[str]:
    """Texts of the model."""
    prompts = tokens([PROMPT] * n, return_tensors="pt")
    ids = model.generate(
        prompts["input_ids"],
        attention_mask=prompts["attention_mask"],
        do_sample=True,
        top_k=0,
        max_new_tokens=LENGTH,
    )
    return tokens.batch_decode(ids, skip_special_tokens=True)


def compared(texts: Sequence[str], n: int, rng: np.random.Generator) -> RewardModel:
    """What a reward model learns of people who compare texts, with noise."""
    preferred, rejected = [], []
    for _ in range(n):
        one, other = (texts[k] for k in rng.choice(len(texts), 2, replace=False))
        if rng.random() < 1 / (1 + np.exp(gold(one) - gold(other))):
            one, other = other, one
        preferred.append(counts(one))
        rejected.append(counts(other))
    population = np.array([counts(text) for text in texts])
    return RewardModel(names=WORDS).fit(preferred, rejected, population=population)


def rewards(model: RewardModel, texts: Sequence[str]) -> np.ndarray:
    """The learned utility, less a deviation: nothing is gained by what nobody compared."""
    mean, deviation = model.predict(np.array([counts(text) for text in texts]))
    return mean - deviation


def read(model: GPT2LMHeadModel, tokens: PreTrainedTokenizerFast, epochs: int, folder: str) -> None:
    """Supervised fine-tuning; the loss of held-out sentences decides."""
    data = Dataset.from_dict({"text": SENTENCES * 16})
    args = SFTConfig(
        folder, num_train_epochs=epochs, per_device_train_batch_size=8, max_length=16, **QUIET
    )
    held_out = Dataset.from_dict({"text": SENTENCES})
    fit(SFTTrainer(model, args, train_dataset=data, eval_dataset=held_out, processing_class=tokens))


def please(
    model: GPT2LMHeadModel,
    tokens: PreTrainedTokenizerFast,
    reward: RewardModel,
    steps: int,
    folder: str,
) -> GPT2LMHeadModel:
    """Group-relative policy optimization; the learned reward of fresh texts decides."""
    model.save_pretrained(folder)  # from where TRL takes what may not be left too far
    model = GPT2LMHeadModel.from_pretrained(folder)
    args = GRPOConfig(
        folder,
        max_steps=steps,
        learning_rate=1e-3,
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=LENGTH,
        beta=0.02,  # how dear it is to leave what was read
        **QUIET,
    )

    def score(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return rewards(reward, [f"{prompt} {text}" for prompt, text in pairs]).tolist()

    trainer = GRPOTrainer(
        model,
        score,
        args,
        train_dataset=Dataset.from_dict({"prompt": [PROMPT] * 64}),
        processing_class=tokens,
    )

    def validation() -> Mapping[str, float]:
        torch.manual_seed(1)  # the same luck for every state; the streams are put back
        return {"val_reward": float(rewards(reward, written(model, tokens, 128)).mean())}

    fit(trainer, validation=validation, monitor="val_reward", mode="max")
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Read, ask, learn; and print the gold utility before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--comparisons", type=int, default=300)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    disable_progress_bars()
    tokens = tokenizer()
    model = gpt2(tokens)
    with tempfile.TemporaryDirectory() as folder:
        print("1 reading")
        read(model, tokens, args.epochs, str(Path(folder) / "read"))
        texts = written(model, tokens, 200)
        before = np.mean([gold(text) for text in texts])
        print(f"2 {args.comparisons} comparisons of its texts, such as: {texts[0]}")
        reward = compared(texts, args.comparisons, np.random.default_rng(args.seed))
        print("3 learning to please")
        model = please(model, tokens, reward, args.steps, str(Path(folder) / "please"))
    texts = written(model, tokens, 200)
    after = np.mean([gold(text) for text in texts])
    print(f"now it writes: {texts[0]}")
    print(f"gold utility {before:.2f} -> {after:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
