"""What the pages tell a reader to type: blocks of Python run, commands are known."""

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import given
import pages
import pytest

program = import_module("rlhf_tune.cli.main")  # the package's face has a function of that name

GUIDES = sorted(pages.DOCS.glob("*.md"))
TUTORIALS = sorted((pages.DOCS / "tutorials").glob("*.md"))
PAPERS = [pages.ROOT / "README.md", *GUIDES, *TUTORIALS]
SLOW = {"training-runs", "pytorch-fit", "keras-fit", "fine-tuning", "gate", "fairness"}
MOST_NOT_RUN = 9


def cases(papers: list[Path]) -> list[object]:
    """The pages that have blocks of Python; those that train for long are slow."""
    return [
        pytest.param(page, marks=[pytest.mark.slow] if page.stem in SLOW else [], id=page.stem)
        for page in papers
        if pages.blocks(page, "python")
    ]


# Third parties': scikit-learn's network ends before it has converged, as the page wants it to;
# TensorFlow 2.21's tensors do not know the `copy` argument of NumPy 2's `__array__`.
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec")  # of PyTorch, by Lightning
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # Lightning's advice
@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
@pytest.mark.parametrize("page", cases([*GUIDES, *TUTORIALS]))
def test_blocks_of_a_page_run_in_their_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("sklearn", "torch", "cleverhans", "matplotlib"):
        pytest.importorskip(package)
    text = page.read_text("utf-8")
    if "import keras" in text or "given: keras" in text:
        pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in pages.blocks(page, "python"):
        if block.given:
            names |= given.SETS[block.given]()
        if block.why is None:
            pages.run(block, page, names)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left = [block for page in PAPERS for block in pages.blocks(page, "python") if block.why]
    assert len(left) <= MOST_NOT_RUN
    assert all(len(block.why.split()) >= 4 for block in left if block.why)


def test_every_command_has_its_help_in_the_reference() -> None:
    page = pages.DOCS / "reference" / "commands.md"
    shown = re.findall(r'^explain\("(\w+)"\)$', page.read_text("utf-8"), re.M)
    (commands,) = (a for a in program._parser()._actions if isinstance(a.choices, dict))
    assert shown == list(commands.choices)


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.stem)
def test_commands_of_a_page_are_those_of_the_program(page: Path) -> None:
    text = page.read_text("utf-8")
    # After a prompt, or alone on a line of a block.
    for line in (*pages.commands(text), *pages.commands(text, r" *(?=rlhf-tune |python -m )")):
        words = shlex.split(line)
        if words[0] == "rlhf-tune":
            program._parser().parse_args(words[1:])
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]) is not None
    for module in re.findall(r"`python -m\s+([\w.]+)", text):
        assert find_spec(module) is not None, module
