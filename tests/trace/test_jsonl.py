"""JSON Lines files: whole lines or nothing, and errors that name the line."""

import pytest

from ramify.errors import DataError, StorageError
from ramify.trace import RowWriter, read_rows


def rows(path):
    return [row for _, row in read_rows(path)]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    with RowWriter(path) as writer:
        writer.write([{"text": "zwölf\n", "score": 0.1}, {}])
        assert rows(path) == [{"text": "zwölf\n", "score": 0.1}, {}]  # at once, not at the end
        writer.write([{"last": None}])
    assert [number for number, _ in read_rows(path)] == [1, 2, 3]


def test_append_keeps_and_overwrite_does_not(tmp_path):
    path = tmp_path / "a.jsonl"
    for append, expected in ((True, [1]), (True, [1, 2]), (False, [3])):
        with RowWriter(path, append=append) as writer:
            writer.write([{"n": (3 if not append else len(expected))}])
        assert [row["n"] for row in rows(path)] == expected


def test_append_cuts_half_a_line_left_by_a_crash(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2')
    with pytest.raises(DataError, match="line 2"):
        rows(path)
    assert list(read_rows(path, torn=True)) == [(1, {"n": 1})]
    with RowWriter(path, append=True) as writer:
        writer.write([{"n": 3}])
    assert rows(path) == [{"n": 1}, {"n": 3}]


def test_append_completes_a_whole_last_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    with RowWriter(path, append=True) as writer:
        writer.write([{"n": 3}])
    assert rows(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_only_the_last_line_may_be_torn(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1\n{"n": 2}\n')
    with pytest.raises(DataError, match="line 1"):
        list(read_rows(path, torn=True))


@pytest.mark.parametrize("bad", [b"{", b"[1]", b"\xff\xfe", b"3", b'{"a": 1} {"b": 2}'])
def test_a_bad_line_is_named(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n' * 16 + bad + b"\n" + b'{"n": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl line 17"):
        rows(path)


def test_blank_lines_count_but_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"n": 1}\n  \n{"n": 2}')
    assert list(read_rows(path)) == [(2, {"n": 1}), (4, {"n": 2})]


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_a_data_error(tmp_path, name):
    with pytest.raises(DataError, match="check the path"):
        rows(tmp_path / name)


def test_a_file_that_cannot_be_opened_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="no/such/place"):
        RowWriter(tmp_path / "no/such/place.jsonl")


def test_a_full_device_is_a_storage_error():
    with RowWriter("/dev/full") as writer, pytest.raises(StorageError, match="No space left"):
        writer.write([{"n": 1}])


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path, disk_of):
    path = tmp_path / "a.jsonl"
    with disk_of(1000), RowWriter(path) as writer, pytest.raises(StorageError, match="File too large"):
        for n in range(1000):
            writer.write([{"n": n, "padding": "x" * 30}])
    kept = [row["n"] for row in rows(path)]
    assert kept == list(range(len(kept))) and len(kept) > 10
    assert path.read_bytes().endswith(b"}\n")
