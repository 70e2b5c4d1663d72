"""Bad rows, refused or left out and counted; data without times whose order is that of the file."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shared.data.interactions import BAD_IDS, BAD_TIMES, BAD_VALUES, BY_FILE
from shared.data.lines import Lines, Rows
from shared.data.readers import load_dataset
from shared.data.readers.preview import preview
from shared.data.row_checks import RowChecks
from shared.errors import ConfigError, DataError


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(str(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def events(path: Path, bad: dict[int, str], rows: int = 1500) -> Path:
    lines = [bad.get(n, f"u{n % 7},i{n % 11},{1_600_000_000 + n},{n % 5}") for n in range(rows)]
    path.write_text("user,item,timestamp,value\n" + "\n".join(lines) + "\n")
    return path


def test_few_bad_rows_are_refused_with_an_offer_and_left_out_where_asked(tmp_path: Path) -> None:
    path = events(tmp_path / "a.csv", {40: "u,i,??,1", 90: "u,i,,1"})
    message = refusal(path)
    assert message.startswith("Expected timestamps from 1970 on in a.csv, found 2 violations; first at line 42. Read are ")
    assert message.endswith("To leave out 2 of 1500 rows, set data.bad_rows=drop (--bad-rows drop).")
    dataset = load_dataset(str(path), bad_rows="drop")
    assert dataset.interactions.num_interactions == 1498 and dataset.interactions.repairs == {
        BAD_TIMES: 2,
        **_catalog(dataset),
    }
    assert preview(str(path), bad_rows="drop")["repairs"][BAD_TIMES] == 2


def _catalog(dataset: Any) -> dict[str, int]:
    return {what: count for what, count in dataset.interactions.repairs.items() if "items" in what}


def test_every_kind_of_bad_row_is_counted_and_a_row_with_several_is_left_out_once(tmp_path: Path) -> None:
    path = events(tmp_path / "a.csv", {1: ",i,1,1", 2: "u,,1,1", 3: "u,i,x,good", 4: "u,i,1,good"})
    found = load_dataset(str(path), bad_rows="drop").interactions
    assert found.num_interactions == 1496
    counts = {BAD_IDS.format(name="user"): 1, BAD_IDS.format(name="item"): 1, BAD_TIMES: 1, BAD_VALUES: 2}
    assert counts.items() <= found.repairs.items()


def test_many_bad_rows_are_another_notation_and_are_not_offered_to_go(tmp_path: Path) -> None:
    path = events(tmp_path / "a.csv", {n: f"u,i,soon{n},1" for n in range(300)})
    assert "bad_rows" not in refusal(path)
    assert load_dataset(str(path), bad_rows="drop").interactions.num_interactions == 1200
    events(path, {n: f"u,i,soon{n},1" for n in range(800)})
    assert "found 800 violations" in refusal(path, bad_rows="drop")
    events(path, {0: ",i,1,1", 1: "u,,1,1"}, rows=2)
    assert refusal(path, bad_rows="drop").startswith("Expected at least one row without a fault in a.csv, found 0.")


def test_checks_keep_what_is_good_and_say_where_the_first_fault_is() -> None:
    checks = RowChecks(20, source="f", lines=Rows([0, 5, 5, 12]), bad_rows="refuse")
    with pytest.raises(
        DataError, match=r"^Expected x in f, found 1 violation; first at row 3\. To leave out 1 of 20 rows, set"
    ):
        checks.require(pl.Series([True] * 6 + [None] + [True] * 13), "x", dropped="d")
    checks = RowChecks(3, source="f", lines=Lines(1), bad_rows="drop")
    checks.require(pl.Series([True, None, True]), "x", dropped="d")
    assert checks.keep(pl.DataFrame({"a": [1, 2, 3]}))["a"].to_list() == [1, 3] and checks.repairs == {"d": 1}


def test_bad_lines_of_json_and_of_mind_can_be_left_out(tmp_path: Path) -> None:
    review = {"reviewerID": "u", "asin": "x", "overall": 5.0}
    lines = [json.dumps({**review, "unixReviewTime": n if n != 7 else "soon"}) for n in range(40)]
    (tmp_path / "a.json").write_text("\n".join(lines))
    (tmp_path / "meta_a.json").write_text('{"asin": "x", "title": "X"}\n{"title": "Y"}\n')
    assert "To leave out 1 of 40 rows" in refusal(tmp_path)
    found = load_dataset(str(tmp_path), bad_rows="drop").interactions
    assert found.num_interactions == 39
    assert found.repairs["rows of meta_a.json whose item id is empty or cannot be read (left out)"] == 1
    mind = tmp_path / "mind"
    mind.mkdir()
    rows = [f"{n}\t{'' if n == 3 else 'U1'}\t11/11/2019 9:05:{n:02} AM\t\tN{n}-1" for n in range(20)]
    (mind / "behaviors.tsv").write_text("\n".join(rows) + "\n")
    assert "first at line 4. To leave out 1 of 20 rows" in refusal(mind)
    found = load_dataset(str(mind), bad_rows="drop").interactions
    assert found.num_interactions == 19 and found.repairs[BAD_IDS.format(name="user")] == 1
    (mind / "behaviors.tsv").write_text("\n".join([*rows, "9\tU\t11/11/2019 9:05:58 AM\t\tN1-1 N2"]) + "\n")
    assert "first at line 21." in refusal(mind, bad_rows="drop")


@pytest.mark.parametrize("kind", ["csv", "inter", "movielens", "parquet", "lists"])
def test_data_without_times_are_read_in_the_order_of_the_file_where_that_is_said(kind: str, tmp_path: Path) -> None:
    rows = [("b", "x"), ("a", "y"), ("b", "z"), ("a", "x"), ("b", "x")]
    if kind == "csv":
        (tmp_path / "a.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in rows))
    elif kind == "inter":
        (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\n" + "".join(f"{u}\t{i}\n" for u, i in rows))
    elif kind == "movielens":
        (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n" + "".join(f"{u},{i},3\n" for u, i in rows))
        (tmp_path / "movies.csv").write_text("movieId,title,genres\nx,X,A\n")
    elif kind == "parquet":
        pl.DataFrame(rows, schema=["user", "item"], orient="row").write_parquet(tmp_path / "a.parquet")
    else:
        lists = {"user": ["b", "a"], "item": [["x", "z", "x"], ["y", "x"]]}
        pl.DataFrame(lists).write_parquet(tmp_path / "a.parquet")
    assert refusal(tmp_path).endswith(BY_FILE)
    interactions = load_dataset(str(tmp_path), order="file").interactions
    assert interactions.positional
    places = interactions.frame.sort("user", "timestamp").select("user", "item", "timestamp").rows()
    assert places == [("a", "y", 0), ("a", "x", 1), ("b", "x", 0), ("b", "z", 1), ("b", "x", 2)]
    assert preview(str(tmp_path), order="file")["positional"]


def test_times_are_not_read_where_the_order_of_the_file_is_said_to_be_theirs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,timestamp\na,x,9\na,y,never\n,z,3\na,z,7\n")
    interactions = load_dataset(str(tmp_path), order="file", bad_rows="drop").interactions
    assert interactions.frame.rows() == [("a", "x", 0), ("a", "y", 1), ("a", "z", 2)]
    with pytest.raises(ConfigError, match=r"^Expected no timestamp in data\.columns with data\.order=file, got one\. "):
        load_dataset(str(tmp_path), order="file", columns="timestamp=timestamp")
