"""Output folders appear whole or not at all."""

from __future__ import annotations

import pytest

from langedit.errors import OutputError
from langedit.folders import check_output, whole_folder


def test_the_folder_appears_when_the_body_is_done(tmp_path):
    target = tmp_path / "a" / "b"
    with whole_folder(target) as folder:
        (folder / "file").write_text("done")
        assert not target.exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (target / "file").read_text() == "done"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_of_a_body_that_fails(tmp_path, error):
    def fail_half_way() -> None:
        with whole_folder(tmp_path / "a" / "b") as folder:
            (folder / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_folders_that_were_there(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "a" / "b"):
        raise RuntimeError
    assert (tmp_path / "a").is_dir()


def test_a_failure_to_write_is_told_as_such(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"), whole_folder(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_a_file_in_the_way_of_the_parents(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a place that can be written"):
        check_output(tmp_path / "file" / "a")


def test_a_dangling_link_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="expected a folder, got a file"):
        check_output(tmp_path / "link")
