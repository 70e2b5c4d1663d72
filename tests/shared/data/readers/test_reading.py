from pathlib import Path

import polars as pl
import pytest

from shared.data.readers import load_dataset
from shared.data.readers.reading import read_delimited, read_double_colon
from shared.data.readers.rows import Dialect, Findings
from shared.data.readers.rows import rows as rows_of
from shared.errors import ConfigError, DataError

GOOD = "user,item,timestamp\na,x,100\na,y,205\nb,x,300\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path | str, **options: str) -> str:
    with pytest.raises(DataError, match=r"^(Expected|No |Cannot)") as caught:
        load_dataset(str(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.csv").startswith(f"No file or folder at {tmp_path / 'none.csv'}.")


def test_a_dangling_link_is_told(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone.csv")
    assert refusal(tmp_path / "link.csv").startswith("No file or folder at")


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").mkdir()
    expected = f"Expected a file at {tmp_path / 'interactions.csv'}, found a folder. Give a file of that name."
    assert refusal(tmp_path) == expected


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_told(tmp_path: Path, content: str) -> None:
    assert refusal(write(tmp_path, "a.csv", content)) == (
        "Expected data in a.csv, found an empty file. Is it the right file?"
    )


def test_a_file_with_a_header_alone_is_told(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a.csv", "user,item,timestamp\n"))
    assert message == "Expected at least one interaction in a.csv, found 0. Is it the right file?"


def test_binary_and_wrongly_encoded_files_are_told(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a.csv", b"user,item\x00\x00junk"))
    assert message == "Expected text in a.csv, found binary data. Unpack or convert it first."
    message = refusal(write(tmp_path, "b.csv", GOOD.encode() + b"caf\xe9,x,3\n"))
    assert message.startswith("Expected UTF-8 text in b.csv, found other bytes; first at line 5. Save it as UTF-8: iconv -f")


def test_a_damaged_parquet_file_is_told(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a.parquet", b"PAR1garbage"))
    assert message.startswith("Expected a Parquet file at a.parquet")


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    # The start of a process's memory cannot be read, not even by root, whom permissions do not stop.
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("needs Linux's /proc")
    (tmp_path / "a.csv").symlink_to(memory)
    assert refusal(tmp_path / "a.csv").startswith(f"Cannot read {tmp_path / 'a.csv'}: ")
    assert refusal(tmp_path / ("x" * 300 + ".csv")).startswith("Cannot read ")


def test_lines_with_too_many_fields_are_told_without_quoting_them(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a.csv", GOOD + "secret,x,1,2\n"))
    assert message == (
        "Expected the same number of fields in every line of a.csv, found lines with more: 1, first at line 5. "
        "Check the separator and the quotation marks."
    )


def test_lines_with_too_few_fields_are_located(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a.csv", GOOD + "a,z\n"))
    assert message.startswith("Expected timestamps from 1970 on in a.csv, found 1 violation; first at line 5. Read are ")


def test_the_line_of_the_first_bad_time_is_right(tmp_path: Path) -> None:
    rows = "".join(f"u{line % 7},i{line},{'soon' if line in (1203, 1300, 1400) else line * 60}\n" for line in range(2, 1500))
    message = refusal(write(tmp_path, "a.csv", "user,item,timestamp\n" + rows))
    assert message.startswith("Expected timestamps from 1970 on in a.csv, found 3 violations; first at line 1203. Read are ")


def test_missing_columns_are_told_with_what_was_found(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a.csv", "user,what,when\na,x,1\n"))
    assert message == (
        "Expected columns for user, item and timestamp in a.csv, found none for item, timestamp among "
        "user, 2 other names. Name them: data.columns = 'user=...,item=...,timestamp=...'."
    )


@pytest.mark.parametrize(
    "line",
    ["secret,B00X,17", "secret,secretly,2019-01-01", "secret agent,Secret Garden,Jan 3 2019", "secret,x,", "secret,y,z"],
)
def test_the_first_line_of_a_file_without_header_is_not_quoted(line: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "a.csv", f"{line}\nb,c,18\n"))
    assert "among 3 unusual names. " in message
    assert not any(part and part in message for part in line.split(",") if len(part) > 1)


def test_the_columns_of_a_typed_file_are_told_because_they_are_no_data(tmp_path: Path) -> None:
    pl.DataFrame({"who": ["a"], "what": ["b"]}).write_parquet(tmp_path / "log.parquet")
    assert "among who, what. Name them" in refusal(tmp_path / "log.parquet")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n"
    frame = load_dataset(str(write(tmp_path, "a.csv", data))).interactions.frame
    assert frame.rows() == [("a", "x", 100), ("a", "y", 205), ("b", "x", 300)]


def test_a_folder_without_data_is_told_what_is_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert message.startswith("Expected an .inter file; or u.data, ratings.dat, or ratings.csv beside movies.csv; or")
    assert refusal(tmp_path, format="recbole").startswith(f"Expected an .inter file at {tmp_path}, found none.")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    formats = "auto, recbole, movielens, amazon, mind, steam, goodreads, huggingface, tabular"
    message = f"Expected data.format in {{{formats}}}, got data.format='csv'. Leave it out to tell it by the files."
    with pytest.raises(ConfigError) as caught:
        load_dataset(str(tmp_path), format="csv")
    assert str(caught.value) == message


def test_fixed_names_and_double_colons(tmp_path: Path) -> None:
    path = write(tmp_path, "a.dat", b"1::caf\xe9 \x85 :x::3\r\n2::y::4\n")
    table = read_double_colon(path, names=("a", "b", "c")).frame
    assert table.rows() == [("1", "café \x85 :x", "3"), ("2", "y", "4")]
    with pytest.raises(DataError, match=r"Expected 2 fields \(a, b\) .* found 2 other lines; first at line 1\."):
        read_double_colon(path, names=("a", "b"))
    path = write(tmp_path, "b.tsv", '1\t5" pipe\n2\t"x\n')
    assert read_delimited(path, separator="\t", names=("n", "t")).frame.rows() == [("1", '5" pipe'), ("2", '"x')]
    with pytest.raises(DataError, match=r"Expected 3 fields \(a, b, c\) a line in b\.tsv, found 2\."):
        read_delimited(path, separator="\t", names=("a", "b", "c"))


def test_blocks_of_rows_never_end_within_quotation_marks(tmp_path: Path) -> None:
    rows = "".join(f'{n},"a\nb ""{n}"" c",{n}\n' for n in range(50))
    path = write(tmp_path, "a.csv", rows)
    for size in (1, 7, 64, 1 << 20):
        parts = [block.text for block in rows_of(path, Dialect(",", '"'), Findings(path), size=size)]
        assert b"".join(parts).decode() == rows and all(part.count(b'"') % 2 == 0 for part in parts)
    path.write_text(rows * 50)
    parts = [block.text for block in rows_of(path, Dialect(",", '"'), Findings(path), size=64)]
    assert len(parts) > 100 and b"".join(parts).decode() == rows * 50


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path) -> None:
    write(tmp_path, "u.data", b"\xef\xbb\xbf1\t242\t3\t881250949\n2\t302\t3\t891717742\n")
    assert load_dataset(str(tmp_path)).interactions.frame["user"].to_list() == ["1", "2"]
    path = write(tmp_path, "ratings.dat", b"\xef\xbb\xbf1::2::3::4\n")
    assert read_double_colon(path, names=("u", "i", "v", "t")).frame.row(0) == ("1", "2", "3", "4")
