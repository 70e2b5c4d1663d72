"""A map of columns, and the usual names."""

import pytest

from shared.data.column_names import parse_columns, recognize
from shared.errors import ConfigError


def test_a_map_names_columns_by_their_roles() -> None:
    assert parse_columns("user=uid, item=asin") == {"user": "uid", "item": "asin"}
    assert parse_columns("") == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user", "Expected data.columns of the form 'user=...,item=...,timestamp=...', got the part 'user'."),
        ("usr=a", "Unknown key 'usr' in data.columns. Did you mean 'user'?"),
        (
            "zzz=a",
            "Unknown key 'zzz' in data.columns. Known are user, item, timestamp, position, value, text, categories, price.",
        ),
        ("user=a,user=b", "Expected each key of data.columns once, got 'user' twice. Keep one."),
        ("timestamp=a,position=b", "Expected timestamp or position in data.columns, got both. Keep one."),
    ],
)
def test_a_wrong_column_map_is_refused(columns: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_columns(columns)
    assert str(caught.value) == message


def test_a_refusal_calls_the_map_what_it_was_called() -> None:
    with pytest.raises(ConfigError, match="Expected --columns of the form"):
        parse_columns("user", name="--columns")


def test_a_usual_name_is_recognized_however_it_is_spelled_and_the_preferred_one_first() -> None:
    assert recognize(["when", "User_ID", "uid"], ["userid", "uid"]) == "User_ID"
    assert recognize(["userID", "user-id"], ["userid"]) == "userID"
    assert recognize(["when"], ["userid"]) is None
