"""The release report's page: all six parts of the claim, nothing promised that does not hold, and safe to hand out.

`release.json` holds one report a mechanism, as `server/reporting/release_report.py` writes it.
"""

import copy
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from server.reporting import protection
from server.reporting.records import parse_release
from server.reporting.release_page import render_release, write_release_page
from shared.config import RunConfig
from shared.errors import CheckpointError
from shared.privacy.releases import release_names
from shared.privacy.statement import statement_of
from tests.plans import default_plan

REPORTS_FILE = Path(__file__).with_name("release.json")
KINDS = ("central", "silo", "distributed", "not_private")
SCOPE = "every adapter of the run, every released statistic and the released metrics"


@pytest.fixture
def reports() -> dict[str, dict[str, Any]]:
    return json.loads(REPORTS_FILE.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Collects tags and text, and checks on the way that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.current = ""
        self.feed(page)
        assert self.open == []
        self.sections = {name: " ".join(content.split()) for name, content in self.sections.items()}
        self.text = " ".join(self.sections.values())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "section":
            self.current = str(attributes["id"])
            self.sections[self.current] = ""
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.sections[self.current] += data if re.match(r"[.,;)]", data) else f" {data}"


def _page(report: dict[str, Any]) -> Page:
    return Page(render_release(parse_release(report)))


def test_page_leads_with_the_promise_and_names_all_six_parts_of_the_claim(reports: dict[str, Any]) -> None:
    page = _page(reports["central"])
    assert (
        "Against outsider with every released adapter: Including or leaving out one user's full history changes the "
        "probability of any outcome by at most a factor of 2,981 (e^8.00), plus 0.00001. A guess about that user improves "
        "from 1 % to at most 97 %." in page.sections[""]
    )
    assert page.sections[""].startswith(
        "central noise · Tacit release report RELEASE REPORT Accounted or public values only."
    )
    for tile in ("Epsilon ε = 8.00", "Delta δ = 1e-5", "Adversary outsider with every released adapter", "Unit user",
                 "Neighboring relation add-or-remove-one", f"Release scope {SCOPE}"):  # fmt: skip
        assert tile in page.sections[""]


def test_page_has_a_line_for_each_adversary_with_its_own_bound_and_relation(reports: dict[str, Any]) -> None:
    claims = _page(reports["central"]).sections["claims"]
    assert "outsider with every released adapter ✓ yes 8.00 1e-5 user, add-or-remove-one Including or leaving out" in claims
    assert "the server, which adds the noise itself ✕ no ∞ – user, zero-out No protection." in claims
    assert "clients colluding with one another ✕ no meaningful protection 77.18 1e-5 user, zero-out" in claims
    assert "No meaningful protection: epsilon 77.18 is above 20" in claims
    assert claims.count("✓ yes") == 1 and claims.count("✕ no ") == 4


def test_page_shows_both_bounds_of_one_client_and_the_group_line(reports: dict[str, Any]) -> None:
    claims = _page(reports["central"]).sections["claims"]
    assert "One client, with amplification ε = 8.00 Against an adversary without knowledge of the rounds" in claims
    assert "One client, without amplification ε = 77.18 The worst case: against an adversary that knows" in claims
    assert "A person with 2 accounts ε = 18.30 Against outsider with every released adapter" in claims
    assert "Equal here" not in claims
    assert "Equal here, because the server draws no client in secret" in _page(reports["silo"]).sections["claims"]


def test_page_calls_a_bound_arithmetic_when_it_rests_on_what_the_run_does_not_have(reports: dict[str, Any]) -> None:
    page = _page(reports["distributed"])
    assert (
        "This run does not protect as planned. The table below says what holds. Against honest-but-curious server: Not "
        "protected in this run, because this does not hold: Single updates are hidden" in page.sections[""]
    )
    assert "Against honest-but-curious server: Not protected in this run, because this does not hold:" in page.sections[""]
    assert "Epsilon not claimed Delta –" in page.sections[""]
    assert "honest-but-curious server ✕ no not claimed 7.26 by arithmetic –" in page.sections["claims"]
    assert "active server, or clients it mints ✕ no not claimed 155.37 by arithmetic –" in page.sections["claims"]
    assert "outsider with every released adapter ✓ yes 7.26 1e-4 user, zero-out" in page.sections["claims"]
    assert "A person with 2 accounts (arithmetic only)" in page.sections["claims"]
    assert page.sections["epsilon"].count("(arithmetic only)") == 2
    assert "Epsilon of each kind of release (arithmetic only)" in page.sections["budget"]


def test_page_of_a_run_that_is_not_private_says_so_first_and_shows_no_epsilon(reports: dict[str, Any]) -> None:
    page = _page(reports["not_private"])
    assert page.sections[""].startswith("seeded run · Tacit release report NOT PRIVATE This run makes no claim")
    assert "This run is not private." in page.sections[""]
    assert "NOT PRIVATE: noise and sampling are derived from the seed" in page.sections[""]
    assert "epsilon" not in page.sections and "budget" not in page.sections
    assert page.sections["claims"].count("✕ no") == 5
    assert "No metric may be released: the run is not private." in page.sections["metrics"]


def test_page_of_a_run_that_is_not_private_shows_no_number_of_a_bound(reports: dict[str, Any]) -> None:
    page = _page(reports["not_private"])
    assert not set(re.findall(r"ε = |e\^", page.text))
    assert "yes" not in page.sections["claims"]
    headline = protection.headline(parse_release(reports["not_private"]))
    assert (headline.holds, headline.epsilon, headline.delta) == (False, None, None)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("central", ("is_private",), False),
        ("central", ("is_private",), "yes"),
        ("not_private", ("claims", 0, "protected"), True),
        ("not_private", ("epsilon",), 8.0),
        ("distributed", ("claims", 1, "protected"), True),
        ("central", ("spending", "together"), 1.0),
    ],
)
def test_a_report_that_contradicts_itself_has_no_page(
    reports: dict[str, Any], kind: str, path: tuple[Any, ...], value: Any
) -> None:
    here = reports[kind]
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    with pytest.raises(CheckpointError, match=r"^Expected a whole release\.json, got one that is damaged at "):
        _page(reports[kind])


def test_page_rounds_every_epsilon_and_delta_up(reports: dict[str, Any]) -> None:
    report = reports["central"]
    report["claims"][0].update(epsilon=7.9901, delta=1.0001e-5)
    report["epsilon"] = report["epsilon_of_this_run"] = 7.9901
    report["epsilon_over_rounds"] = [{"round_number": 1, "epsilon": 3.3301}]
    report["delta_curve"] = [{"delta": 1.0001e-6, "epsilon": 9.2201}]
    report["spending"].update(together=7.9901, rdp_cross_check=9.1201)
    page = _page(report)
    assert "ε = 8.00" in page.sections[""] and "δ = 1.01e-5" in page.sections[""]
    assert "1 3.34" in page.sections["epsilon"] and "1.01e-6 9.23" in page.sections["epsilon"]
    assert "8.00" in page.sections["budget"] and "9.13" in page.sections["budget"]


def test_page_draws_epsilon_over_rounds_with_the_target_and_over_deltas_with_the_quoted_one(reports: dict[str, Any]) -> None:
    epsilon = _page(reports["central"]).sections["epsilon"]
    assert "asked for: 8.00" in epsilon and "at delta 1e-5: 8.00" in epsilon
    assert "after round 60: epsilon 7.95" in epsilon
    assert "delta 1e-10: epsilon 13.60" in epsilon
    assert "1e-10 1e-8 1e-6 1e-4" in epsilon
    assert "Both against: outsider with every released adapter." in epsilon


def test_page_shows_what_each_kind_of_release_costs_alone_and_together_with_the_cross_check(
    reports: dict[str, Any],
) -> None:
    budget = _page(reports["central"]).sections["budget"]
    for row in ("popularity prior, alone: 1.28", "training, alone: 7.79", "released metrics, alone: 0.73",
                "all together, as quoted: 8.00", "cross-check by Rényi accounting: 9.13"):  # fmt: skip
        assert row in budget
    assert "The values alone do not add up" in budget
    assert "It is usually looser" in _page(reports["distributed"]).sections["budget"]
    equal = reports["central"]
    equal["rdp_cross_check"] = equal["spending"]["rdp_cross_check"] = equal["spending"]["together"]
    assert "the cross-check equals it" in _page(equal).sections["budget"]
    reports["central"]["spending"]["rdp_cross_check"] = None
    assert "There is no cross-check" in _page(reports["central"]).sections["budget"]


def test_page_shows_released_metrics_with_the_noise_in_them_or_says_withheld(reports: dict[str, Any]) -> None:
    assert "test 60 0.1174 0.0631 ± 0.0179 948" in _page(reports["central"]).sections["metrics"]
    assert "test 20 withheld withheld withheld withheld" in _page(reports["silo"]).sections["metrics"]
    assert "No metric was released." in _page(reports["distributed"]).sections["metrics"]


def test_page_says_in_words_whether_each_assumption_holds(reports: dict[str, Any]) -> None:
    report = reports["central"]
    report["assumptions"] = [
        {"text": "A", "holds": True, "voids": []},
        {"text": "B", "holds": False, "voids": []},
        {"text": "C", "holds": False, "voids": ["server", "active-server"]},
    ]
    text = _page(report).sections["assumptions"]
    for line in (
        "A holds",
        "B does not hold: a stated limit, beside the numbers that are claimed",
        "C does not hold: voids the claims against honest-but-curious server, active server, or clients it mints",
        "An assumption does not hold.",
    ):
        assert line in text
    report["assumptions"] = report["assumptions"][:1]
    assert "An assumption does not hold" not in _page(report).sections["assumptions"]


def test_page_shows_warnings_and_what_is_not_protected(reports: dict[str, Any]) -> None:
    report = reports["central"]
    report["warnings"] = ["delta=0.001 is above a tenth of 1/population."]
    page = _page(report)
    assert "Warning. delta=0.001 is above a tenth" in page.sections["claims"]
    assert "The screen: recommendations shown to a user" in page.sections["assumptions"]


def test_page_shows_the_mechanism_in_plain_words_with_numbers_that_do_not_flatter(reports: dict[str, Any]) -> None:
    mechanism = _page(reports["central"]).sections["mechanism"]
    assert "the server adds the noise to the exact sum" in mechanism
    assert "noise multiplier (noise over clip norm) 0.867986" in mechanism
    assert "sampling rate 0.106045" in mechanism
    assert "largest cohort no cap" in mechanism
    assert "epsilon asked for 8.00" in mechanism
    assert "stand-in: a sum in the open, which hides nothing" in _page(reports["distributed"]).sections["mechanism"]


@pytest.mark.parametrize("name", ["none", "dp-sgd", "dp-ftrl-silo", "central", "dp-ftrl-central", "distributed"])
def test_every_mechanism_of_a_plan_has_plain_words(reports: dict[str, Any], name: str) -> None:
    report = parse_release(reports["central"])
    named = report.model_copy(update={"mechanism": report.mechanism.model_copy(update={"name": name})})
    label, words = protection.mechanism_rows(named)[0]
    assert label == "mechanism" and len(words.split()) > 5


def test_every_number_of_a_mechanism_has_a_label(reports: dict[str, Any]) -> None:
    report = parse_release(reports["central"])
    rows = dict(protection.mechanism_rows(report))
    assert len(rows) == len(report.mechanism.model_dump()) + len(release_names())
    assert rows["noise multiplier of the popularity prior"] == "3"
    assert rows["noise multiplier of the pairs"] == "0: no noised pairs"


def test_page_names_exactly_what_was_released(reports: dict[str, Any]) -> None:
    report = reports["central"]
    identity = _page(report).sections["identity"]
    for key in ("backbone_digest", "catalog_digest", "config_digest", "manifest_digest"):
        assert f"{key.replace('_', ' ')} {report['identity'][key]}" in identity
    assert f"adapter_model.safetensors {'0' * 63}2" in identity
    assert "torch 2.13.0" in identity
    assert "Released: the adapter of round 60" in _page(report).sections[""]


@pytest.mark.parametrize("kind", KINDS)
def test_page_loads_nothing_runs_nothing_and_links_nowhere_outside_itself(reports: dict[str, Any], kind: str) -> None:
    html = render_release(parse_release(reports[kind]))
    page = Page(html)
    policy = [tag for name, tag in page.tags if name == "meta" and tag.get("http-equiv")]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not {name for name, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")]
        assert tag != "a" or str(attributes["href"]).removeprefix("#") in page.sections
    for foreign in ("http:", "https:", "//", "url(", "@import", "javascript:", "report.html", "run.json"):
        assert foreign not in html


@pytest.mark.parametrize("attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }} 1e-5<b>"])
def test_page_escapes_every_text_of_the_report(reports: dict[str, Any], attack: str) -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poisoned(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [poisoned(entry) for entry in value]
        return attack if isinstance(value, str) else value

    report = reports["central"]
    free = ("name", "stamp", "sent", "not_protected", "identity")
    bad = {**report, **{key: poisoned(report[key]) for key in free}, "warnings": [attack]}
    for claim in bad["claims"]:
        claim.update(who=attack, reason=attack, statement=attack, promise=attack, scope=attack)
    bad["assumptions"] = [{**row, "text": attack} for row in report["assumptions"]]
    bad["identity"][attack] = attack
    bad["identity"]["files"][attack] = bad["spending"]["alone"][attack] = 1
    clean_tags = {name for name, _ in _page({**report, "warnings": ["x"]}).tags}
    page = _page(bad)
    assert attack.split()[0] in page.text
    assert {name for name, _ in page.tags} <= clean_tags
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from _paths(inner, (*path, key))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replacement", ["absent", None, math.nan, "text", [], {}])
def test_whatever_part_is_missing_or_of_another_type_there_is_a_page_or_one_line(
    reports: dict[str, Any], kind: str, replacement: object
) -> None:
    report = reports[kind]
    for key in ("epsilon_over_rounds", "delta_curve", "assumptions", "sent", "not_protected"):
        report[key] = report[key][:2]
    refused = 0
    for path in _paths(report):
        damaged = copy.deepcopy(report)
        here = damaged
        for step in path[:-1]:
            here = here[step]
        if replacement == "absent":
            del here[path[-1]]
        else:
            here[path[-1]] = replacement
        try:
            html = render_release(parse_release(damaged))
        except CheckpointError as error:
            assert str(error).startswith("Expected ") and "\n" not in str(error)
            refused += 1
            continue
        assert "Tacit release report" in html
        assert not re.search(r">[^<]*\b(nan|None|inf)\b[^<]*<", html.partition("</style>")[2]), path
    assert refused > 50


def test_write_release_page_puts_the_page_beside_the_report_and_leaves_nothing_else(
    reports: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "release.json").write_text(json.dumps(reports["silo"]), encoding="utf-8")
    (tmp_path / "release.html").write_text("old", encoding="utf-8")
    path = write_release_page(tmp_path)
    assert path == tmp_path / "release.html"
    assert path.read_text(encoding="utf-8") == render_release(parse_release(reports["silo"]))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["release.html", "release.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"schema": "tacit-release-3"}',
            "Expected a whole release.json, got one that is damaged at is_private: Fiel",
        ),
        (
            '{"schema": "tacit-release-1"}',
            "Expected schema == 'tacit-release-3' in release.json, got schema='tacit-release-1'",
        ),
        (None, "Expected a readable release.json in the run directory, got FileNotFoundError. Only a finished run has one"),
        ("{", "Expected release.json to hold JSON, but it does not parse"),
        ("[]", "Expected release.json to hold one object, got list"),
    ],
)
def test_write_release_page_refuses_what_is_no_release_report_and_keeps_the_old_page(
    tmp_path: Path, content: str | None, message: str
) -> None:
    (tmp_path / "release.html").write_text("old", encoding="utf-8")
    if content is not None:
        (tmp_path / "release.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        write_release_page(tmp_path)
    assert str(caught.value).startswith(message)
    assert str(tmp_path) not in str(caught.value)
    assert (tmp_path / "release.html").read_text(encoding="utf-8") == "old"


def test_a_run_of_statistics_alone_shows_its_releases_and_no_rounds(reports: dict[str, dict[str, Any]]) -> None:
    plan = default_plan()
    statement = statement_of(plan, plan.events(), config=RunConfig.from_mapping({"data.public_catalog": True}))
    report = {**reports["silo"], **statement.model_dump(mode="json")}
    report["spending"] = {"alone": {"refinement": 5.75}, "together": statement.epsilon_of_this_run, "rdp_cross_check": None}
    page = _page(report)
    assert "Released: a recommender from statistics alone, without training" in page.sections[""]
    assert page.sections["epsilon"].startswith("Epsilon at other deltas")
    assert "refinement of one of them 1 0.7922 1.58 users 57 %" in page.sections["budget"]
    assert "Target HR@" in page.sections["metrics"]
    assert "for each release the silo clips each unit's contribution" in page.sections["mechanism"]
    for absent in ("Epsilon over rounds", "After round", "sampling rate", "local steps a round", "the rank of its update"):
        assert absent not in page.text, absent
