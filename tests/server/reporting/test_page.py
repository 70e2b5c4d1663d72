"""The report page: complete, self-contained, escaped, and honest about what is not private."""

import copy
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from server.reporting.page import render_report as render_record
from server.reporting.page import write_report
from server.reporting.records import parse_run
from shared.config import RunConfig
from shared.errors import CheckpointError
from shared.privacy.statement import statement_of
from tests.plans import default_plan, plain_plan, silo_plan

RECORD_FILE = Path(__file__).with_name("record.json")
VOID = {"meta", "br", "link", "img", "input", "hr"}


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(RECORD_FILE.read_text(encoding="utf-8"))


def render_report(record: dict[str, Any]) -> str:
    return render_record(parse_run(record))


def _without_privacy(record: dict[str, Any], *, reproducible: bool = False) -> None:
    """Makes the record one of a run that claims nothing."""
    plan = silo_plan(reproducible=True) if reproducible else plain_plan()
    config = RunConfig.from_mapping({"data.public_catalog": True})
    statement = statement_of(plan, plan.events(), config=config).model_dump(mode="json")
    record["privacy"] = {**statement, "ledger": record["privacy"]["ledger"]}


class Page(HTMLParser):
    """Collects tags and text, and checks on the way that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data + " "

    def section(self, title: str) -> str:
        """The text from a heading to the next section's heading."""
        headings = [
            "Learning curves", "Privacy spent", "Against the baselines", "Quality over users",
            "What is protected, and what is not", "Data ", "Model, and what travels", "The run",
        ]  # fmt: skip
        start = self.text.index(title, self.text.index("Run Learning curves"))
        ends = [self.text.find(other, start + len(title)) for other in headings]
        return self.text[start : min([end for end in ends if end > 0], default=len(self.text))]


def test_page_shows_headline_baselines_claims_and_configuration(record: dict[str, Any]) -> None:
    page = Page(render_report(record))
    assert "ml-100k-epsilon-8" in page.text
    assert "2026-02-11 14:02 UTC · 20 rounds" in page.text
    assert "95 % interval 0.051–0.075" in page.text
    assert (
        "Test NDCG@10 is 0.0629, not distinguishable from the free baseline text similarity + popularity "
        "(0.0620, p = 0.784), and 49 % of the best achievable." in page.text
    )
    baselines = page.section("Against the baselines")
    for label in ("this run", "popularity", "item-kNN", "SASRec, centralized", "best achievable"):
        assert label in baselines
    assert "−0.0421 −0.055 to −0.029; p < 0.001" in baselines
    assert "Item coverage@10" in baselines
    assert "federation.sizes equal" in page.section("The run")
    assert "414 kB" in page.section("Model, and what travels")
    assert "exact duplicates dropped 3" in page.section("Data ")


def test_page_is_stamped_not_private_where_it_shows_exact_values(record: dict[str, Any]) -> None:
    page = Page(render_report(record))
    assert page.text.index("NOT PRIVATE · research record") < page.text.index("ml-100k-epsilon-8 2026")
    assert "This record holds exact metrics, baselines and distributions" in page.text
    for title in ("Learning curves", "Against the baselines", "Quality over users", "Data "):
        assert "not private: exact values" in page.section(title)[:80]
    assert "The clients' own ledgers not private: exact values" in page.section("Privacy spent")
    for title in ("Privacy spent", "What is protected, and what is not"):
        assert "not private: exact values" not in page.section(title)[:80]


def test_page_loads_nothing_and_runs_nothing(record: dict[str, Any]) -> None:
    html = render_report(record)
    page = Page(html)
    policy = [tag for name, tag in page.tags if name == "meta" and tag.get("http-equiv")]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not {name for name, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
    }
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")]
    for foreign in ("http:", "https:", "//", "url(", "@import", "javascript:"):
        assert foreign not in html


@pytest.mark.parametrize("attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}"])
def test_page_escapes_every_text_of_the_record(record: dict[str, Any], attack: str) -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poisoned(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [poisoned(entry) for entry in value]
        return attack if isinstance(value, str) else value

    free = ("name", "created", "stamp", "config", "config_digest", "versions", "machine", "data", "model", "timings")
    bad = {**record, **{key: poisoned(record[key]) for key in free}}
    bad["privacy"] = {**record["privacy"], "warnings": [attack], "not_protected": [attack]}
    for claim in bad["privacy"]["claims"]:
        claim.update(who=attack, reason=attack, statement=attack, promise=attack)
    bad["baselines"] = [{**row, "key": attack, "label": attack} for row in record["baselines"]]
    bad["config"][attack] = bad["data"]["repairs"][attack] = 1
    bad["versions"][attack] = "1"
    bad["artifacts"] = {attack: attack, "adapter": "adapter/"}
    bad["metrics"]["test"][attack] = {"mean": 0.5, "low": 0.4, "high": 0.6}
    clean_tags = {name for name, _ in Page(render_report(record)).tags}
    page = Page(render_report(bad))
    assert attack in page.text
    assert {name for name, _ in page.tags} <= clean_tags
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("path", ["javascript:alert(1)", "//host/x", "../secret", "/etc/passwd", "a/../../b", "C:\\x"])
def test_page_links_only_artifacts_inside_the_run_directory(record: dict[str, Any], path: str) -> None:
    record["artifacts"] = {"good": "adapter/", "bad": path}
    page = Page(render_report(record))
    links = [tag["href"] for name, tag in page.tags if name == "a" and not str(tag["href"]).startswith("#")]
    assert links == ["adapter/"]
    assert path in page.text


def test_page_says_that_privacy_was_off_and_why(record: dict[str, Any]) -> None:
    _without_privacy(record)
    record["config"]["privacy"]["epsilon"] = None
    for row in record["rounds"]:
        row["epsilon_spent"] = None
    page = Page(render_report(record))
    spending = page.section("Privacy spent")
    assert "This run is not private. Reason: privacy is off (epsilon = inf)" in spending
    assert "NOT PRIVATE: privacy is off (epsilon = inf)" in page.text
    assert "ε = " not in page.text


def test_page_shows_no_claim_as_protection_when_the_run_is_not_private(record: dict[str, Any]) -> None:
    private = Page(render_report(record)).section("What is protected")
    _without_privacy(record, reproducible=True)
    exposed = Page(render_report(record)).section("What is protected")
    assert private.count("✓ yes") == 3
    assert exposed.count("✓ yes") == 0 and exposed.count("✕ no") == 5
    assert exposed.count("Not private: no bound is claimed") == 4
    assert "7.97" not in exposed


def test_page_names_whom_the_headline_epsilon_is_against(record: dict[str, Any]) -> None:
    tile = "ε = 7.97 δ = 1e-5, unit user, zero-out, against honest-but-curious server"
    assert tile in Page(render_report(record)).text
    record["privacy"]["adversary"] = "outsider"
    assert "unit user, add-or-remove-one, against outsider with every" in Page(render_report(record)).text


def test_page_shows_no_headline_epsilon_when_the_claim_it_belongs_to_does_not_protect(record: dict[str, Any]) -> None:
    record["privacy"]["adversary"] = "active-server"
    text = Page(render_report(record)).text
    assert "ε = 7.97 δ" not in text
    assert "not claimed against active server, or clients it mints; by arithmetic ε is 7.97" in text
    assert "not claimed 7.97 by arithmetic" in Page(render_report(record)).section("What is protected")


def test_page_shows_both_bounds_of_a_client_its_ledger_and_warnings(record: dict[str, Any]) -> None:
    record["privacy"].update(warnings=["delta=0.001 is above a tenth."], per_client={"with_amplification": 2.001})
    record["privacy"]["per_client"]["known_participation"] = None
    record["privacy"]["ledger"].update(epsilon_known_participation=9.011, faults=3)
    page = Page(render_report(record))
    protection = page.section("What is protected")
    assert "One client, with amplification ε = 2.01" in protection
    assert "One client, without amplification ε = ∞" in protection
    assert "A person with 2 accounts ε = 18.76" in protection
    assert "Warning. delta=0.001 is above a tenth." in protection
    ledger = page.section("Privacy spent")
    assert "largest epsilon of one client, without amplification 9.02" in ledger
    assert "faulty contributions, replaced by zero 3" in ledger


def test_page_of_a_run_without_ledger_has_no_ledger_part(record: dict[str, Any]) -> None:
    record["privacy"]["ledger"] = None
    assert "own ledgers" not in Page(render_report(record)).text


def test_page_says_in_plain_words_what_the_mechanism_does(record: dict[str, Any]) -> None:
    assert "at every local step the silo clips each unit's gradient" in Page(render_report(record)).section("Privacy spent")


@pytest.mark.parametrize(("status", "links"), [("complete", 1), ("interrupted", 0)])
def test_page_links_to_the_release_report_when_the_run_released_something(
    record: dict[str, Any], status: str, links: int
) -> None:
    record["status"] = status
    targets = [tag.get("href") for name, tag in Page(render_report(record)).tags if name == "a"]
    assert targets.count("release.html") == links


def test_page_marks_assumptions_that_fail(record: dict[str, Any]) -> None:
    record["privacy"]["assumptions"] = [
        {"text": "A.", "holds": True, "voids": []},
        {"text": "B.", "holds": False, "voids": []},
    ]
    text = Page(render_report(record)).section("What is protected")
    assert "A. holds" in text and "B. does not hold: a stated limit" in text
    assert "An assumption does not hold." in text
    record["privacy"]["assumptions"].pop()
    assert "does not hold:" not in Page(render_report(record)).section("What is protected").split("Not protected")[0]


def test_page_shows_the_distribution_over_users(record: dict[str, Any]) -> None:
    text = Page(render_report(record)).section("Quality over users")
    assert "11.7 % of 943 users have their held-out item among the first 10" in text
    assert "The user in the middle has it at rank 101–200" in text
    assert "3.3 % of the users have it at rank 1,001–2,000" in text
    assert "6–10 29 (3.1 %)" in text


def test_distribution_accepts_a_closed_last_bin(record: dict[str, Any]) -> None:
    record["distribution"]["test"] = {"edges": [1, 2, 11, 101], "counts": [1, 2, 1]}
    text = Page(render_report(record)).section("Quality over users")
    assert "75.0 % of 4 users" in text
    assert "25.0 % of the users have it at rank 11–100" in text


def test_interrupted_run_says_what_was_finished(record: dict[str, Any]) -> None:
    record["status"] = "interrupted"
    record["rounds"] = record["rounds"][:3]
    record["metrics"] = record["distribution"] = {}
    record["baselines"] = []
    text = Page(render_report(record)).text
    assert "This run was interrupted. It finished 3 of 20 rounds" in text
    assert "The recommendations were not evaluated on the test split." in text
    assert "No distribution over users was recorded." in text


def test_a_record_without_any_one_part_is_refused_with_one_line(record: dict[str, Any]) -> None:
    for missing in record:
        without = copy.deepcopy(record)
        del without[missing]
        with pytest.raises(CheckpointError) as caught:
            render_report(without)
        assert str(caught.value).startswith("Expected ") and missing in str(caught.value)


def test_page_of_a_run_without_rounds_says_so(record: dict[str, Any]) -> None:
    record["rounds"] = []
    assert "No round was finished" in Page(render_report(record)).text


def test_page_shows_neither_nan_nor_none_nor_infinity(record: dict[str, Any]) -> None:
    for row in record["rounds"]:
        row.update(training_loss=math.nan, validation=None, epsilon_spent=math.inf, seconds=None)
    for split in record["metrics"].values():
        for name in split:
            split[name] = {"mean": math.nan, "low": None, "high": math.inf}
    record["baselines"][0]["difference"]["ndcg@10"] = {
        "mean": None,
        "low": None,
        "high": None,
        "p_value": None,
    }
    record["data"]["ceiling"]["ndcg@10"] = 0.0
    text = Page(render_report(record)).text
    words = set(text.replace(",", " ").split())
    assert not words & {"nan", "NaN", "None", "inf", "Infinity"}
    assert "Training loss by round: nothing was recorded." in text


def test_page_of_one_round_draws_a_point(record: dict[str, Any]) -> None:
    record["rounds"] = record["rounds"][:1]
    html = render_report(record)
    assert "1 round\n" in html
    assert html.count('<circle class="dot"') == 4


def test_page_of_a_thousand_rounds_stays_small(record: dict[str, Any]) -> None:
    first = record["rounds"][0]
    record["rounds"] = [{**first, "round_number": number} for number in range(1, 1001)]
    html = render_report(record)
    assert len(html) < 400_000
    assert "round 1000: loss 7.2677" in html.replace("1,000", "1000")


def test_metrics_at_another_cutoff_are_found(record: dict[str, Any]) -> None:
    text = json.dumps(record).replace("@10", "@20")
    page = Page(render_report(json.loads(text)))
    assert "Test NDCG@20 is 0.0629" in page.text
    assert "17.0 %" not in page.section("Quality over users").split("of 943")[0]
    assert "among the first 20" in page.section("Quality over users")


def test_write_report_puts_the_page_beside_the_record_and_leaves_nothing_else(
    record: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render_report(record)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.html", "run.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Expected a readable run.json in the run directory, got FileNotFoundError"),
        ("{", "Expected run.json to hold JSON, but it does not parse"),
        ("[]", "Expected run.json to hold one object, got list"),
        ('{"schema": "tacit-run-9"}', "Expected schema == 'tacit-run-3' in run.json, got schema='tacit-run-9'"),
        ('{"schema": "tacit-run-3"}', "Expected a whole run.json, got one that is damaged at name: Field required"),
    ],
)
def test_write_report_refuses_what_is_no_record_and_keeps_the_old_page(
    tmp_path: Path, content: str | None, message: str
) -> None:
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        write_report(tmp_path)
    assert str(caught.value).startswith(message)
    assert str(tmp_path) not in str(caught.value)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "old"


def test_a_run_of_statistics_alone_shows_its_releases_and_no_rounds(record: dict[str, Any]) -> None:
    plan = default_plan()
    statement = statement_of(plan, plan.events(), config=RunConfig.from_mapping({"data.public_catalog": True}))
    record["privacy"] = {**statement.model_dump(mode="json"), "ledger": record["privacy"]["ledger"]}
    gains = {"weighted": 0.001, "pairs": 0.01, "transitions": 0.09, "statistics": 0.1}
    record["selection"] = {
        "round_number": 0, "chosen": "statistics", "gains": gains, "noise_stddev": 0.005, "refined": "transitions",
    }  # fmt: skip
    record["rounds"] = []
    page = Page(render_report(record))
    assert "2026-02-11 14:02 UTC · statistics alone ·" in page.text
    start = page.text.index("Statistics This run released statistics and trained nothing.")
    statistics = page.text[start : page.text.index("Privacy spent", start)]
    assert "popularity prior 1 1.898 3.80 users 10 %" in statistics
    assert "weights of the scores 3 6.002 12.01 users 3 %" in statistics
    assert "Spent on 9 releases: epsilon 8.00 of 8 asked for, at delta 1e-5" in statistics
    assert "Released is the recommender with statistics: on validation its NDCG is +0.1000 ± 0.0098 of noise" in statistics
    assert "the recommender with pairs, without transitions +0.0100" in statistics
    spending = page.text[page.text.index("Privacy spent", start) : page.text.index("Against the baselines", start)]
    assert "epsilon asked for 8 epsilon spent, all releases together 8.00" in spending
    assert "for each release the silo clips each unit's contribution" in spending
    for absent in ("Learning curves", "No round was finished", "No spending was recorded", "0 rounds", "rounds 0",
                   "local steps a round", "sampling rate", "noise over clip norm", "of these trained"):  # fmt: skip
        assert absent not in page.text, absent


def test_a_run_that_was_interrupted_before_its_first_round_is_none_of_statistics_alone(record: dict[str, Any]) -> None:
    record["rounds"], record["status"] = [], "interrupted"
    page = Page(render_report(record))
    assert "It finished 0 of 20 rounds" in page.text
    assert "No round was finished, so there is nothing to draw." in page.text
    assert "trained nothing" not in page.text
