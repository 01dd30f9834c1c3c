"""`rlhf-tune doctor`: the devices of frameworks, also of broken ones."""

import pytest

from rlhf_tune.cli import doctor


def broken() -> str:
    raise OSError("libcudart.so.12: cannot open shared object file")


def test_the_devices_of_torch_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(doctor, "_of_tensorflow", lambda: "not asked")
    found = next(each for each in doctor.devices() if each.name == "torch")
    assert found.found.startswith(f"{torch.__version__}: cpu")
    assert not found.wrong


def test_a_framework_that_cannot_be_imported_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    monkeypatch.setattr(doctor, "_of_torch", broken)
    monkeypatch.setattr(doctor, "_of_tensorflow", lambda: "fine")
    torch, tensorflow = doctor.devices()
    assert torch.wrong
    assert "OSError: libcudart" in torch.found
    assert not tensorflow.wrong
