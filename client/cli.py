"""`tacit node`: mounts what a node's owner can do; the root command line mounts this.

Nothing heavy is imported at the top. What never lives here: a command (`commands/`), and anything that a server could call.
"""

from __future__ import annotations

import typer

from client.commands import budget, data, provisioning, running

app = typer.Typer(name="node", help="Run a node of your own.", no_args_is_help=True, suggest_commands=False)
app.add_typer(budget.app, name="budget")
for command in (
    *(provisioning.request, provisioning.install),
    *(data.ingest, data.data, data.forget, data.prune, data.serve),
    *(running.start, running.approve, running.status, running.preflight),
    *(running.recommend, running.rollback, running.leave),
):
    app.command()(command)
