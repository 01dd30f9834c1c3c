"""npz files: sizes are bounded by their directory, and only the named arrays are read."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from rlhf_tune import npz
from rlhf_tune.demo import data
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.gate import npz as gate_npz
from rlhf_tune.pretraining.tables import read_family

READERS = {
    "gate": lambda path: gate_npz.load(path, bounds=(0.0, 1.0)),
    "demo": lambda path: data.load(str(path), max_train=20),
    "tables": read_family,
    "both": lambda path: npz.read(path, lambda _: True),
}


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of a GiB of zeros."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.npz"
    about = np.lib.format.header_data_from_array_1_0(np.zeros(0, np.uint8))
    packed = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", packed) as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {**about, "shape": (2**28,)})
        for _ in range(2**8):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    return path


@pytest.mark.parametrize("reader", READERS)
def test_a_bomb_is_refused_before_it_is_unpacked(reader: str, bomb: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"would unpack to 0.25 GiB"):
        READERS[reader](bomb)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04garbage", b"text"])
def test_what_is_no_archive_of_arrays_is_refused(
    reader: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    if reader in ("tables", "both") and content.startswith(b"PK\x05"):
        return  # an archive of no arrays is one
    with pytest.raises(InvalidInputError):
        READERS[reader](path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([print], dtype=object), allow_pickle=True)
    for read in READERS.values():
        with pytest.raises(InvalidInputError):
            read(path)


def test_arrays_that_nobody_named_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones(3), b=np.array([print], dtype=object))
    np.testing.assert_array_equal(npz.read(path, "a".__eq__)["a"], np.ones(3))
