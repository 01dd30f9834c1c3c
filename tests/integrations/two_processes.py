"""Run by `test_two_processes` in each of two processes that share a gloo group: who refuses?"""

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from rlhf_tune.errors import InvalidInputError

LOSS = torch.nn.functional.cross_entropy
X, Y = torch.randn(32, 4), torch.randint(2, (32,))


def plain() -> None:
    from rlhf_tune_integrations.pytorch import fit

    model = DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, optimizer, LOSS, (X, Y), (X, Y), epochs=1)


def transformers() -> None:
    from transformers import Trainer, TrainingArguments

    from rlhf_tune_integrations.transformers import fit

    args = TrainingArguments(sys.argv[2], use_cpu=True, lr_scheduler_type="constant", report_to=[])
    fit(Trainer(torch.nn.Linear(4, 2), args, train_dataset=[1], eval_dataset=[1]))


def main() -> None:
    torch.distributed.init_process_group("gloo")
    try:
        {"plain": plain, "transformers": transformers}[sys.argv[1]]()
    except InvalidInputError as error:
        print(f"refused: {error}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
