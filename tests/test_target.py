"""Output files appear whole, under a name that was free, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidai.errors import ConfigError
from vidai.sinks.target import Target, check_target


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_nothing_has_the_name_until_it_is_committed(tmp_path: Path) -> None:
    target = Target(tmp_path / "o.mp4")
    target.temporary.write_text("whole")
    assert not target.path.exists()
    assert target.commit() == str(tmp_path / "o.mp4")
    assert (tmp_path / "o.mp4").read_text() == "whole"
    assert names(tmp_path) == ["o.mp4"]


def test_a_partial_result_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "o.partial.mp4").write_text("precious")
    target = Target(tmp_path / "o.mp4", overwrite=True)
    assert target.commit(partial=True) == str(tmp_path / "o.partial-2.mp4")
    assert (tmp_path / "o.partial.mp4").read_text() == "precious"
    assert names(tmp_path) == ["o.partial-2.mp4", "o.partial.mp4"]


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    target = Target(tmp_path / "o.mp4")
    target.temporary.write_text("ours")
    (tmp_path / "o.mp4").write_text("theirs")
    assert target.commit() == str(tmp_path / "o.new.mp4")
    assert (tmp_path / "o.mp4").read_text() == "theirs"
    assert (tmp_path / "o.new.mp4").read_text() == "ours"


def test_overwrite_replaces(tmp_path: Path) -> None:
    (tmp_path / "o.mp4").write_text("old")
    target = Target(tmp_path / "o.mp4", overwrite=True)
    target.temporary.write_text("new")
    target.commit()
    assert (tmp_path / "o.mp4").read_text() == "new"


def test_one_path_has_one_writer_at_a_time(tmp_path: Path) -> None:
    first = Target(tmp_path / "o.mp4")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="two outputs"):
        Target(tmp_path / "link" / "o.mp4")
    first.discard()
    Target(tmp_path / "o.mp4").discard()
    assert names(tmp_path) == ["link"]


@pytest.mark.parametrize("name", ["x" * 300, "a/b/c.mp4", "zero\0byte.mp4"])
def test_names_that_cannot_be_are_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        check_target(tmp_path / name)
