"""Files of a data set whose ids do not meet, in every format."""

from pathlib import Path

import polars as pl
import pytest

from shared.data.readers import load_dataset
from shared.data.readers.convert import convert
from shared.data.readers.meeting import require_meeting
from shared.data.readers.preview import preview
from shared.errors import DataError
from simulations.describe import describe

ROWS = [(f"u{n % 5}", f"{n % 7 + 1}", 1_600_000_000 + n) for n in range(35)]


def ratings(folder: Path, item: str = "{}", user: str = "{}") -> Path:
    lines = (f"{user.format(u)},{item.format(i)},{t}\n" for u, i, t in ROWS)
    (folder / "ratings.csv").write_text("user,item,timestamp\n" + "".join(lines))
    return folder


def items(folder: Path, *ids: str) -> Path:
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{i},Title {n}\n" for n, i in enumerate(ids)))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(str(folder))
    return str(caught.value)


def test_ids_that_were_floats_meet_those_that_were_not(tmp_path: Path) -> None:
    items(ratings(tmp_path, "{}.0"), *map(str, range(1, 8)))
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.num_items == 7 and dataset.catalog.texts[0] == "Title 0" and dataset.warnings == ()
    items(ratings(tmp_path, "{}"), *(f" {n}.0 " for n in range(1, 8)))
    assert load_dataset(str(tmp_path)).catalog == dataset.catalog


@pytest.mark.parametrize(
    ("item", "advice"),
    [
        ("B{}", " In lower case they would meet: spell them alike in both files."),
        ("00b{}", " Without leading zeros they would meet: spell them alike in both files."),
        ("b- {}", " Without other signs than letters and digits they would meet: spell them alike in both files."),
        ("b {}", " Without blanks they would meet: spell them alike in both files."),
        ("another{}", ""),
    ],
)
def test_an_items_file_that_knows_no_item_is_refused(item: str, advice: str, tmp_path: Path) -> None:
    items(ratings(tmp_path, item), *(f"b{n}" for n in range(1, 31)))
    message = "Expected item ids in items.csv that occur in ratings.csv, found none among 30. Are they another's?"
    assert refusal(tmp_path) == message + advice
    with pytest.raises(DataError, match="found none among 30"):
        preview(str(tmp_path))


def test_a_users_file_that_knows_no_user_is_refused(tmp_path: Path) -> None:
    ratings(tmp_path)
    pl.DataFrame({"user": [7, 8], "age": [30, 40]}).write_parquet(tmp_path / "users.parquet")
    message = "Expected user ids in users.parquet that occur in ratings.csv, found none among 2. Are they another's?"
    assert refusal(tmp_path) == message


@pytest.mark.parametrize(
    "format", ["recbole", "movielens", "amazon-2014", "amazon-2023", "steam", "goodreads", "mind", "huggingface", "parquet"]
)
def test_other_items_are_refused_in_every_format(format: str, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    convert(load_dataset(str(items(ratings(tmp_path), *map(str, range(1, 8))))), mine, format, lossy=True)
    changed = tmp_path / "changed"
    changed.mkdir()
    convert(load_dataset(str(items(ratings(changed, "x{}"), *(f"x{n}" for n in range(1, 8))))), other, format, lossy=True)
    for file in (file for file in other.rglob("*") if file.is_file()):
        name = file.relative_to(other)
        if (
            file.suffix == ".item"
            or "item" in name.parts[0]
            or name.name.startswith(("meta", "movies", "news", "steam_games", "goodreads_books"))
        ):
            (mine / str(name).replace("other", "mine")).write_bytes(file.read_bytes())
    assert "that occur in" in refusal(mine) and "found none among 7. Are they another's?" in refusal(mine)


def test_few_items_that_are_met_are_said(tmp_path: Path) -> None:
    lines = (f"u{n % 5},{n},{1_600_000_000 + n}\n" for n in range(100))
    (tmp_path / "ratings.csv").write_text("user,item,timestamp\n" + "".join(lines))
    items(tmp_path, *(str(n) for n in range(91, 130)))
    dataset = load_dataset(str(tmp_path))
    warning = "items.csv knows only 9 of the 100 items of ratings.csv: are its ids another's, or spelled differently?"
    assert dataset.warnings == (warning,) and warning in describe(dataset)["warnings"]
    assert preview(str(tmp_path))["warnings"] == [warning]
    items(tmp_path, *(str(n) for n in range(90, 130)))
    assert load_dataset(str(tmp_path)).warnings == ()


def test_heads_of_files_need_not_meet() -> None:
    listed, met = pl.Series(["a"]), pl.Series(["b", "c"])
    found = require_meeting(listed, met, name="items.csv", source="a.csv", what="item", whole=False)
    assert found.startswith("items.csv knows only 0 of the 2 items of a.csv of what was looked at:")
    assert require_meeting(pl.Series(["a", "b"]), met, name="i", source="a", what="item") == ""


def test_of_two_columns_of_items_the_one_that_the_items_file_has_is_taken(tmp_path: Path) -> None:
    rows = "".join(f"u{n % 5},a{n},p{n % 3},{n + 9}\n" for n in range(20))
    (tmp_path / "reviews.csv").write_text("user_id,asin,parent_asin,timestamp\n" + rows)
    (tmp_path / "items.csv").write_text("asin,title\n" + "".join(f"a{n},T\n" for n in range(20)))
    assert load_dataset(str(tmp_path)).catalog.num_items == 20
    (tmp_path / "items.csv").write_text("parent_asin,title\n" + "".join(f"p{n},T\n" for n in range(3)))
    assert load_dataset(str(tmp_path)).catalog.num_items == 3
    (tmp_path / "items.csv").unlink()
    assert load_dataset(str(tmp_path)).catalog.num_items == 3


def test_vectors_of_others_are_refused_with_advice(tmp_path: Path) -> None:
    ratings(tmp_path, "b{}")
    pl.DataFrame({"item": ["B1", "B2"], "v": [[1.0], [2.0]]}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"found none among 2\. Are they another's\? In lower case they would meet"):
        load_dataset(str(tmp_path), vectors="v=v.parquet")


def test_no_message_quotes_an_id(tmp_path: Path) -> None:
    items(ratings(tmp_path, "SECRET{}"), "secret1", "secret2")
    assert "secret" not in refusal(tmp_path).lower()


def test_vectors_of_few_items_are_said(tmp_path: Path) -> None:
    lines = (f"u{n % 5},{n},{1_600_000_000 + n}\n" for n in range(100))
    (tmp_path / "ratings.csv").write_text("user,item,timestamp\n" + "".join(lines))

    def vectors(name: str, number: int) -> None:
        ids = [*map(str, range(number)), *(f"x{n}" for n in range(200))]
        pl.DataFrame({"item": ids, "v": [[float(n), 1.0] for n in range(len(ids))]}).write_parquet(tmp_path / name)

    vectors("v.parquet", 9)
    warning = "v.parquet knows only 9 of the 100 items of this data set: are its ids another's, or spelled differently?"
    dataset = load_dataset(str(tmp_path / "ratings.csv"), vectors="v=v.parquet")
    assert dataset.warnings == (warning,) and warning in describe(dataset)["warnings"]
    vectors("v.parquet", 10)
    assert load_dataset(str(tmp_path / "ratings.csv"), vectors="v=v.parquet").warnings == ()
    (tmp_path / "v.parquet").unlink()
    vectors("modalities.parquet", 9)
    assert load_dataset(str(tmp_path)).warnings == (warning.replace("v.parquet", "modalities.parquet"),)
