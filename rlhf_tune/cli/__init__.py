"""The command line, ``rlhf-tune``: a file a command; `main` is the program."""

from rlhf_tune.cli.main import main

__all__ = ["main"]
