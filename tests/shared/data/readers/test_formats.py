from pathlib import Path

import polars as pl
import pytest

from shared.data.catalog import ONLY_IN_INTERACTIONS, WITHOUT_TEXT
from shared.data.interactions import EXACT_DUPLICATES
from shared.data.readers import Dataset, load_dataset
from shared.data.readers.tabular import TEXTS_OF_ROWS
from shared.data.splitting import split
from shared.errors import ConfigError, DataError

REAL = Path(__file__).parents[5] / "shared" / "data"


def real(name: str) -> Dataset:
    if not (REAL / name).is_dir():
        pytest.skip(f"needs the data set ../shared/data/{name} beside the repository")
    return load_dataset(str(REAL / name))


def files(folder: Path, **contents: str) -> Path:
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="latin-1" if "é" in content else "utf-8")
    return folder


# RecBole


def recbole(
    folder: Path,
    item_header: str = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
) -> Path:
    return files(
        folder,
        toy__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t3\t100\n1\t8\t4\t90.5\n2\t7\t1\t80\n",
        toy__item=item_header + '\n7\tToy Story\t1995\tAnimation Comedy\n8\t"Seven"\t\tCrime\n9\t\t\t\n',
        toy__user="user_id:token\tage:token\n1\t24\n2\t\n",
    )


def test_recbole_files_are_read_with_title_year_and_classes_as_text(tmp_path: Path) -> None:
    dataset = load_dataset(str(recbole(tmp_path)))
    assert dataset.interactions.frame.rows() == [
        ("1", "7", 100, 3.0),
        ("1", "8", 90, 4.0),
        ("2", "7", 80, 1.0),
    ]
    assert dataset.catalog.ids == ("7", "8", "9")
    assert dataset.catalog.texts == ("Toy Story (1995). Animation Comedy", '"Seven". Crime', "9")
    assert dataset.interactions.repairs == {WITHOUT_TEXT: 1}
    assert dataset.user_attributes is not None and dataset.user_attributes.rows() == [
        ("1", "24"),
        ("2", None),
    ]
    assert dataset.name == tmp_path.name and load_dataset(str(tmp_path / "toy.inter")).name == "toy"


def test_recbole_numbers_are_not_texts(tmp_path: Path) -> None:
    header = "item_id:token\ttitle:token\tprice:float\tbrand:token"
    assert load_dataset(str(recbole(tmp_path, header))).catalog.texts[0] == "Toy Story. Animation Comedy"


def test_recbole_missing_columns_several_files_and_a_column_map_are_refused(tmp_path: Path) -> None:
    recbole(tmp_path)
    with pytest.raises(ConfigError, match=r"^Expected no data\.columns with RecBole files"):
        load_dataset(str(tmp_path), columns="user=a")
    files(tmp_path, other__inter="user_id:token\ttimestamp:float\n1\t2\n")
    with pytest.raises(DataError, match=r"^Expected one \.inter file in .*, found 2: other\.inter, toy\.inter\."):
        load_dataset(str(tmp_path))
    with pytest.raises(
        DataError,
        match=r"^Expected columns .* in other\.inter, found no item_id among 2\.",
    ):
        load_dataset(str(tmp_path / "other.inter"))


# MovieLens


def test_movielens_latest_layout(tmp_path: Path) -> None:
    files(
        tmp_path,
        ratings__csv="userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n2,10,4.0,835355493\n",
        movies__csv='movieId,title,genres\n10,"Heat, The (1995)",Action|Crime\n31,Dull,(no genres listed)\n',
        tags__csv="userId,movieId,tag,timestamp\n1,31,secret,1\n",
    )
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts == ("Heat, The (1995). Action Crime", "Dull")
    assert dataset.interactions.frame.rows() == [("1", "31", 1260759144, 2.5), ("2", "10", 835355493, 4.0)]
    assert dataset.user_attributes is None and not dataset.interactions.positional


def test_movielens_100k_layout_is_latin_1_with_genre_flags(tmp_path: Path) -> None:
    flags = ["0"] * 19
    flags[1] = flags[15] = "1"
    files(tmp_path, u__data="1\t242\t3\t881250949\n2\t302\t3\t891717742\n", u__user="1|24|M|technician|85711\n")
    files(tmp_path, u__item=f"242|Café (1996)|01-Jan-1996||http://x|{'|'.join(flags)}\n")
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.ids == ("242", "302")
    assert dataset.catalog.texts == ("Café (1996). Action Sci-Fi", "302")
    assert dataset.interactions.repairs == {ONLY_IN_INTERACTIONS: 1, WITHOUT_TEXT: 1}
    assert dataset.user_attributes is not None
    assert dataset.user_attributes.row(0, named=True)["occupation"] == "technician"


def test_movielens_1m_layout_has_double_colons(tmp_path: Path) -> None:
    files(
        tmp_path,
        ratings__dat="1::1193::5::978300760\n1::661::3::978302109\n",
        users__dat="1::F::1::10::48067\n",
    )
    files(
        tmp_path,
        movies__dat="661::Star Wars: Épisode é (1977)::Animation|Musical\n1193::Cuckoo (1975)::Drama\n",
    )
    dataset = load_dataset(str(tmp_path))
    assert dataset.catalog.texts == ("Star Wars: Épisode é (1977). Animation Musical", "Cuckoo (1975). Drama")
    assert dataset.interactions.frame["timestamp"].to_list() == [978300760, 978302109]
    assert dataset.user_attributes is not None and dataset.user_attributes.columns[:2] == ["user", "gender"]


def test_a_bad_line_of_a_file_without_header_is_counted_from_1(tmp_path: Path) -> None:
    files(tmp_path, u__data="1\t242\t3\t881250949\n2\t302\t3\tsoon\n")
    with pytest.raises(DataError, match=r"from 1970 on in u\.data, found 1 violation; first at line 2\. Read are"):
        load_dataset(str(tmp_path))


# Tables


def test_usual_column_names_need_no_map(tmp_path: Path) -> None:
    files(
        tmp_path,
        interactions__tsv='user_id\titem_id\ttimestamp\tother\na\tx\t100\t1\na\tx\t100\t2\na\t"q\t205\t3\n',
        items__tsv='item_id\ttext\nz\tUnused thing\n"q\t5" pipe\nx\t\n',
        users__csv="userID,region,age\na,north,24\n",
    )
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows() == [("a", "x", 100), ("a", '"q', 205)]
    assert dataset.catalog.ids == ("z", '"q', "x") and dataset.catalog.texts == (
        "Unused thing",
        '5" pipe',
        "x",
    )
    assert dataset.interactions.repairs == {EXACT_DUPLICATES: 1, WITHOUT_TEXT: 1}
    assert dataset.user_attributes is not None
    assert dataset.user_attributes.rows(named=True) == [{"user": "a", "region": "north", "age": "24"}]


def test_a_column_map_names_any_column(tmp_path: Path) -> None:
    files(
        tmp_path,
        log__csv='who;what;when;stars;label\na;x;100;4;"Big; box"\nb;y;200;5;Small box\nb;y;300;5;\n',
    )
    columns = "user=who, item=what, timestamp=when, value=stars, text=label"
    dataset = load_dataset(str(tmp_path / "log.csv"), columns=columns)
    assert dataset.interactions.frame.rows() == [
        ("a", "x", 100, 4.0),
        ("b", "y", 200, 5.0),
        ("b", "y", 300, 5.0),
    ]
    assert dataset.catalog.texts == ("Big; box", "Small box")
    assert dataset.interactions.repairs == {TEXTS_OF_ROWS: 2}


def test_parquet_with_typed_columns_is_read(tmp_path: Path) -> None:
    table = pl.DataFrame({"user": [1, 1, 2], "asin": ["x", "y", "x"], "date": ["2020-01-01", "2020-01-02", "2020-01-03"]})
    table.with_columns(pl.col("date").str.to_datetime()).write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"asin": ["y"], "title": ["Why"], "description": ["long"]}).write_parquet(tmp_path / "items.parquet")
    dataset = load_dataset(str(tmp_path))
    assert dataset.interactions.frame.rows()[0] == ("1", "x", 1577836800)
    assert dataset.catalog.ids == ("y", "x") and dataset.catalog.texts == ("Why", "x")


@pytest.mark.parametrize(
    ("header", "columns"),
    [("user_id,item_id,t", ""), ("u,i,p", "user=u,item=i,position=p"), ("user,item,timestamp", "")],
)
def test_positions_are_recognized_by_name_by_map_and_by_content(tmp_path: Path, header: str, columns: str) -> None:
    files(tmp_path, a__csv=f"{header}\na,x,0\na,y,1\na,z,2\nb,x,0\nb,z,1\n")
    dataset = load_dataset(str(tmp_path / "a.csv"), columns=columns)
    assert dataset.interactions.positional
    with pytest.raises(ConfigError, match=r"which cannot be compared between users\. Use split='leave-last-out'"):
        split(dataset.interactions, dataset.catalog, method="global-temporal", seed=0)


def test_a_position_column_beside_times_is_left_out(tmp_path: Path) -> None:
    files(tmp_path, a__csv="user,item,t,timestamp\na,x,0,900\na,y,1,901\n")
    dataset = load_dataset(str(tmp_path / "a.csv"))
    assert dataset.interactions.frame["timestamp"].to_list() == [900, 901] and not dataset.interactions.positional


def test_a_ratings_file_with_a_column_map_is_a_table(tmp_path: Path) -> None:
    files(tmp_path, ratings__csv="a,b,c\nu,x,100\nv,x,205\n", movies__csv="movieId,title,genres\n1,A,B\n")
    dataset = load_dataset(str(tmp_path), columns="user=a,item=b,timestamp=c")
    assert dataset.interactions.num_users == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("item=asin", "Expected column asin in a.csv, found user, item, timestamp. Correct data.columns."),
        ("text=title", "Expected column title in a.csv, found user, item, timestamp. Correct data.columns."),
    ],
)
def test_a_mapped_column_that_is_absent_is_told(tmp_path: Path, columns: str, message: str) -> None:
    files(tmp_path, a__csv="user,item,timestamp\na,x,100\n")
    with pytest.raises(DataError) as caught:
        load_dataset(str(tmp_path / "a.csv"), columns=columns)
    assert str(caught.value) == message


def test_items_and_users_files_without_ids_and_an_empty_catalog_are_refused(tmp_path: Path) -> None:
    files(tmp_path, a__csv="user,item,timestamp\na,x,100\n", items__csv="name,text\nx,y\n")
    with pytest.raises(DataError, match=r"^Expected a column for item in items\.csv, found name, text\."):
        load_dataset(str(tmp_path / "a.csv"))
    files(tmp_path, items__csv="item,text\n", users__csv="name\nx\n")
    with pytest.raises(DataError, match=r"^Expected a column for user in users\.csv, found name\."):
        load_dataset(str(tmp_path / "a.csv"))
    files(tmp_path, users__csv="user\nx\n")
    with pytest.raises(DataError, match=r"^Expected at least one item in items\.csv, found 0\. An empty catalog"):
        load_dataset(str(tmp_path / "a.csv"))


def test_several_tables_in_a_folder_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    files(tmp_path, a__csv="user,item,timestamp\na,x,100\n", b__csv="user,item,timestamp\na,x,100\n")
    with pytest.raises(
        DataError, match=r"^Expected one file of interactions in .*, found 2: a\.csv, b\.csv\. Name the file"
    ):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path / "b.csv")).name == "b"


# Real data sets


def test_real_ml_100k_has_its_published_size() -> None:
    dataset = real("ml-100k")
    interactions = dataset.interactions
    assert (interactions.num_users, dataset.catalog.num_items, interactions.num_interactions) == (
        943,
        1682,
        100_000,
    )
    assert interactions.repairs == {} and not interactions.positional
    assert dataset.catalog.texts[0] == "Toy Story (1995). Animation Children's Comedy"
    assert dataset.user_attributes is not None
    assert dataset.user_attributes.columns == ["user", "age", "gender", "occupation", "zip_code"]
    assert dataset.user_attributes.height == 943


def test_real_ml_latest_small_has_its_published_size() -> None:
    dataset = real("ml-latest-small")
    interactions = dataset.interactions
    assert (interactions.num_users, dataset.catalog.num_items, interactions.num_interactions) == (
        671,
        9125,
        100_004,
    )
    assert interactions.frame["item"].n_unique() == 9066 and interactions.repairs == {}


def test_real_amazon_scientific_needs_no_column_map_and_is_positional() -> None:
    dataset = real("amazon2018-scientific")
    interactions = dataset.interactions
    assert (interactions.num_users, dataset.catalog.num_items, interactions.num_interactions) == (
        8442,
        4385,
        59_384,
    )
    assert interactions.positional and interactions.repairs == {}
    assert not set(dataset.catalog.texts) & set(dataset.catalog.ids)
