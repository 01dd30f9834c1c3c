"""Links of the papers point at files and headings that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAPERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_relative_links_lead_somewhere(paper: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", outside_code(paper)):
        if re.match("[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = paper.parent / file if file else paper
        assert target.exists(), f"{paper.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{paper.name}: {link}"


def outside_code(paper: Path) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", paper.read_text(), flags=re.M | re.S)


def anchors(paper: Path) -> set[str]:
    """What GitHub makes of headings."""
    heads = re.findall("^#+ (.+)$", paper.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
