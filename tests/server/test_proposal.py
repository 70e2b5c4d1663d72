"""A proposal: across devices every client masks its contributions, or the server adds the noise and owners read why."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.home import ServerHome
from server.proposal import proposal_of
from server.runs import publish_facts
from shared.errors import ConfigError
from shared.privacy.statement import statement_of
from shared.run_file import RunFile

HEAD = '[proposal]\nname = "autumn"\npurpose = "Recommend films"\n[data]\npublic_catalog = true\n'
NOW = 1_800_000_000


def _proposed(home: ServerHome, folder: Path, backbone: str, *, nodes: int, more: str = "") -> RunFile:
    (folder / "items.csv").write_text("item,text\n" + "\n".join(f"i{n},w{n} w{n + 1}" for n in range(12)))
    publish_facts(home, folder / "items.csv", users=nodes, nodes=nodes)
    toml = folder / "federation.toml"
    toml.write_text(f'{HEAD}[federation]\nclients = 0\n[model]\nbackbone = "{backbone}"\n{more}')
    return proposal_of(home, toml, now=NOW)


def test_across_devices_contributions_are_masked_and_the_claim_is_against_the_server(
    server_home: ServerHome, tmp_path: Path, tiny_bert: str
) -> None:
    run = _proposed(server_home, tmp_path, tiny_bert, nodes=40)
    assert (run.plan.mechanism, run.plan.masks_contributions, run.plan.adversary) == ("distributed", True, "server")
    statement = statement_of(run.plan, run.plan.events(), config=run.config)
    assert {claim.adversary for claim in statement.claims if claim.protected} == {"outsider", "server", "colluding-clients"}
    assert not any("has to be trusted" in text for text in statement.warnings)


def test_too_few_nodes_for_secure_sums_get_a_trusted_server_and_the_reason(
    server_home: ServerHome, tmp_path: Path, tiny_bert: str
) -> None:
    run = _proposed(server_home, tmp_path, tiny_bert, nodes=2)
    assert (run.plan.mechanism, run.plan.secure_aggregation) == ("central", "none")
    (said,) = [text for text in statement_of(run.plan, run.plan.events(), config=run.config).warnings if "trusted" in text]
    assert "Expected num_clients in [3, 10000], got num_clients=2" in said


def test_sums_in_the_open_are_for_simulations(server_home: ServerHome, tmp_path: Path, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"^Expected secure_aggregation\.simulate=full in a deployment, got sum\."):
        _proposed(server_home, tmp_path, tiny_bert, nodes=40, more='[secure_aggregation]\nsimulate = "sum"\n')
