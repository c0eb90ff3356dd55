import os
import sys

import pytest

from medtraverse.whole_file import whole_file, whole_files, write_bytes, write_text


def test_text_and_bytes_are_written_as_given(tmp_path):
    write_text(tmp_path / "new" / "λ.txt", "λ = 5\r\nλ = 10\n")
    assert (tmp_path / "new" / "λ.txt").read_bytes() == "λ = 5\r\nλ = 10\n".encode()
    write_bytes(str(tmp_path / "new" / "λ.txt"), b"\x00\xff")
    assert (tmp_path / "new" / "λ.txt").read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path / "new") == ["λ.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def fail():
        with whole_file(path) as part:
            part.write_text("half")
            assert path.read_text() == "old" and part.name == path.name
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_files_written_together_appear_together(tmp_path):
    with whole_files(tmp_path) as apart:
        (apart / "a.png").write_bytes(b"a")
        (apart / "b.csv").write_bytes(b"b")
        assert not (tmp_path / "a.png").exists()
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.csv"]

    def fail():
        with whole_files(tmp_path) as apart:
            (apart / "a.png").write_bytes(b"other")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "a.png").read_bytes() == b"a"
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
def test_others_may_read_the_file_where_the_umask_lets_them(tmp_path):
    umask = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(umask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644
