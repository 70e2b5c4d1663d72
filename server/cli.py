"""`tacit server`: mounts what an operator can do; the root command line mounts this.

Nothing heavy is imported at the top. What never lives here: a command (`commands/`).
"""

from __future__ import annotations

import typer

from server.commands import provisioning, running

app = typer.Typer(name="server", help="Run the server of a federation.", no_args_is_help=True, suggest_commands=False)
for command in (
    *(
        provisioning.init,
        provisioning.approve,
        provisioning.renew,
        provisioning.revoke,
        provisioning.left,
        provisioning.nodes,
    ),
    *(running.publish, running.start, running.propose, running.run),
    *(running.status, running.preflight, running.stop, running.logs),
):
    app.command()(command)
