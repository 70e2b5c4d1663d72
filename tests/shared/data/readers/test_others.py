"""MIND, Hugging Face, RecBole's other files, files beside: as they are published, and at fault."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from shared.data.catalog import WITHOUT_TEXT
from shared.data.readers import load_dataset
from shared.data.readers.mind import HISTORY, UNLABELED
from shared.data.readers.modalities import UNMATCHED, lasting, parse_vectors
from shared.errors import ConfigError, DataError


def files(folder: Path, **contents: str) -> Path:
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(DataError, match=r"^(Expected|No |Cannot)") as caught:
        load_dataset(str(path), **options)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    return str(caught.value)


# MIND

NEWS = (
    "N55528\tlifestyle\tlifestyleroyals\tThe Brands Queen Elizabeth Swears By\tShop the notebooks\thttps://x\t[]\t[]\n"
    "N19639\thealth\tweightloss\t50 Worst Habits\t\thttps://y\t[]\t[]\n"
    "N1\tnews\t\t\t\t\t\t\n"
)


def behaviors(*rows: tuple[str, str, str, str]) -> str:
    return "".join("\t".join((str(number), *row)) + "\n" for number, row in enumerate(rows, start=1))


def test_mind_clicks_are_interactions_and_histories_come_before(tmp_path: Path) -> None:
    rows = [
        ("U2", "11/11/2019 9:05:58 AM", "N19639 N55528 N1", "N19639-0 N55528-1"),
        ("U1", "11/11/2019 12:05:58 PM", "", "N1-1 N19639-0 N55528-1"),
        ("U2", "11/11/2019 8:00:00 AM", "N19639 N55528 N1", "N55528-0"),
    ]
    dataset = load_dataset(str(files(tmp_path, behaviors__tsv=behaviors(*rows), news__tsv=NEWS)))
    first = 1573459200  # 2019-11-11 8:00:00 UTC
    assert dataset.interactions.frame.rows() == [
        ("U2", "N19639", first - 3),
        ("U2", "N55528", first - 2),
        ("U2", "N1", first - 1),
        ("U2", "N55528", first + 3958),
        ("U1", "N1", first + 14758),
        ("U1", "N55528", first + 14758),
    ]
    assert dataset.interactions.repairs == {HISTORY: 3}
    assert dataset.catalog.texts == (
        "The Brands Queen Elizabeth Swears By. Shop the notebooks. lifestyle lifestyleroyals",
        "50 Worst Habits. health weightloss",
        "news",
    )


def test_mind_impressions_without_labels_are_counted_and_mixed_ones_located(tmp_path: Path) -> None:
    time = "11/11/2019 9:05:58 AM"
    rows = [("U1", time, "N1", "N2 N3"), ("U2", time, "", "N2-1 N-4-1")]
    dataset = load_dataset(str(files(tmp_path, behaviors__tsv=behaviors(*rows))))
    assert dataset.interactions.repairs[UNLABELED] == 2 and dataset.interactions.repairs[HISTORY] == 1
    assert dataset.interactions.frame["item"].to_list() == ["N1", "N2", "N-4"]
    files(tmp_path, behaviors__tsv=behaviors(rows[1], ("U1", time, "", "secret-1 N3"), ("U1", time, "", "N3-2 N4-0")))
    assert "found 2 lines where some have a label 0 or 1 and others none; first at line 2." in refusal(tmp_path)


def test_mind_faults_are_located(tmp_path: Path) -> None:
    time = "11/11/2019 9:05:58 AM"
    files(
        tmp_path,
        behaviors__tsv=behaviors(
            ("U1", time, "", "N1-1"), ("U1", "secret", "", "N1-1"), ("U1", "13/13/2019 1:00:00 AM", "", "N1-1")
        ),
    )
    assert refusal(tmp_path) == (
        "Expected times from 1970 on such as '11/11/2019 9:05:58 AM' in the third field in behaviors.tsv, found 2 "
        "violations; first at line 2. Mend the file."
    )
    files(tmp_path, behaviors__tsv=behaviors(("U1", time, "", "N1-1"), ("", time, "", "N1-1")))
    assert refusal(tmp_path) == (
        "Expected user ids that are not empty in behaviors.tsv, found 1 violation; first at line 2. Mend the file."
    )
    files(tmp_path, behaviors__tsv=behaviors(("U1", time, "", "N1-0")))
    assert refusal(tmp_path).startswith("Expected at least one interaction in behaviors.tsv, found 0.")
    files(tmp_path, behaviors__tsv="secret,row\n")
    assert refusal(tmp_path).startswith(
        "Expected 5 fields (impression, user, time, history, impressions) a line in behaviors.tsv"
    )
    with pytest.raises(ConfigError, match=r"^Expected no data\.columns with MIND files"):
        load_dataset(str(tmp_path), format="mind", columns="user=a")
    assert "Expected behaviors.tsv at" in refusal(tmp_path.parent, format="mind")


# Hugging Face


def saved(folder: Path, frame: pl.DataFrame, shards: int = 1) -> Path:
    """What `Dataset.save_to_disk` of datasets 5.2 writes, as far as reading it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05d}-of-{shards:05d}.arrow" for number in range(shards)]
    size = -(-frame.height // shards)
    for number, name in enumerate(names):
        frame.slice(number * size, size).write_ipc_stream(folder / name, compat_level=pl.CompatLevel.oldest())
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "3c05a49f3881ed5a", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


ROWS = pl.DataFrame(
    {"user_id": [1, 1, 2], "asin": ["a", "b", "a"], "timestamp": [100, 205, 300], "text": ["secret review"] * 3}
)


def test_a_saved_dataset_is_a_table_whose_review_texts_are_not_the_items(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", ROWS, shards=2)
    dataset = load_dataset(str(folder))
    assert dataset.interactions.frame.rows() == [("1", "a", 100), ("1", "b", 205), ("2", "a", 300)]
    assert dataset.catalog.texts == ("a", "b")
    assert load_dataset(str(folder), columns="user=user_id,item=asin,position=timestamp").interactions.positional
    assert load_dataset(str(folder / "state.json")).interactions.num_interactions == 3


def test_a_saved_dictionary_has_splits_for_items_and_users(tmp_path: Path) -> None:
    saved(tmp_path / "train", ROWS)
    items = pl.DataFrame(
        {"asin": ["b", "a"], "title": ["B", "A"], "category": ["x|y", None], "image": [[1.0, 2.0], [3.0, 4.0]]}
    )
    saved(tmp_path / "items", items)
    saved(tmp_path / "users", pl.DataFrame({"user_id": [1, 2], "age": [30, None]}))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "items", "users"]}')
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.ids == ("b", "a") and dataset.catalog.texts == ("B. x y", "A")
    assert dataset.catalog.vectors("image").tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert dataset.user_attributes is not None and dataset.user_attributes.rows() == [("1", "30"), ("2", None)]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert "Expected a split interactions, or one split, in " in refusal(tmp_path) and "found 2." in refusal(tmp_path)


def test_damage_of_a_saved_dataset_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", ROWS, shards=2)
    part = folder / "data-00001-of-00002.arrow"
    whole = part.read_bytes()
    part.write_bytes(whole[:90])
    assert refusal(folder) == "Expected an Arrow stream at data-00001-of-00002.arrow, found something else or a part of one."
    part.unlink()
    assert refusal(folder) == "Expected 2 Arrow files in set, found 1 missing. Copy all of them."
    part.write_bytes(whole)
    for state, message in (
        ('{"_data_files": [{"filename": "../secret.arrow"}]}', "Expected the names of Arrow files in set/state.json"),
        (
            '{"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{}]}',
            "Expected all rows in set, found an index.",
        ),
        ("[]", "Expected a JSON object in set/state.json"),
        ("{", "Expected a JSON object in set/state.json"),
    ):
        (folder / "state.json").write_text(state)
        assert refusal(folder).startswith(message)


# RecBole

INTER = "user_id:token\titem_id:token\ttimestamp:float\n1\t7\t100\n1\t8\t205\n"


def test_recbole_knowledge_vectors_prices_and_categories(tmp_path: Path) -> None:
    files(
        tmp_path,
        t__inter=INTER,
        t__item="item_id:token\ttitle:token_seq\tgenre:token_seq\tprice:float\timg:float_seq\tbrand:token\n"
        "7\tToy\tSci\u00a0Fi Drama\t3.5\t1 2.5\tB\n8\tHeat\t\t\t\t\n",
        t__kg="head_id:token\trelation_id:token\ttail_id:token\nm.1\tfilm.genre\tm.9\nm.2\tx\ty\nm.1\tactor\tm.8\n",
        t__link="item_id:token\tentity_id:token\n7\tm.1\n9\tm.2\n",
    )
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts == ("Toy. B. Sci Fi Drama", "Heat")
    assert dataset.catalog.modalities.to_dicts() == [
        {"categories": ["Sci Fi", "Drama"], "img": [1.0, 2.5], "knowledge": ["film.genre: m.9", "actor: m.8"], "price": 3.5},
        {"categories": None, "img": None, "knowledge": None, "price": None},
    ]


def test_recbole_faults_of_the_other_files_are_told(tmp_path: Path) -> None:
    files(tmp_path, t__inter=INTER, t__item="item_id:token\timg:float_seq\n7\t1 2\n8\t1 secret\n")
    assert refusal(tmp_path) == (
        "Expected numbers in the float_seq field img of t.item, found 1 rows with others; first at line 3. "
        "Separate numbers by blanks, or name the field token_seq."
    )
    files(tmp_path, t__item="item_id:token\timg:float_seq\n7\t1 2\n8\t1\n9\t1 2\n")
    assert refusal(tmp_path).startswith(
        "Expected img vectors of 2 finite numbers each in t.item, found 1 others; first at row 2."
    )
    files(tmp_path, t__item="item_id:token\ttitle:string\n7\tx\n")
    assert refusal(tmp_path).startswith(
        "Expected types token, token_seq, float, float_seq in the header of t.item, found 1 others."
    )
    files(
        tmp_path,
        t__item="item_id:token\ttitle:token\n7\tx\n",
        t__kg="head_id:token\trelation_id:token\ttail_id:token\na\tb\tc\n",
    )
    assert refusal(tmp_path).startswith("Expected t.link beside t.kg")
    files(tmp_path, t__link="item_id:token\tentity_id:token\n70\ta\n")
    assert refusal(tmp_path).startswith("Expected items of t.item in t.link, found none among 1.")


# Files beside


def table(folder: Path) -> Path:
    return files(
        folder, a__csv="user,item,timestamp\nu,x,100\nu,y,205\nv,z,300\n", items__csv="item,title\ny,Y\nx,X\nx,again\n"
    )


def test_vectors_of_a_npy_file_are_in_the_order_of_the_items_file(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float16))
    dataset = load_dataset(str(table(tmp_path)), vectors="image=v.npy")
    assert dataset.catalog.ids == ("y", "x", "z")
    np.testing.assert_array_equal(dataset.catalog.vectors("image"), [[1, 2], [3, 4], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2)), "Expected 3 rows in v.npy, one a row of items.csv, found 2."),
        (
            np.array([[1, 2], [np.nan, 1], [np.inf, 1]]),
            "Expected image vectors of finite numbers in v.npy, found 2 rows with others; first at row 2.",
        ),
        (np.zeros(3), "Expected rows of numbers (2 dimensions) in v.npy, found 1 dimensions of float64."),
        (np.array([["a"]]), "Expected rows of numbers (2 dimensions) in v.npy, found 2 dimensions of <U1."),
        (np.zeros((3, 0)), "Expected rows of numbers (2 dimensions) in v.npy, found 2 dimensions of float64."),
    ],
)
def test_vectors_of_a_npy_file_that_do_not_fit_are_told(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "v.npy", array)
    assert refusal(table(tmp_path), vectors="image=v.npy").startswith(message)


def test_vector_files_that_are_none_are_told(tmp_path: Path) -> None:
    table(tmp_path)
    assert refusal(tmp_path, vectors="image=v.npy").startswith(
        "Expected the file v.npy of data.vectors beside the data, found none."
    )
    (tmp_path / "v.npy").write_bytes(b"\x93NUMPY cut")
    assert refusal(tmp_path, vectors="image=v.npy").startswith("Expected an array of numbers in v.npy, found something else")
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    assert refusal(tmp_path, vectors="image=o.npy").startswith("Expected an array of numbers in o.npy, found something else")
    (tmp_path / "v.parquet").write_bytes(b"PAR1 cut")
    assert refusal(tmp_path, vectors="image=v.parquet").startswith(
        "Expected a Parquet file at v.parquet, found something else"
    )
    (tmp_path / "items.csv").unlink()
    (tmp_path / "v.parquet").unlink()
    np.save(tmp_path / "v.npy", np.zeros((3, 2)))
    assert refusal(tmp_path, vectors="image=v.npy").startswith(
        "Expected an items file, whose order the rows of v.npy have, found none."
    )


def test_vectors_of_a_parquet_file_are_joined_by_id_and_strangers_counted(tmp_path: Path) -> None:
    vectors = pl.DataFrame({"item": ["z", "q", "x", "x"], "v": [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [9.0, 9.0]]})
    vectors.write_parquet(tmp_path / "v.parquet")
    dataset = load_dataset(str(table(tmp_path)), columns="text=title", vectors="image=v.parquet")
    np.testing.assert_array_equal(dataset.catalog.vectors("image"), [[np.nan, np.nan], [3, 4], [1, 2]])
    assert dataset.interactions.repairs[UNMATCHED.format(name="v.parquet")] == 1
    vectors.with_columns(item=pl.lit("secret")).write_parquet(tmp_path / "v.parquet")
    assert refusal(tmp_path / "a.csv", vectors="image=v.parquet") == (
        "Expected ids in v.parquet that are items of this data set, found none among 1. Are they another's?"
    )
    vectors.with_columns(w="v").write_parquet(tmp_path / "v.parquet")
    assert "one column of lists of numbers in v.parquet, found item, v, w." in refusal(
        tmp_path / "a.csv", vectors="i=v.parquet"
    )
    for wrong in ([[1.0], [1.0, 2.0], [1.0, 2.0]], [[1.0, float("nan")], [1.0, 2.0], [1.0, 2.0]]):
        pl.DataFrame({"item": ["x", "y", "z"], "v": wrong}).write_parquet(tmp_path / "v.parquet")
        message = refusal(tmp_path / "a.csv", vectors="image=v.parquet")
        assert (
            message.startswith("Expected image vectors of 2 finite numbers each in ")
            and "in v.parquet, found 1 others; first at row 1." in message
        )


def test_modalities_and_users_beside_any_format_are_read(tmp_path: Path) -> None:
    files(tmp_path, t__inter=INTER, t__item="item_id:token\tmovie_title:token_seq\n7\tToy\n8\tHeat\n")
    pl.DataFrame({"item": ["8"], "categories": [["Crime"]], "price": [2.0]}).write_parquet(tmp_path / "modalities.parquet")
    files(tmp_path, users__csv="user_id,age\n1, 24 \n")
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts == ("Toy", "Heat. Crime") and dataset.catalog.modalities["price"].to_list() == [None, 2.0]
    assert dataset.user_attributes is not None and dataset.user_attributes.rows() == [("1", "24")]
    files(tmp_path, t__item="item_id:token\tmovie_title:token_seq\tprice:float\n7\tToy\t1\n8\tHeat\t\n")
    assert refusal(tmp_path) == "Expected price of the items once, found it in t.item and modalities.parquet. Leave one out."
    pl.DataFrame({"id": ["8"]}).write_parquet(tmp_path / "modalities.parquet")
    assert refusal(tmp_path) == "Expected a column item in modalities.parquet, found id. Name it so."


def test_modalities_beside_interactions_alone_make_the_items(tmp_path: Path) -> None:
    files(tmp_path, t__inter=INTER)
    pl.DataFrame({"item": ["8", "q"], "price": [2.0, 1.0]}).write_parquet(tmp_path / "modalities.parquet")
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.ids == ("8", "7") and dataset.interactions.repairs[WITHOUT_TEXT] == 2
    assert dataset.interactions.repairs[UNMATCHED.format(name="modalities.parquet")] == 1


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ("image", "Expected data.vectors of the form 'image=images.npy,audio=audio.parquet', got the part 'image'."),
        ("a=b.csv", "Expected data.vectors of the form 'image=images.npy,audio=audio.parquet', got the part 'a=b.csv'."),
        ("a=b.npy,a=c.npy", "Expected each vector of data.vectors under a name of its own, got 'a', twice. Rename it."),
        ("price=b.npy", "Expected each vector of data.vectors under a name of its own, got 'price', which is no vector's"),
    ],
)
def test_a_wrong_list_of_vectors_is_refused(vectors: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_vectors(vectors)
    assert str(caught.value).startswith(message)


def test_rows_of_a_npy_file_are_those_of_the_items_file_whatever_modalities_add_below(tmp_path: Path) -> None:
    files(tmp_path, clicks__csv="user,item,timestamp\na,i0,1\na,i2,2\n", items__csv="item,title\ni0,zero\ni1,one\n")
    pl.DataFrame({"item": ["i2"], "price": [5.0]}).write_parquet(tmp_path / "modalities.parquet")
    np.save(tmp_path / "v.npy", np.array([[1, 2], [3, 4]], dtype=np.float32))
    catalog = load_dataset(str(tmp_path), vectors="image=v.npy").catalog
    assert catalog.ids == ("i0", "i1", "i2") and catalog.modalities["price"].to_list() == [None, None, 5.0]
    np.testing.assert_array_equal(catalog.vectors("image"), [[1, 2], [3, 4], [np.nan, np.nan]])


def test_vectors_from_elsewhere_get_their_whole_path_and_those_beside_the_data_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "else,where"
    data.mkdir(), elsewhere.mkdir()
    np.save(data / "v.npy", np.zeros((1, 1)))
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", np.zeros((1, 1)))
    assert lasting("image=v.npy, sound=w.npy", data) == f"image=v.npy,sound={tmp_path / 'w.npy'}"
    monkeypatch.chdir(elsewhere)
    np.save("x.npy", np.zeros((1, 1)))
    kept = lasting("sound=x.npy", data)
    assert parse_vectors(kept) == {"sound": str(elsewhere / "x.npy")}
