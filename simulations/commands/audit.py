"""`tacit audit`: attacks on a run's own protocol, and the signed document about them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.command_line.output import Json, print_json
from simulations.commands.options import Quiet

app = typer.Typer(
    help="Attack a run's own protocol, and write or verify a signed report: the bound beside what attacks achieved.",
    no_args_is_help=True,
    suggest_commands=False,
)
# A lower bound exceeds what is claimed, or a probe failed.
_EXCEEDED = 3
_HOME = Path("~/.tacit/audit")

RunDir = Annotated[Path, typer.Argument(help="A folder written by simulate.")]
File = Annotated[Path, typer.Argument(help="An audit.json.")]
Home = Annotated[Path, typer.Option("--home", help="Folder of the key that signs.")]


@app.command("run")
def run(
    run_dir: RunDir,
    canaries: Annotated[int, typer.Option(min=10, help="Made-up users to plant; fewer where there is no room.")] = 2000,
    contact: Annotated[str, typer.Option(help="Who answers questions about the audit and about deletion.")] = "",
    home: Home = _HOME,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Audit a finished run with a twin that holds canaries; writes audit.json and audit.html.

    Ends with status 3 where a lower bound exceeds its claim or a test fails, so that a release can be held back.
    """
    from server.reporting.audit_page import write_audit_page
    from shared.audit.verification import verify as verify_file
    from simulations.audits.audit import AUDIT, audit
    from simulations.audits.display import print_audit, progress
    from simulations.audits.signing_key import opened_or_made

    key = opened_or_made(home)
    with progress(silent=json or quiet) as say:
        signed = audit(run_dir, key=key, canaries=canaries, contact=contact, say=say)
    write_audit_page(run_dir, verify_file(run_dir / AUDIT, public_key=signed.signer))
    results = signed.body["results"]
    if json:
        print_json({"file": str(run_dir / AUDIT), "verdict": results["verdict"], **results})
    else:
        print_audit(signed, run_dir / AUDIT)
    _leave(results["verdict"])


@app.command("verify")
def verify(
    file: File,
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="Whose signature it must bear: 64 hexadecimal digits, or a file.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify an audit offline: signature, chain, every epsilon from the events, every bound from the scores.

    Ends with status 1 where anything differs, and with 3 where all is intact and a lower bound exceeds its claim.
    """
    from shared.audit.verification import verify as verify_file
    from simulations.audits.signing_key import fingerprint, public_key_of

    found = verify_file(file, public_key=None if public_key is None else public_key_of(public_key))
    signer = fingerprint(found.signed.signer)
    said = f"intact; signed by {signer}, the key that you named" if found.signer_known else "intact; signer unknown"
    verdict = found.document.results.verdict
    if json:
        print_json(
            {
                "intact": True,
                "signer": found.signed.signer.hex(),
                "signer_known": found.signer_known,
                "verdict": verdict,
                "failures": list(found.document.results.failures),
            }
        )
    else:
        print(f"{file.name}: {said}. Verdict: {verdict}.")  # noqa: T201
        for failure in found.document.results.failures:
            print(f"  {failure}")  # noqa: T201
    _leave(verdict)


@app.command("report")
def report(
    run_dir: RunDir,
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="Whose signature it must bear: 64 hexadecimal digits, or a file.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify audit.json of a run, and render audit.html beside it: one page that loads nothing."""
    from server.reporting.audit_page import write_audit_page
    from shared.audit.verification import verify as verify_file
    from simulations.audits.audit import AUDIT
    from simulations.audits.signing_key import public_key_of

    found = verify_file(run_dir / AUDIT, public_key=None if public_key is None else public_key_of(public_key))
    page = write_audit_page(run_dir, found)
    if json:
        print_json({"audit": str(page), "verdict": found.document.results.verdict})
    else:
        print(f"Wrote {page}")  # noqa: T201


@app.command("key")
def key(
    home: Home = _HOME,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new key; the old one is kept beside it.")] = False,
    json: Json = False,
) -> None:
    """Print the public key that signs audits; the first call makes it. TACIT_AUDIT_PASSPHRASE encrypts its file."""
    from simulations.audits.signing_key import fingerprint, opened_or_made, rotated

    public = (rotated(home) if rotate else opened_or_made(home)).public_key().public_bytes_raw()
    if json:
        print_json({"public_key": public.hex(), "fingerprint": fingerprint(public)})
    else:
        print(f"{public.hex()}  fingerprint {fingerprint(public)}")  # noqa: T201


def _leave(verdict: str) -> None:
    if verdict != "passed":
        print("tacit: The audit failed.", file=sys.stderr)  # noqa: T201
        raise SystemExit(_EXCEEDED)
