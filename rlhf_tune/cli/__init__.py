"""The command line, ``rlhf-tune``: a file a command."""
