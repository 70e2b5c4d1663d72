"""The audit's page: what it says first, for a run that passed, that failed, and that promises nothing or too little."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.reporting.audit_page import _VIEWS, GLOSSARY, render_audit, write_audit_page
from shared.audit.document import View
from shared.audit.verification import Verified, parse
from shared.signing import fingerprint, sign
from simulations.audits.printing import browser
from tests import audits

KEY = Ed25519PrivateKey.generate()


def _verified(body: dict[str, Any], *, signer_known: bool = True) -> Verified:
    return Verified(parse(body, name="audit.json"), sign("audit", body, KEY), signer_known)


class _Words(HTMLParser):
    """The text of a page, and what it refers to; an element that is not closed in order is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.references, self.scripts = [""], list[str](), 0
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [str(value) for name, value in attrs if name in ("src", "href", "data", "srcset")]
        self.scripts += tag == "script"
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def _text(page: str) -> str:
    return _Words(page).text


def test_the_first_screen_says_what_was_promised_tried_and_found_who_made_it_and_how_a_person_objects() -> None:
    page = _text(render_audit(_verified(audits.body(contact="privacy@example.org"))))
    first = page[: page.index("Promised outsider") if "Promised outsider" in page else page.index("What this means")]
    assert "AUDIT PASSED" in first and "does not prove the promise" in first
    assert "ε = 8.00" in first and "against: honest-but-curious server" in first
    assert "improves from 1 % to at most 97 %" in first
    assert "with Tacit 0.1.0 · questions to privacy@example.org · signed by" in first
    assert fingerprint(KEY.public_key().public_bytes_raw()) in first  # as `tacit audit key` and `verify` print it
    assert "A person objects, or asks to be forgotten, at privacy@example.org" in page
    assert "It does not take the person out of sums and recommenders that were released before" in page
    assert "The screen: recommendations shown to a user reveal" in page


def test_a_failure_is_the_first_thing_that_is_said() -> None:
    page = _text(render_audit(_verified(audits.body(noise=0.5))))
    assert page.index("AUDIT FAILED") < page.index("less noise than claimed") < page.index("What this means for each person")
    assert "Do not release" in page and "AUDIT PASSED" not in page
    assert "do not count on these promises" in page and "do not count on a bound" in page
    assert 'class="tile"' not in render_audit(_verified(audits.body(noise=0.5))).split("Promised, at most")[0]


def test_a_run_that_promises_nothing_is_not_shown_with_an_epsilon() -> None:
    page = _text(render_audit(_verified(audits.body_without_privacy())))
    assert "AUDIT FAILED" in page and "nothing protects the persons in this run" in page
    assert "ε = 8" not in page and "No attack was made" in page
    assert "Epsilon at each delta" not in page and "nothing to test" not in page


def test_an_epsilon_above_20_never_looks_reassuring() -> None:
    html = render_audit(_verified(audits.body(noise_multiplier=0.2)))
    page = _text(html)
    assert "No meaningful protection." in page and "of little or no use" in page
    assert "promised: " not in html and "no meaningful protection: " in html
    assert 'class="stamp accounted"' not in html and page.count("no meaningful protection") >= 3


def test_the_page_loads_nothing_runs_nothing_and_escapes_what_the_audit_says() -> None:
    body = audits.body(contact='<script>alert("1")</script>')
    page = render_audit(_verified(body))
    found = _Words(page)
    assert found.scripts == 0 and all(reference.startswith("#") for reference in found.references)
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", page)
    assert '<script>alert("1")' not in page and 'alert("1")' in found.text


def test_both_pictures_all_tests_the_power_and_the_glossary_are_on_the_page() -> None:
    html = render_audit(_verified(audits.body()))
    page = _text(html)
    assert html.count("<svg") == 5 and "against outsider" in page and "against honest-but-curious server" in page
    assert all(term in page for term, _ in GLOSSARY)
    assert "What an audit of this size could and could not have refuted" in page
    assert "Epsilon over the run" in page and "Epsilon at each delta" in page and "after release 1: epsilon 8.00" in html
    assert "Which bug which test would have found" in page
    assert "half of the noise less noise than claimed above 99.9 % above 99.9 %" in page
    assert "cohorts of a fixed size accounted as independent coins cohorts vary too little nothing to test" in page
    assert "one contribution, plain 98.0% (93.0% to 99.8%) 2.0%" in page
    assert "compare it with its owner" in _text(render_audit(_verified(audits.body(), signer_known=False)))


@pytest.mark.parametrize("view", get_args(View))
def test_every_way_to_see_a_run_has_its_words_and_its_curve(view: str) -> None:
    body = json.loads(json.dumps(audits.body()).replace('"view": "replies"', f'"view": "{view}"'))
    page = _text(render_audit(_verified(body)))
    assert _VIEWS[view] in page and f"{_VIEWS[view].capitalize()}: against" in page


def test_nodes_that_have_left_are_listed_by_the_end_of_their_logs() -> None:
    left = {"left_at": 1_800_000_000, "contributions": 5, "epsilon": 7.994, "log_head": "ab" * 32}
    body = {**audits.body(), "departures": [left, {**left, "epsilon": None, "log_head": "cd" * 32}]}
    page = _text(render_audit(_verified(body)))
    assert "Nodes that took part and have left" in page
    assert "abababababababab… 2027-01-15 5 8.00" in page and "cdcdcdcdcdcdcdcd… 2027-01-15 5 nothing spent" in page
    assert "Nodes that took part" not in _text(render_audit(_verified(audits.body())))


def test_an_example_shows_one_made_up_person_and_marks_what_was_guessed_right() -> None:
    html = render_audit(_verified(audits.body()))
    assert "One made-up person, attacked each time" in _text(html)
    assert "one contribution, plain 2 of 3 3, 7, 41 3 , 8, 41" in _text(html) and "<strong>41</strong>" in html
    assert _text(html).count("a plain sum of 10: the union of their items") == 1


def test_chromium_shows_the_whole_page(tmp_path: Path) -> None:
    """Opened as a person would; skipped where no Chromium is installed."""
    program = browser()
    if program is None:
        pytest.skip("Chromium is not installed")
    page = write_audit_page(tmp_path, _verified(audits.body()))
    assert page.name == "audit.html"
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    picture = tmp_path / "page.png"
    subprocess.run(
        [*command, "--window-size=1200,2600", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert picture.stat().st_size > 50_000


def test_adversaries_against_whom_nothing_is_promised_stand_first_among_what_is_not_protected() -> None:
    page = _text(render_audit(_verified(audits.body())))
    begin = page.index("Not protected")
    assert page.index("Against active server, or clients it mints nothing is promised") < page.index(
        "The client itself", begin
    )
    assert "Against outsider with every released adapter nothing is promised" not in page


def test_a_run_that_promises_nothing_is_not_said_to_be_attacked_or_bounded() -> None:
    page = _text(render_audit(_verified(audits.body_without_privacy())))
    assert "Nothing: there is no promise that an attack could be held against" in page
    assert "guessed the coins" not in page and "The promises above bound" not in page
    assert "a run that promises nothing always fails" in page and "No test was made." in page


def test_what_is_on_paper_says_how_many_tests_and_records_there_are_and_what_they_cannot_show() -> None:
    """Tables that are folded away are not printed."""
    page = _text(re.sub(r"<details.*?</details>", "", render_audit(_verified(audits.body())), flags=re.DOTALL))
    assert "tests were made, none failed." in page and "3 records, the last with the hash" in page
    assert "What this report cannot show" in page and "An author can audit a run again" in page


def test_a_plan_in_the_log_that_the_audit_did_not_follow_is_said() -> None:
    body = audits.body()
    other = {"number": 0, "previous": "0" * 64, "body": {"kind": "run", "event": "audit_planned", "audit": "00" * 32}}
    assert "a plan that this audit did not follow" not in _text(render_audit(_verified(body)))
    page = _text(render_audit(_verified({**body, "records": [other, *body["records"]]})))
    assert "The run's log holds the digest of a plan that this audit did not follow." in page


def test_guesses_that_prove_nothing_are_said_to_prove_nothing_and_what_they_could_prove_stands_first() -> None:
    page = _text(render_audit(_verified(audits.body(power=0.0, canaries=40))))
    first = page[: page.index("What this means for each person")]
    assert "Proved by attacks, at least nothing guesses that are all right would prove 2." in first
    assert "This proves nothing; promised is at most 8.00" in page and "at least 0.00" not in page
