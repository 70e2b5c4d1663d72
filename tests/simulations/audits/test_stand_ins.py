"""Audits of a deployment's runs, whose server has nobody's interactions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import shared.randomness
from client.node.leaving import leave
from server.provisioning import departures
from shared.audit.verification import verify
from shared.run_folder import load_catalog
from simulations.audits.attributes import ATTRIBUTES
from simulations.audits.audit import AUDIT, audit
from simulations.audits.stand_ins import departures_from, of_deployment, stand_ins
from tests.one_process import OneProcess, one_process

RUN = {"statistics.releases": "pairs", "federation.rounds": 1, "federation.timeout_seconds": 1}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Iterator[OneProcess]:
    with one_process(tmp_path_factory.mktemp("nodes"), tiny_bert, 3) as made:
        assert made.run("run", **RUN).state == "finished"
        yield made


def test_a_deployments_run_is_audited_with_made_up_users_and_says_what_only_nodes_could_try(
    federation: OneProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(6).bytes)
    run_dir = federation.server.runs / "run"
    home = federation.nodes[2]
    statement = leave(home, wipe=False, now=1_800_000_000)
    departures.take(federation.server, Path(statement["statement"]))
    spent = {node.path.name: federation.spent(node) for node in federation.nodes}

    signed = audit(run_dir, key=Ed25519PrivateKey.generate(), canaries=100)
    assert verify(run_dir / AUDIT, public_key=signed.signer).document.departures
    body = signed.body
    assert body["results"]["verdict"] == "passed", body["results"]["failures"]
    assert {one["purpose"] for one in body["evidence"]["releases"]} >= {"popularity", "pairs", "train", "test"}
    assert body["protocol"]["canaries"] == 100
    skipped = {one["attack"] for one in body["skipped"]}
    assert {"attacks that read real users", "whether ledgers were charged"} <= skipped
    assert not (run_dir / ATTRIBUTES).exists()
    # Nobody is asked and nobody's ledger is charged.
    assert spent == {node.path.name: federation.spent(node) for node in federation.nodes}
    # A node that has left is listed by what it signed, and not by its name.
    (left,) = body["departures"]
    assert left == {
        "left_at": 1_800_000_000,
        "contributions": next(one["contributions"] for one in statement["runs"]),
        "epsilon": statement["epsilon"],
        "log_head": statement["log_head"],
    }
    assert left["contributions"] >= 4
    assert home.path.name not in (run_dir / AUDIT).read_text()


def test_made_up_users_are_as_many_as_the_run_file_declares(federation: OneProcess, tmp_path: Path) -> None:
    run_dir = federation.server.runs / "run"
    run = of_deployment(run_dir)
    assert run is not None
    made = stand_ins(run, run_dir, tmp_path / "population")
    assert (made.size, made.num_clients, made.num_users) == (run.size, 3, run.size.users)
    assert made.catalog.digest == load_catalog(run_dir).digest
    again = stand_ins(run, run_dir, tmp_path / "again")
    assert again.parts == made.parts
    assert departures_from(run, tmp_path / "runs" / "elsewhere") == ()


def test_the_folder_of_a_simulation_is_no_deployments(tmp_path: Path) -> None:
    assert of_deployment(tmp_path) is None
