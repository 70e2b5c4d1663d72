"""Who writes an epsilon as text: `shared/wording.py` alone, which rounds it up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("shared", "client", "server", "simulations")
WORDING = "shared/wording.py"

# What names a bound, or what was spent of a budget.
_BOUND = re.compile(r"epsilon|\beps\b|spent\b|spending|remaining|\.guess\b|\bbound\b", re.IGNORECASE)
_ROUNDS = re.compile(r"[efgEFG%n]$|\.\d")

# File -> expressions that may be written there by themselves: settings that are echoed as they were given, no result.
ALLOWED: dict[str, set[str]] = {
    "shared/config/checks.py": {"_LARGEST_EPSILON", "config.privacy.epsilon"},
    "shared/privacy/accounting.py": {"target_epsilon"},
    "shared/privacy/calibration.py": {"_LARGEST_SAMPLED_EPSILON", "plan.target_epsilon"},
    "shared/privacy/claims.py": {"LARGEST_MEANINGFUL_EPSILON"},
    "shared/privacy/division.py": {"plan.target_epsilon"},
    "server/continuing.py": {"self.config.privacy.epsilon", "config.privacy.epsilon"},
    "server/run_budget.py": {"self._plan.target_epsilon"},
    "simulations/benchmarks/accounting_cost.py": {"epsilon(known, delta=_DELTA)"},
    "simulations/frontier.py": {"epsilon"},
}


def _written_by_hand(source: str) -> Iterator[tuple[int, str]]:
    """Line and expression of every bound that is formatted or rounded: f-strings, format, str.format, %, round."""
    for node in ast.walk(ast.parse(source)):
        found: list[ast.expr] = []
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec = "".join(part.value if isinstance(part, ast.Constant) else ".0" for part in node.format_spec.values)  # type: ignore[attr-defined]
            found = [node.value] if _ROUNDS.search(spec) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("round", "format"):
            found = node.args[:1]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            found = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            found = [node.right] if isinstance(node.left.value, str) else []
        for expression in found:
            text = ast.unparse(expression)
            if _BOUND.search(text) and "wording." not in text:
                yield node.lineno, text


def test_no_other_file_writes_an_epsilon_by_hand() -> None:
    wrong, used = [], set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for line, text in _written_by_hand(path.read_text(encoding="utf-8")) if name != WORDING else ():
                if text in ALLOWED.get(name, set()):
                    used.add((name, text))
                else:
                    wrong.append(f"{name}:{line}: {text}")
    assert not wrong, "use epsilon_text, at_most, at_least or asked_text of shared/wording.py"
    assert used == {(name, text) for name, texts in ALLOWED.items() for text in texts}, "take these off the list"


def test_no_page_rounds_a_number_itself() -> None:
    pages = [*(ROOT / "server").rglob("*.html"), *(ROOT / "server").rglob("*_template.py")]
    assert len(pages) == 6
    for path in sorted(pages):
        filters = re.findall(r"\{\{[^}]*(?:\|\s*(?:round|format)|%\s*\()[^}]*\}\}", path.read_text(encoding="utf-8"))
        assert not filters, path.name


def test_every_way_to_write_an_epsilon_by_hand_is_seen() -> None:
    """The negative control."""
    for source in (
        'f"{epsilon:.2f}"', 'f"{run.epsilon_spent:.{digits}f}"', "round(self.epsilon, 2)", "format(epsilon, '.2f')",
        '"{:.2f}".format(epsilon)', '"%.2f" % epsilon', 'f"{row[\'epsilon\']:g}"', 'f"{spent:,.1f}"',
    ):  # fmt: skip
        assert list(_written_by_hand(source)), source
    for source in (
        'f"{wording.at_most(epsilon)}"',
        'f"{epsilon_text(epsilon):>8}"',
        'f"{name}: {epsilon}"',
        'f"{loss:.2f}"',
    ):
        assert not list(_written_by_hand(source)), source
