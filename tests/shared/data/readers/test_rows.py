"""Delimited text as programs and people write it: no row is swallowed, no line number is wrong, no value is quoted."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.data.readers import load_dataset
from shared.data.readers import rows as rows_module
from shared.data.readers.fields import Table
from shared.data.readers.reading import read_delimited, read_double_colon
from shared.data.readers.rows import BARE, Dialect, Findings, rows
from shared.errors import DataError

COMMAS = Dialect(",", '"')


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message and "secret" not in message.lower()
    return message


def interactions(folder: Path) -> Path:
    """Forty interactions with the items 1 to 29."""
    write(folder, "ratings.csv", "user,item,timestamp\n" + "".join(f"u{n % 5},{n % 29 + 1},{n + 100}\n" for n in range(40)))
    return folder


# A field that holds whole rows


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("lines", [1, 2, 15])
@pytest.mark.parametrize("packed", [False, True])
def test_a_mark_that_is_closed_lines_later_swallows_no_rows(
    separator: str, lines: int, packed: bool, tmp_path: Path
) -> None:
    rows = [["item", "title", "genre"], *([str(n), f"Secret {n}", "Drama"] for n in range(1, 30))]
    rows[5][1] = '"Open secret'
    rows[5 + lines][1] = 'Close secret"'
    text = "\n".join(separator.join(row) for row in rows).encode()
    write(interactions(tmp_path), "items.csv" + ".gz" * packed, gzip.compress(text) if packed else text)
    name = "items.csv" + ".gz" * packed
    assert refusal(tmp_path) == (
        f"Expected no rows within the quoted fields of {name}, found fields that hold whole rows: 1, first at line 6. "
        "Close the quotation mark in that line, or write the text without line breaks."
    )


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("name", ["ratings.csv", "users.csv", "items.csv"])
def test_rows_are_swallowed_in_no_column_of_no_file(column: int, name: str, tmp_path: Path) -> None:
    header = {"ratings.csv": "user,item,timestamp", "users.csv": "user,region,age", "items.csv": "item,title,price"}[name]
    rows = [header.split(","), *([f"u{n % 5}", str(n), str(n + 100)] for n in range(1, 30))]
    rows[8][column] = '"' + rows[8][column]
    rows[12][column] += '"'
    interactions(tmp_path)
    write(tmp_path, name, "\r\n".join(",".join(row) for row in rows))
    assert f"quoted fields of {name}, found fields that hold whole rows: 1, first at line 9." in refusal(tmp_path)


def test_movielens_titles_swallow_no_rows(tmp_path: Path) -> None:
    write(tmp_path, "ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    movies = "".join(f"{n},Secret {n} (1995),Drama|Crime\n" for n in range(30))
    movies = movies.replace("7,Secret 7 ", '7,"Secret 7 ', 1).replace("Secret 11 (1995)", 'Secret 11 (1995)"')
    write(tmp_path, "movies.csv", "movieId,title,genres\n" + movies)
    assert "fields of movies.csv, found fields that hold whole rows: 1, first at line 9." in refusal(tmp_path)


def test_a_header_swallows_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'user,"item,timestamp\nsecret,x,1\nb,y,2\nc,z",3\n')
    assert "found fields that hold whole rows: 1, first at line 1." in refusal(path)


LEGITIMATE = {
    "prose": "A lamp, small and green.\nIt folds, and it shines, too.\n\nMade of wood.",
    "a list": "- one\n- two\n- three",
    "JSON": '{\n "a": 1,\n "b": [1, 2],\n "c": "x"\n}',
    "marks": 'He said "no, never"\nand left, "quickly".',
    "an address": "12 Main Street\nSpringfield, IL\nUSA",
    "numbers": "1,000 pieces\nof 2,5 cm each",
    "blank lines": "\n\n\n",
    "returns": "a\r\nb\rc",
}


@pytest.mark.parametrize("kind", LEGITIMATE)
@pytest.mark.parametrize("writer", ["polars", "csv", "all quoted", "first column"])
def test_quoted_fields_with_separators_marks_and_line_breaks_are_read(kind: str, writer: str, tmp_path: Path) -> None:
    text = LEGITIMATE[kind]
    frame = pl.DataFrame(
        {"item": [str(n) for n in range(1, 30)], "title": [text, text, "plain"] * 9 + [text] * 2, "genre": "a,b"}
    )
    frame = frame.select("title", "item", "genre") if writer == "first column" else frame
    path = interactions(tmp_path) / "items.csv"
    if writer == "polars":
        frame.write_csv(path)
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            styled = csv.writer(stream, quoting=csv.QUOTE_ALL if writer == "all quoted" else csv.QUOTE_MINIMAL)
            styled.writerows([frame.columns, *frame.rows()])
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.ids == tuple(frame["item"])
    assert BARE not in dataset.interactions.repairs
    expected = " ".join(text.split())
    assert dataset.catalog.texts[0] == (f"{expected}. a,b" if expected else "a,b")


# Marks out of place


@pytest.mark.parametrize(
    ("lines", "count", "first"),
    [
        ('1,"Secret,x\n2,b,y\n', 1, 2),
        ('1,a,x\n2,"Secret" b,y\n3,"Secret"c,y\n', 2, 3),
        ('1,a,x\n2,b,"Secret\n', 1, 3),
        ('1,a,"x\ny"\n2,"Secret,x\n3,"d",y\n', 1, 4),
        ('1,"a""b"c"""Secret,x\n2,b,y\n', 1, 2),
    ],
)
def test_marks_that_are_not_closed_at_the_end_of_their_field_are_counted(
    lines: str, count: int, first: int, tmp_path: Path
) -> None:
    write(interactions(tmp_path), "items.csv", "item,title,genre\n" + lines)
    assert refusal(tmp_path) == (
        "Expected quotation marks around whole fields of items.csv, found fields whose mark is not closed at their end: "
        f"{count}, first at line {first}. Close each quoted field, and double the marks inside of it."
    )


def test_marks_within_fields_without_marks_stand_for_themselves_and_are_counted(tmp_path: Path) -> None:
    titles = ['5" pipe', 'a "b" c', 'two "" marks', "plain", 'end"']
    rows = "".join(f"{n},{title},x{n}\n" for n, title in enumerate(titles, start=1))
    write(interactions(tmp_path), "items.csv", "item,title,genre\n" + rows + '6,"in ""marks"", doubled",y\n')
    write(tmp_path, "users.csv", 'user,region\nu1,the "north"\n')
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts[:5] == tuple(f"{title}. x{n}" for n, title in enumerate(titles, start=1))
    assert dataset.catalog.texts[5] == 'in "marks", doubled. y'
    assert dataset.interactions.repairs[BARE] == 5
    assert dataset.user_attributes is not None and dataset.user_attributes["region"][0] == 'the "north"'


def test_tab_separated_files_take_marks_as_they_are(tmp_path: Path) -> None:
    write(interactions(tmp_path), "items.tsv", 'item\ttitle\n1\t"Open\n2\tClose"\n3\t5" pipe\n')
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts[:3] == ('"Open', 'Close"', '5" pipe') and BARE not in dataset.interactions.repairs


def test_a_field_that_is_never_closed_is_not_collected_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "LONGEST_FIELD", 2000)
    path = write(tmp_path, "a.csv", 'a,b\n1,"open\n' + "".join(f"{n},x\n" for n in range(5000)))
    findings = Findings(path)
    largest = max(len(block.text) for block in rows(path, COMMAS, findings, size=1024))
    assert largest < 5000
    with pytest.raises(DataError, match=r"not closed at their end: 1, first at line 2\."):
        findings.refuse()


def test_a_long_quoted_field_is_read_over_many_blocks(tmp_path: Path) -> None:
    text = 'line, "one"\n' * 500
    path = tmp_path / "a.csv"
    pl.DataFrame({"a": ["1", "2", "3"], "b": ["x", text, "y"]}).write_csv(path)
    parts = list(rows(path, COMMAS, Findings(path), size=64))
    assert b"".join(part.text for part in parts) == path.read_bytes()
    assert read_delimited(path, separator=",", quote='"').frame["b"].to_list() == ["x", text, "y"]


# Blank lines, and the lines of faults

BLANKS = ["", "\n", "\n\n", "   \n", "\t\n \n", "\r\n"]


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_are_no_rows_and_faults_keep_their_lines(blank: str, end: str, tmp_path: Path) -> None:
    good = "1{s}2{s}3{s}100\n4{s}5{s}3{s}200\n"
    cases = {
        "a.csv": ("user,item,value,timestamp\n", ","),
        "a.tsv": ("user\titem\tvalue\ttimestamp\n", "\t"),
        "a.inter": ("user_id:token\titem_id:token\trating:float\ttimestamp:float\n", "\t"),
        "u.data": ("", "\t"),
        "ratings.dat": ("", "::"),
    }
    for name, (header, separator) in cases.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        first, second = good.format(s=separator).splitlines(keepends=True)
        text = blank + header + blank + first + blank + second + blank
        path = write(folder, name, text.replace("\r", "").replace("\n", end))
        assert load_dataset(str(path)).interactions.frame.rows() == [("1", "2", 100, 3.0), ("4", "5", 200, 3.0)]
        path.write_bytes(
            (text + f"6{separator}7{separator}1{separator}soon\n").replace("\r", "").replace("\n", end).encode()
        )
        line = text.count("\n") + 1
        assert f"in {name}, found 1 violation; first at line {line}." in refusal(path)
        wide = text + separator.join("67891234") + "\n"
        path.write_bytes(wide.replace("\r", "").replace("\n", end).encode())
        assert f"first at line {line}." in refusal(path)


def test_items_and_users_may_begin_with_blank_lines(tmp_path: Path) -> None:
    write(interactions(tmp_path), "items.csv", "\r\n \r\nitem,title\r\n\r\n1,One\r\n2,Two\r\n")
    write(tmp_path, "users.tsv", "\n\nuser\tage\n\nu1\t30\n")
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts[:2] == ("One", "Two")
    assert dataset.user_attributes is not None and dataset.user_attributes.rows() == [("u1", "30")]


def test_faults_below_quoted_fields_of_several_lines_keep_their_lines(tmp_path: Path) -> None:
    rows = "".join(f'u{n},"i\n\n{n}",{n}\n\n' for n in range(9))
    path = write(tmp_path, "a.csv", "\nuser,item,timestamp\n" + rows + "u,i,soon\nu,i,never\n")
    assert refusal(path).startswith(
        f"Expected timestamps from 1970 on in a.csv, found 2 violations; first at line {2 + 9 * 4 + 1}."
    )


@pytest.mark.parametrize("content", ["\n", " \n\t\n", "\r\n\r\n", "\ufeff\n\n", "\ufeff"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.inter", "u.data", "ratings.dat", "a.jsonl"])
def test_a_file_of_blank_lines_is_empty(content: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    assert refusal(path) == f"Expected data in {name}, found an empty file. Is it the right file?"


def test_carriage_returns_within_lines_are_refused_because_programs_differ_about_them(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item,timestamp\na,x,1\nb,sec\rret,2\nc,z,3\n")
    assert refusal(path).startswith(
        "Expected one kind of line end in every line of a.csv, found carriage returns within lines: 1, first at line 3."
    )
    path = write(tmp_path, "b.csv", "user,item,timestamp\r\r\na,x,1\r\r\nb,y,2\r\r\n")
    assert load_dataset(str(path)).interactions.num_interactions == 2


# Encodings


def test_lines_that_are_utf_8_are_read_as_such_in_files_that_were_latin_1(tmp_path: Path) -> None:
    lines = "1::Café::x\n".encode() + "2::Épée::y\n".encode("latin-1") + "3::L’été::z\n".encode() + b"4::plain::z\n"
    records = read_double_colon(write(tmp_path, "movies.dat", lines), names=("a", "b", "c"))
    assert records.frame["b"].to_list() == ["Café", "Épée", "L’été", "plain"]
    flags = "|".join(["0"] * 19)
    for encoding in ("utf-8", "latin-1"):
        folder = tmp_path / encoding
        folder.mkdir()
        write(folder, "u.data", "1\t242\t3\t881250949\n2\t302\t3\t891717742\n")
        write(folder, "u.item", f"242|Café (1996)|01-Jan-1996||http://x|{flags}\n".encode(encoding))
        write(folder, "u.user", "1|24|M|ingénieur|85711\n".encode(encoding))
        dataset = load_dataset(str(folder))
        assert dataset.catalog.texts[0] == "Café (1996)"
        assert dataset.user_attributes is not None and dataset.user_attributes["occupation"][0] == "ingénieur"


def test_movielens_10m_is_utf_8(tmp_path: Path) -> None:
    write(tmp_path, "ratings.dat", "1::1::3.5::1000\n2::1::4::2000\n")
    write(tmp_path, "movies.dat", "1::Café Numéro 1 (L’été) (1951)::Drama|Romance\n")
    assert load_dataset(str(tmp_path)).catalog.texts == ("Café Numéro 1 (L’été) (1951). Drama Romance",)


def test_unicode_text_of_spreadsheets_is_read(tmp_path: Path) -> None:
    text = 'user\titem\ttimestamp\r\n"é, é"\tx\t1\r\nb\ty\t2\r\n'
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        path = write(tmp_path, "a.csv", text.encode(encoding))
        assert load_dataset(str(path)).interactions.frame["user"].to_list() == ["é, é", "b"]
    path = write(tmp_path, "a.csv", text.encode("utf-16")[:-1])
    assert refusal(path) == (
        "Expected UTF-16 text in a.csv, as its byte-order mark says, found other bytes. Save it as UTF-8."
    )


# Fuzzing

WORD = st.text("ab1 é'", max_size=4)
PROSE = st.lists(st.lists(WORD, min_size=1, max_size=3).map(", ".join), min_size=1, max_size=3).map("\n".join)
MARKED = st.builds(lambda text, mark: text.replace("a", mark), PROSE, st.sampled_from(['"', '""', "a"]))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    table=st.integers(2, 4).flatmap(
        lambda width: st.lists(st.lists(MARKED, min_size=width, max_size=width), min_size=1, max_size=6)
    ),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    size=st.sampled_from([1, 7, 1 << 20]),
)
def test_every_table_of_prose_that_the_csv_module_writes_is_read(
    table: list[list[str]], quoting: int, end: str, separator: str, encoding: str, size: int
) -> None:
    names = [f"c{n}" for n in range(len(table[0]))]
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=quoting, lineterminator=end, delimiter=separator).writerows([names, *table])  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.csv", stream.getvalue().encode(encoding))
        found = _read(path, Dialect(separator, '"'), size)
    assert [[field or "" for field in row] for row in found.rows()] == table


def _read(path: Path, dialect: Dialect, size: int) -> pl.DataFrame:
    """As `read_delimited`, in blocks of another size."""
    findings = Findings(path)
    table = Table(path, dialect, findings, None)
    frames = [frame for block in rows(path, dialect, findings, size=size) if (frame := table.parsed(block)) is not None]
    findings.refuse()
    return pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(table.names, pl.String))


PIECES = st.sampled_from(
    [
        "Secret",
        "x",
        "1",
        ",",
        ",",
        '"',
        '""',
        "\n",
        "\n",
        "\r\n",
        "\r",
        " ",
        "\t",
        "é",
        "Secret,x,1\n",
        '"a b",x,1\n',
        'x"y',
        "\ufeff",
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    header=st.sampled_from(["user,item,timestamp\n", "\nuser,item,timestamp\r\n", "", ' \n"user","item",timestamp\n']),
    body=st.lists(PIECES, max_size=25).map("".join),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"]),
    size=st.sampled_from([1, 1 << 20]),
)
@example(header="user,item,timestamp\n", body='1,"x,1\n2,y,2\n3,z",3\n', encoding="utf-8", size=1)
@example(header="user,item,timestamp\n", body='1,5" x,1\n2,6" y,2\n', encoding="utf-8", size=1)
def test_any_text_is_refused_in_one_line_or_read_with_the_rows_of_the_csv_module(
    header: str, body: str, encoding: str, size: int
) -> None:
    text = (header + body).replace("\ufeff", "" if encoding == "latin-1" else "\ufeff")
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.csv", text.encode(encoding))
        try:
            found = _read(path, COMMAS, size)
        except DataError as error:
            assert "\n" not in str(error) and "Secret" not in str(error) and str(error).endswith(("?", "."))
            found = None
        try:
            load_dataset(str(path))
        except DataError as error:
            assert "\n" not in str(error) and "Secret" not in str(error) and str(error).endswith(("?", "."))
    if found is not None:
        plain = text.encode(encoding).decode(encoding).removeprefix("\ufeff")
        strict = list(csv.reader(io.StringIO(plain, newline=""), strict=True))
        expected = [row for row in strict if any(field.strip("\ufeff \t\r\n") for field in row)][1:]
        full = [row for row in found.rows() if any(field and field.strip("\ufeff \t\r\n") for field in row)]
        assert len(full) == len(expected)
