"""How Sphinx builds the pages: `make docs`, without a network.

Links to Optuna, PyTorch, Keras, NumPy and Python go by `links.txt`, a short list of the names that
these pages mention; `DOCS_ONLINE=1` asks the projects' own inventories in its place.
"""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
for folder in (ROOT / "integrations", ROOT):
    sys.path.insert(0, str(folder))

from rlhf_tune import __version__  # noqa: E402

project = "rlhf_tune"
author = "The rlhf_tune authors"
copyright = author  # noqa: A001
release = version = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
default_role = "code"
python_use_unqualified_type_names = True
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"rlhf_tune {release}"
highlight_language = "text"
pygments_style = "friendly"
copybutton_prompt_text = "$ "

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
# Links out of the folder lead to files of the repository, which are no pages.
suppress_warnings = ["myst.xref_missing"]

# A notebook is executed when it has changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_typehints = "description"
# By their names: what they stand for takes three lines.
autodoc_type_aliases = {
    name: name for name in ("ArrayLike", "Array", "Floats", "Ints", "Bools", "Outputs", "Data")
}
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def _inventory(name: str, lines: list[str]) -> str:
    """An inventory, as Sphinx 2 writes them, of "object type place" lines."""
    path = DOCS / "_build" / "inventories" / f"{name}.inv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: 0\n# zlib\n"
    rows = (line.split() for line in lines)
    body = "".join(f"{what} {kind} 1 {place} -\n" for what, kind, place in rows)
    path.write_bytes(head.encode() + zlib.compress(body.encode()))
    return str(path)


def _intersphinx() -> dict[str, tuple[str, str | None]]:
    """The address of each project and its inventory; None is the one on the network."""
    online = os.environ.get("DOCS_ONLINE") == "1"
    found: dict[str, tuple[str, str | None]] = {}
    for part in (DOCS / "links.txt").read_text("utf-8").strip().split("\n\n"):
        head, *lines = part.splitlines()
        name, address = head.split()
        found[name] = (address, None if online else _inventory(name, lines))
    return found


intersphinx_mapping = _intersphinx()
