from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidai.quantization.notebook import Notebook

ARRAYS: dict[str, Any] = {
    "scale": np.float32(0.25),
    "centre": np.zeros(0, np.float32),
    "codes": np.arange(200, dtype=np.uint8).reshape(10, 20),
}


def same(found: dict[str, Any] | None) -> None:
    assert found is not None
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def never() -> float:
    raise AssertionError("is known already")


def test_a_number_is_computed_once(tmp_path: Path) -> None:
    """Exactly the same number, in a later run, too."""
    notebook = Notebook(tmp_path / "new" / "folder")
    assert notebook.number("damage 3 Conv", lambda: 1 / 3) == 1 / 3
    assert notebook.number("damage 3 Conv", never) == 1 / 3
    again = Notebook(tmp_path / "new" / "folder")
    assert again.number("damage 3 Conv", never) == 1 / 3
    assert again.number("damage 4 Conv", lambda: 2.0) == 2
    assert again.not_kept is None


def test_what_cannot_be_computed_is_not_kept(tmp_path: Path) -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    notebook = Notebook(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        notebook.number("damage", interrupted)
    assert notebook.number("damage", lambda: 2.0) == 2


@pytest.mark.parametrize("text", ["", "0.", "null", "[1]", "{}", '"nought"', "\xff", "1" * 400])
def test_a_broken_number_is_computed_again(text: str, tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    notebook.number("damage", lambda: 0.5)
    (file,) = tmp_path.iterdir()
    file.write_bytes(text.encode("latin-1"))
    assert notebook.number("damage", lambda: 0.75) == 0.75
    assert notebook.number("damage", never) == 0.75  # and mended
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path / "new")
    assert notebook.arrays("layer 0 Conv") is None
    notebook.keep_arrays("layer 0 Conv", ARRAYS)
    same(notebook.arrays("layer 0 Conv"))
    same(Notebook(tmp_path / "new").arrays("layer 0 Conv"))
    assert notebook.arrays("layer 1 Conv") is None
    assert notebook.not_kept is None


def test_broken_arrays_are_not_there(tmp_path: Path) -> None:
    """Cut anywhere, any byte another one: as they were, or not there, never another exception."""
    notebook = Notebook(tmp_path)
    notebook.keep_arrays("layer", ARRAYS)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    broken = [whole[:place] for place in range(0, len(whole), 10)]
    for place, byte in enumerate(whole):
        other = byte ^ (0x01, 0x08, 0x80, 0xFF)[place % 4]
        broken.append(whole[:place] + bytes([other]) + whole[place + 1 :])
    refused = 0
    for data in broken:
        file.write_bytes(data)
        found = notebook.arrays("layer")
        if found is None:
            refused += 1
        elif found.keys() == ARRAYS.keys():
            same(found)
    assert refused > len(broken) / 2
    notebook.keep_arrays("layer", ARRAYS)
    same(notebook.arrays("layer"))


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18), b"[]" * 99])
def test_other_files_are_no_arrays(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "layer.npz").write_bytes(data)
    assert not Notebook(tmp_path).arrays("layer")


def test_an_array_alone_is_none_of_them(tmp_path: Path) -> None:
    with (tmp_path / "layer.npz").open("wb") as file:
        np.save(file, np.arange(3))
    assert Notebook(tmp_path).arrays("layer") is None


def test_what_cannot_be_written_is_computed_each_time(tmp_path: Path) -> None:
    """Where the folder should be is a file: so it is for root, too."""
    (tmp_path / "taken").write_bytes(b"")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        notebook = Notebook(folder)
        assert notebook.arrays("layer") is None
        assert notebook.not_kept is None
        assert notebook.number("damage", lambda: 0.5) == 0.5
        assert notebook.number("damage", lambda: 0.75) == 0.75
        assert isinstance(notebook.not_kept, OSError)
        assert "taken" in str(notebook.not_kept)
        notebook.not_kept = None
        notebook.keep_arrays("layer", ARRAYS)
        assert isinstance(notebook.not_kept, OSError)
        assert notebook.arrays("layer") is None
    assert (tmp_path / "taken").read_bytes() == b""
