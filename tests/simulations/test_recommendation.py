"""Recommending from a saved run: unseen histories, known users, damaged files, the same scores elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.artifact import load_recommender
from shared.errors import CheckpointError, ConfigError, DataError
from simulations.recommendation import Recommender, recommend_items
from simulations.simulate import simulate
from tests import rounding, running
from tests.running import FinishedRun, settings


def test_recommendations_leave_out_the_history_and_fall_in_score(finished_run: FinishedRun) -> None:
    rows = recommend_items(finished_run.folder, history="thing-1, thing-2,thing-1", k=4)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert not {"thing-1", "thing-2"} & {row["item"] for row in rows}
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    number = rows[0]["item"].removeprefix("thing-")
    assert rows[0]["text"].startswith(f"w{number} ")


def test_recommendations_are_never_more_than_the_catalog_has_left(finished_run: FinishedRun) -> None:
    items = finished_run.record["data"]["items"]
    rows = recommend_items(finished_run.folder, history="thing-1,thing-2", k=1000)
    assert len(rows) == len({row["item"] for row in rows}) == items - 2
    everything = ",".join(row["item"] for row in rows) + ",thing-1,thing-2"
    assert recommend_items(finished_run.folder, history=everything, k=3) == []


def test_recommendations_for_a_user_of_the_data_are_those_of_the_users_history(
    finished_run: FinishedRun,
) -> None:
    lines = finished_run.data.read_text(encoding="utf-8").splitlines()[1:]
    history = [line.split(",")[1] for line in lines if line.startswith("person-3,")]
    by_user = recommend_items(finished_run.folder, user="person-3", k=5)
    assert by_user == recommend_items(finished_run.folder, history=",".join(history), k=5)
    assert by_user != recommend_items(finished_run.folder, history=",".join(reversed(history)), k=5)


def test_recommendations_for_a_user_of_other_data(finished_run: FinishedRun, tmp_path: Path) -> None:
    other = running.write_interactions(tmp_path / "other.csv", users=40, seed=9)
    rows = recommend_items(finished_run.folder, user="person-39", data=str(other), k=5)
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ConfigError, "Expected one of --history, --history-file and --user, got several or none"),
        ({"history": "thing-1", "user": "person-1"}, ConfigError, "got several or none"),
        ({"history": " , "}, ConfigError, "Expected item ids in the history, got none"),
        (
            {"history": "thing-1,secret-item"},
            DataError,
            "Expected item ids of the catalog, got 1 unknown of 2",
        ),
        ({"user": "secret-person"}, DataError, "found no interaction of user 'secret-person'"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why_and_names_only_what_was_asked(
    finished_run: FinishedRun, arguments: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        recommend_items(finished_run.folder, **arguments)
    for other in ("person-1", "person-2"):
        assert other not in str(caught.value)


def _copy(finished_run: FinishedRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run.folder, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "prior.safetensors"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_changed_adapter_is_refused(finished_run: FinishedRun, tmp_path: Path, name: str, how: str) -> None:
    run_dir = _copy(finished_run, tmp_path)
    path = run_dir / "adapter" / name
    if how == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"Expected {name} as the manifest names it, got another file"):
        load_recommender(run_dir)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": {}, "backbone_digest": "", "catalog_digest": ""}'])
def test_a_damaged_manifest_is_refused(finished_run: FinishedRun, tmp_path: Path, manifest: str) -> None:
    run_dir = _copy(finished_run, tmp_path)
    (run_dir / "adapter" / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"Expected a whole manifest.json in .*, found a damaged one"):
        load_recommender(run_dir)


def test_an_adapter_of_another_backbone_is_refused(finished_run: FinishedRun, tmp_path: Path) -> None:
    run_dir = _copy(finished_run, tmp_path)
    path = run_dir / "adapter" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "backbone_digest": "0" * 64}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="Expected the adapter's own backbone and catalog, got others"):
        load_recommender(run_dir)


def test_a_run_without_adapter_says_how_to_finish_it(finished_run: FinishedRun, tmp_path: Path) -> None:
    run_dir = _copy(finished_run, tmp_path)
    shutil.rmtree(run_dir / "adapter")
    with pytest.raises(CheckpointError, match=r"Finish the run with: tacit simulate --resume"):
        recommend_items(run_dir, history="thing-1")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Expected a run in .*nowhere/, could not read its config.json"):
        recommend_items(tmp_path / "nowhere", history="thing-1")


FRESH = """
import sys, numpy as np
from pathlib import Path
from shared.artifact import load_recommender
rows = [np.array([0, 3, 5]), np.array([2]), np.array([], dtype=np.int64), np.arange(12)]
np.save(sys.argv[2], load_recommender(Path(sys.argv[1])).score(rows))
"""


def test_a_private_adapter_in_a_fresh_process_on_a_fresh_base_gives_the_same_scores(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    from shared.config import RunConfig
    from shared.model.recommender import build
    from shared.run_folder import load_catalog, load_config

    subprocess.run(
        [sys.executable, "-c", FRESH, str(finished_run.folder), str(tmp_path / "scores.npy")],
        cwd=running.ROOT, check=True, timeout=300,
    )  # fmt: skip
    # The other side: the state that the server held in memory and checkpointed, never peft's files.
    from server import checkpoints

    config: RunConfig = load_config(finished_run.folder)
    catalog = load_catalog(finished_run.folder)
    saved = checkpoints.load(finished_run.folder, config_digest=config.digest())
    recommender = build(config, catalog)
    recommender.load_state(recommender.read_state(saved.state))
    rows = [np.array([0, 3, 5]), np.array([2]), np.array([], dtype=np.int64), np.arange(12)]
    expected = recommender.score(rows)
    rounding.assert_close(np.load(tmp_path / "scores.npy"), expected, within=rounding.of_scores(recommender))
    # What was trained matters to the scores, so a loss of it would show.
    recommender.attached.load_vector(recommender.initial_adapter)
    assert np.abs(recommender.score(rows) - expected).max() > 1e-2


def test_items_that_came_after_training_are_ranked_with_the_others(
    finished_run: FinishedRun, tiny_bert: str, tmp_path: Path
) -> None:
    """Texts and exact popularity alone: weights learned from a few noised users may say that texts do not count."""
    alone = {"privacy__epsilon": float("inf"), "statistics__releases": "none", "federation__rounds": 0}
    simulate(settings(finished_run.data, tiny_bert, **alone), tmp_path / "run", quiet=True)
    known = recommend_items(tmp_path / "run", history="thing-1,thing-2", k=1000)
    best = known[0]
    new = tmp_path / "items.csv"
    new.write_text(f"item,title\nfresh,{best['text']}\nother,w59\n", encoding="utf-8")
    rows = recommend_items(tmp_path / "run", history="thing-1,thing-2", new_items=new, k=1000)
    assert {row["item"] for row in rows if row["new"]} == {"fresh", "other"}
    place = {row["item"]: row["rank"] for row in rows}
    # It has the text of the best item, and of nothing but its text can it have come so far up.
    assert place["fresh"] < place["other"]
    for row in known:
        score = next(found["score"] for found in rows if found["item"] == row["item"])
        assert score == pytest.approx(row["score"], abs=1e-4)


def test_new_items_may_be_in_the_history(finished_run: FinishedRun, tmp_path: Path) -> None:
    new = tmp_path / "items.csv"
    new.write_text("item,title\nfresh,w1 w2\n", encoding="utf-8")
    rows = recommend_items(finished_run.folder, history="thing-1,fresh", new_items=new, k=1000)
    assert "fresh" not in {row["item"] for row in rows}
    with pytest.raises(DataError, match=r"^Expected item ids of the catalog, got 1 unknown of 2; the first is 'fresh'\."):
        recommend_items(finished_run.folder, history="thing-1,fresh")


def test_a_new_item_that_the_catalog_has_already_is_refused(finished_run: FinishedRun, tmp_path: Path) -> None:
    new = tmp_path / "items.csv"
    new.write_text("item,title\nthing-1,w1 w2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"^Expected distinct item ids in the catalog, found 1 repeated"):
        recommend_items(finished_run.folder, history="thing-2", new_items=new)


def test_a_user_is_found_in_data_whose_vectors_lie_elsewhere(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import polars as pl

    folder, other = tmp_path / "data", tmp_path / "other"
    folder.mkdir(), other.mkdir()
    running.write_interactions(folder / "clicks.csv")
    vectors = {"item": [f"thing-{item}" for item in range(15)], "v": [[float(item), 1.0] for item in range(15)]}
    pl.DataFrame(vectors).write_parquet(folder / "image.parquet")
    (tmp_path / "sound.parquet").write_bytes((folder / "image.parquet").read_bytes())
    monkeypatch.chdir(tmp_path)
    settings = running.flags(tiny_bert, federation__rounds=1, privacy__epsilon="inf", adapter__kind="ffa")
    given = ("--set", "data.vectors=image=image.parquet,sound=sound.parquet")
    outcome = running.run_tacit(capsys, "simulate", "--data", folder, "--out", tmp_path / "run", "--json", *settings, *given)
    assert outcome.status == 0 and outcome.json["data"]["modalities"] == ["text", "image", "sound"]
    monkeypatch.chdir(other)
    assert len(recommend_items(tmp_path / "run", user="person-3", k=3)) == 3


def test_an_item_whose_id_holds_commas_can_be_named(tmp_path: Path, tiny_bert: str) -> None:
    names = ["Earth, Wind & Fire", "AC/DC", '"Heroes"', "Crosby, Stills, Nash"]
    lines = [f'u{user},"{name.replace(chr(34), chr(34) * 2)}",{100 * user + place}' for user in range(9)
             for place, name in enumerate(names[user % 2 :] + names[: user % 2])]  # fmt: skip
    (tmp_path / "data.csv").write_text("user,item,timestamp\n" + "\n".join(lines) + "\n", encoding="utf-8")
    simulate(settings(tmp_path / "data.csv", tiny_bert, privacy__epsilon="inf"), tmp_path / "run", quiet=True)

    def asked(**history: Any) -> set[str]:
        return set(names) - {row["item"] for row in recommend_items(tmp_path / "run", **history)}

    assert asked(history="Earth, Wind & Fire") == {"Earth, Wind & Fire"}
    assert asked(history='"Earth, Wind & Fire",AC/DC') == {"Earth, Wind & Fire", "AC/DC"}
    assert asked(history='"""Heroes"""') == {'"Heroes"'}
    (tmp_path / "ids.txt").write_bytes('Crosby, Stills, Nash\r\n\r\n"Heroes"\r\n'.encode("utf-8-sig"))
    assert asked(history_file=tmp_path / "ids.txt") == {"Crosby, Stills, Nash", '"Heroes"'}
    with pytest.raises(DataError, match=r"the first is 'Wind & Fire'. Did you mean 'Earth, Wind & Fire'\?"):
        asked(history="AC/DC,Wind & Fire")


def test_an_id_that_is_unknown_is_named_with_those_like_it(finished_run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        recommend_items(finished_run.folder, history="thing-1,thimg-2\x1b[2J")
    assert str(caught.value).startswith(
        "Expected item ids of the catalog, got 1 unknown of 2; the first is 'thimg-2 [2J'. Did you mean 'thing-"
    )
    with pytest.raises(DataError, match="found no interaction of user 'person-77'"):
        recommend_items(finished_run.folder, user="person-77")
    with pytest.raises(DataError, match=r"Cannot read none.txt: No such file or directory. Check --history-file"):
        recommend_items(finished_run.folder, history_file=tmp_path / "none.txt")
    (tmp_path / "ids.txt").write_bytes(b"\xe9\n")
    with pytest.raises(DataError, match=r"Expected UTF-8 text in ids.txt, found other bytes"):
        recommend_items(finished_run.folder, history_file=tmp_path / "ids.txt")


def test_other_data_are_read_with_the_column_map_of_the_run(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = _copy(finished_run, tmp_path)
    values = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    values["data.columns"] = "user=who,item=what,timestamp=when"
    (run_dir / "config.json").write_text(json.dumps(values), encoding="utf-8")
    rows = finished_run.data.read_text(encoding="utf-8").splitlines()[1:]
    mapped, renamed = tmp_path / "mapped.csv", tmp_path / "renamed.csv"
    mapped.write_text("\n".join(["who,what,when,title", *rows]), encoding="utf-8")
    renamed.write_text("\n".join(["a,b,c,title", *rows]), encoding="utf-8")
    recbole = tmp_path / "other.inter"
    fields = "user_id:token\titem_id:token\ttimestamp:float"
    recbole.write_text("\n".join([fields, *("\t".join(row.split(",")[:3]) for row in rows)]), encoding="utf-8")

    expected = recommend_items(finished_run.folder, user="person-3", k=5)
    assert recommend_items(run_dir, user="person-3", data=str(mapped), k=5) == expected
    assert recommend_items(run_dir, user="person-3", data=str(finished_run.data), columns="", k=5) == expected
    # A format with columns of its own takes no map, so that the run's means nothing there.
    assert recommend_items(run_dir, user="person-3", data=str(recbole), k=5) == expected
    with pytest.raises(DataError, match="who"):
        recommend_items(run_dir, user="person-3", data=str(renamed))
    arguments = ("recommend", run_dir, "--user", "person-3", "-k", 5, "--json")
    outcome = running.run_tacit(capsys, *arguments, "--data", renamed, "--columns", "user=a,item=b,timestamp=c")
    assert outcome.json["recommendations"] == expected


def test_a_recommender_in_python_gives_the_lists_of_the_command_line(finished_run: FinishedRun) -> None:
    recommender = Recommender.open(finished_run.folder)
    places = recommender.recommend(["thing-3", "thing-1"], k=4)
    assert [vars(place) for place in places] == recommend_items(finished_run.folder, history="thing-3,thing-1", k=4)
    scores = recommender.score([["thing-3", "thing-1"]])[0]
    assert [place.score for place in places] == [float(scores[recommender.items.index(place.item)]) for place in places]
    assert [place.text for place in places] == [recommender.texts[recommender.items.index(place.item)] for place in places]


def test_a_history_without_items_gets_what_is_popular(finished_run: FinishedRun) -> None:
    recommender = Recommender.open(finished_run.folder)
    scores = recommender.score([[]])[0]
    assert [place.item for place in recommender.recommend([], k=15)] == [
        recommender.items[row] for row in np.argsort(-scores, kind="stable")
    ]


@pytest.mark.parametrize("history", ["thing-3", None, 50, [50], ["thing-3", None]])
def test_a_history_that_is_no_list_of_ids_is_refused(finished_run: FinishedRun, history: Any) -> None:
    recommender = Recommender.open(finished_run.folder)
    for ask in (lambda: recommender.recommend(history), lambda: recommender.score([history])):
        with pytest.raises(ConfigError, match=r"^Expected history to be a list of ids as text, got history of type "):
            ask()


def test_an_unknown_id_in_python_is_named_without_advice_for_the_command_line(finished_run: FinishedRun) -> None:
    with pytest.raises(DataError, match=r"the first is 'thing-33'\. Did you mean .*\? Ids are those of the data file\.$"):
        Recommender.open(finished_run.folder).recommend(["thing-33"])
