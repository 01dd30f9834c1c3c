"""Two models and their data in the current folder, for the tests of the commands."""

from pathlib import Path

import pytest
from gate_models import FRAGILE, ROBUST, save_data, save_safetensors


@pytest.fixture
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    save_data(tmp_path / "data.npz")
    save_safetensors(tmp_path / "robust.safetensors", ROBUST)
    save_safetensors(tmp_path / "fragile.safetensors", FRAGILE)
