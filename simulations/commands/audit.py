"""`tacit audit`: attacks on a run's own protocol, and the signed document about them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.command_line.output import Json, print_json
from simulations.commands.options import Quiet

if TYPE_CHECKING:
    from shared.signing import Signed

app = typer.Typer(
    help="Attack a run's own protocol, and write or verify a signed report: the bound beside what attacks achieved.",
    no_args_is_help=True,
    suggest_commands=False,
)
# A lower bound exceeds what is claimed, or a probe failed.
_EXCEEDED = 3
# Logs of two ends do not say the same.
_DIFFERENT = 1
_HOME = Path("~/.tacit/audit")
# Some 1,100 are out: enough to measure what is found at 1 % of false alarms, which takes ten of them.
CANARIES = 2200

RunDir = Annotated[Path, typer.Argument(help="A folder written by simulate.")]
File = Annotated[Path, typer.Argument(help="An audit.json.")]
Home = Annotated[Path, typer.Option("--home", help="Folder of the key that signs.")]


@app.command("run")
def run(
    run_dir: RunDir,
    canaries: Annotated[
        int, typer.Option(min=10, max=5000, help="Made-up users to plant; fewer where there is no room.")
    ] = CANARIES,
    contact: Annotated[str, typer.Option(help="Who answers questions about the audit and about deletion.")] = "",
    shadow_runs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Copies of the run from which membership inference learns, an even number; 0 leaves the attack out. "
            "Default: one copy is attacked, without shadow runs.",
        ),
    ] = None,
    home: Home = _HOME,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Audit a finished run with a twin that holds canaries; writes audit.json, audit.html and audit-research.html.

    Ends with status 3 where a lower bound exceeds its claim or a test fails, so that a release can be held back.
    """
    signed = audit_run(
        run_dir,
        canaries=canaries,
        contact=contact,
        shadow_runs=shadow_runs,
        home=home,
        quiet=json or quiet,
        shown=not json,
    )
    if json:
        print_json({"file": str(run_dir / "audit.json"), **signed.body["results"]})
    leave_unless_passed(signed.body["results"]["verdict"])


def audit_run(
    run_dir: Path,
    *,
    quiet: bool,
    shown: bool = True,
    canaries: int = CANARIES,
    contact: str = "",
    shadow_runs: int | None = None,
    home: Path = _HOME,
) -> Signed:
    """Audits a finished run, writes file and page, and prints what was found."""
    from server.reporting.release_page import write_release_page
    from server.reporting.research_page import research_records, write_research_page
    from simulations.audits.audit import AUDIT, audit
    from simulations.audits.display import print_audit, print_research, progress
    from simulations.audits.signing_key import opened_or_made

    key = opened_or_made(home)
    with progress(silent=quiet) as say:
        signed = audit(run_dir, key=key, canaries=canaries, contact=contact, shadow_runs=shadow_runs, say=say)
    write_release_page(run_dir)  # which links to it
    records = research_records(run_dir)
    write_research_page(run_dir, signed.body["name"], records)
    if shown:
        print_audit(signed, run_dir / AUDIT)
        print_research(records)
    return signed


@app.command("verify")
def verify(
    file: File,
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="Whose signature it must bear: 64 hexadecimal digits, or a file.")
    ] = None,
    countersignature: Annotated[
        Path | None, typer.Option(help="A file of `tacit audit countersign` that must be under this audit.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify an audit offline: signature, chain, every epsilon from the events, every bound from the scores.

    Ends with status 1 where anything differs, and with 3 where all is intact and a lower bound exceeds its claim.
    """
    from shared.audit.verification import verify as verify_file
    from shared.audit.verification import verify_countersignature
    from shared.signing import fingerprint
    from simulations.audits.signing_key import public_key_of

    found = verify_file(file, public_key=None if public_key is None else public_key_of(public_key))
    third = None if countersignature is None else verify_countersignature(countersignature, found).signer
    signer = fingerprint(found.signed.signer)
    said = f"intact; signed by {signer}, the key that you named" if found.signer_known else "intact; signer unknown"
    verdict = found.document.results.verdict
    if json:
        print_json(
            {
                "intact": True,
                "signer": found.signed.signer.hex(),
                "signer_known": found.signer_known,
                "countersigner": None if third is None else third.hex(),
                "verdict": verdict,
                "failures": list(found.document.results.failures),
            }
        )
    else:
        under = "" if third is None else f"; countersigned by {fingerprint(third)}"
        print(f"{file.name}: {said}{under}. Verdict: {verdict}.")  # noqa: T201
        for failure in found.document.results.failures:
            print(f"  {failure}")  # noqa: T201
    leave_unless_passed(verdict)


@app.command("countersign")
def countersign(
    file: File,
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="The author's: 64 hexadecimal digits, or a file.")
    ] = None,
    home: Home = _HOME,
    json: Json = False,
) -> None:
    """Verify an audit and sign it as a third party; writes NAME.countersigned.json beside it.

    The signature says that you saw this document, not that you repeated the audit.
    """
    import datetime

    from shared.audit.verification import countersign as sign_file
    from shared.audit.verification import verify as verify_file
    from shared.signing import fingerprint
    from simulations.audits.signing_key import opened_or_made, public_key_of

    found = verify_file(file, public_key=None if public_key is None else public_key_of(public_key))
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    signed = sign_file(found, opened_or_made(home), at=at)
    path = file.with_name(f"{file.stem}.countersigned.json")
    signed.write(path)
    if json:
        print_json({"countersignature": str(path), "signer": signed.signer.hex(), "digest": found.signed.digest})
    else:
        print(f"Wrote {path}, signed by {fingerprint(signed.signer)}")  # noqa: T201


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="An audit.json.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    json: Json = False,
) -> None:
    """Verify two audits and put them side by side: claims, bounds, estimates, verdicts."""
    from shared.audit.verification import verify as verify_file
    from simulations.audits.display import compared, print_comparison

    rows = compared(*(verify_file(file).document for file in (first, second)))
    if json:
        print_json({name: {"first": one, "second": other} for name, one, other in rows})
    else:
        print_comparison(rows)


@app.command("report")
def report(
    run_dir: RunDir,
    public_key: Annotated[
        str | None, typer.Option("--public-key", help="Whose signature it must bear: 64 hexadecimal digits, or a file.")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print the page to audit.pdf too; needs Chromium.")] = False,
    json: Json = False,
) -> None:
    """Verify audit.json of a run, and render audit.html beside it: one page that loads nothing."""
    from server.reporting.audit_page import write_audit_page
    from shared.audit.verification import verify as verify_file
    from simulations.audits.audit import AUDIT
    from simulations.audits.printing import printed
    from simulations.audits.signing_key import public_key_of

    found = verify_file(run_dir / AUDIT, public_key=None if public_key is None else public_key_of(public_key))
    pages = [write_audit_page(run_dir, found)]
    if pdf:
        pages.append(printed(pages[0]))
    if json:
        print_json({"files": [str(page) for page in pages], "verdict": found.document.results.verdict})
    else:
        print(f"Wrote {', '.join(map(str, pages))}")  # noqa: T201


@app.command("reconcile")
def reconcile(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a deployment's run, on the server.")],
    node_logs: Annotated[list[Path], typer.Argument(help="decisions.jsonl of nodes.")],
    json: Json = False,
) -> None:
    """Compare logs of nodes with the server's, offline: is what each node sent what the server received and used?

    Ends with status 1 where the two differ, or where the server's log does not hold a contribution.
    """
    from simulations.audits.reconciliation import CANNOT_PROVE
    from simulations.audits.reconciliation import reconcile as compare_logs

    found = compare_logs(run_dir, node_logs)
    if json:
        print_json(found.as_json())
    else:
        for row in found.rows:
            print(f"{row.node}: {row.request}: {row.state}. {row.why}")  # noqa: T201
        for request, number in found.of_others.items():
            print(f"{request}: {number} replies of nodes whose logs were not given, or do not hold them.")  # noqa: T201
        print("What these logs cannot prove:")  # noqa: T201
        for sentence in CANNOT_PROVE:
            print(f"  {sentence}")  # noqa: T201
    if not found.agrees:
        print("tacit: The logs of nodes and server differ.", file=sys.stderr)  # noqa: T201
        raise SystemExit(_DIFFERENT)


@app.command("key")
def key(
    home: Home = _HOME,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new key; the old one is kept beside it.")] = False,
    json: Json = False,
) -> None:
    """Print the public key that signs audits; the first call makes it. TACIT_AUDIT_PASSPHRASE encrypts its file."""
    from shared.signing import fingerprint
    from simulations.audits.signing_key import opened_or_made, rotated

    public = (rotated(home) if rotate else opened_or_made(home)).public_key().public_bytes_raw()
    if json:
        print_json({"public_key": public.hex(), "fingerprint": fingerprint(public)})
    else:
        print(f"{public.hex()}  fingerprint {fingerprint(public)}")  # noqa: T201


def leave_unless_passed(verdict: str) -> None:
    """Ends with a status of its own where an audit failed."""
    if verdict != "passed":
        print("tacit: The audit failed.", file=sys.stderr)  # noqa: T201
        raise SystemExit(_EXCEEDED)
