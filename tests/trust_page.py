"""Writes docs/trust.md from what the tests measured: `python tests/trust_page.py MEASURED`.

The tests append rows to the file that MDISTILL_MEASURED names (fixture `trust`); `make trust` names one and says which. The newest row per test number, quantity and test stands;
rows of tests that no longer exist are left out.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent.parent
PAGE = HOME / "docs" / "trust.md"

TESTS = {
    "T1": "Forces equal central differences of the energy",
    "T2": "Stress equals the energy's response to strain; a compressed crystal has positive pressure; Voigt order",
    "T3": "Rotation, reflection, permutation, translation and wrapping change nothing but what they must",
    "T4": "A batch equals its members one by one; empty neighbour sets, single and isolated atoms",
    "T5": "Neighbour list against counting every image of every pair",
    "T6": "Neighbour list with a skin against a fresh list along hot dynamics",
    "T7": "Compiled kernels and exported engines against the torch reference",
    "T8": "GPU against CPU",
    "T9": "Energy, force and its slope go smoothly to zero at the cutoff; extensive; local",
    "T10": "Each teacher against its own ASE calculator",
    "T11": "Every pair repels at short range: one wall, no second minimum",
    "T12": "Same seed, same bits; other seeds, uncorrelated noise; streams do not depend on the batch",
    "T13": "Velocity Verlet: second order, reversible",
    "T14": "Thermostats: mean, width and shape of the kinetic energy; equipartition by element and axis",
    "T15": "Barostats: ideal gas volume and its fluctuation; a cubic crystal stays cubic; density against ASE",
    "T16": "Energy drift of a student in NVE",
    "T17": "Restarted dynamics equal uninterrupted dynamics",
    "T18": "Resumed training equals uninterrupted training",
    "T19": "After any resume the frames are consecutive and none comes twice",
    "T20": "A stage reads only its inputs; nothing changed, nothing done; one setting changed, only what follows is redone",
    "T21": "Model files of every released format load and give their stored energies; newer formats are refused",
    "T22": "Diffusivity of walks with known D: bias, and coverage of the 95 % interval",
    "T23": "Published trajectories: diffusivities beside those of kinisi called directly",
    "T24": "Wrapped trajectories are recognised; a breathing cell makes no diffusion",
    "T25": "No hops: below detection, with an upper limit; one hop: a wide interval",
    "T26": "RDF against freud; ideal gas tends to one",
    "T27": "Arrhenius fit of a known activation energy: coverage of the interval",
    "T28": "A deliberately bad student fails each gate, a good one none; exit statuses are distinct",
    "T29": "The report holds the numbers of results.json, opens offline and asks the network for nothing",
    "T30": "Bad structures are refused with file, value, what is allowed and what to do",
    "T31": "Bad settings are refused likewise",
    "T32": "Bad model files are refused and run no code",
    "T33": "Mutated files raise only errors of our own",
    "T34": "Killed at any moment, what is on disk can be read and the run resumes to the same result",
    "T35": "Ctrl-C, SIGTERM, SIGUSR1 and time limits: saved, right exit status, resume line printed",
    "T36": "Disk full or folder read-only: the old file is intact, the message says so, the run resumes",
    "T37": "A teacher that raises, hangs, or answers NaN or nonsense: frame set aside, run stopped beyond 5 %",
    "T38": "Two processes on one run folder; locks left by a crash",
    "T39": "Altered or missing output is noticed before a resume",
    "T40": "Downloads that are cut, wrong or blocked leave no bad file behind",
    "T41": "Soak: memory and open files stay constant over long runs",
    "T42": "Load: large systems and data sets within the resources announced",
    "T43": "Matrix of Python versions, dependencies, systems and locales",
    "T44": "Commands of the README, examples and help texts run as printed",
    "T45": "End to end on crystals never seen: diffusivity and structure against the teacher's own dynamics",
    "T46": "No network in import or tests; no write outside run folder and cache",
    "T47": "Static checks, licences, wheel without pickle, offline build",
    "A": "Attacks (`tests/attack`): altered files, kills, mutated structures, nonsense flags: nothing silent, no traceback, no signal",
    "G": "A simulation that blows up is stopped at once, with the step and the reason; frames before it are kept",
    "S": "Long strides: symplectic, reversible; momentum and energy stay; the right temperature though each stride errs",
    "K": "Calculator contract: results are fresh copies and do not depend on the order of questions",
}
RUNGS = {
    "potential": "validation pending",
    "direct": "experimental",
    "stride": "experimental",
    "transport": "experimental",
}
INTRODUCTION = """# Trust

What is tested, what is required, and what was measured. The tests write this page (`make trust`); nobody edits it.
Each physics test is also run on a bug planted on purpose, and must fail there: these are listed as ✓ caught.
"""


def newest_rows(record: Path, home: Path = HOME) -> list[dict[str, Any]]:
    """The newest row per (test, quantity, node), of tests that still exist; a torn last line is passed over."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else []:
        try:
            row = json.loads(line)
            rows[row["test"], row["quantity"], row["node"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return [row for row in rows.values() if exists(row["node"], home)]


def exists(node: str, home: Path) -> bool:
    """Whether a pytest node (file::function[parameters]) is still in the file."""
    file, _, rest = node.partition("::")
    name = rest.rpartition("::")[2].partition("[")[0]
    path = home / file
    return (
        path.is_file() and re.search(rf"^\s*def {re.escape(name)}\(", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )


def page(rows: list[dict[str, Any]]) -> str:
    """The whole page as Markdown."""
    known = sorted({row["test"] for row in rows} | set(TESTS), key=order)
    covered = [name for name in known if any(row["test"] == name for row in rows)]
    missing = [name for name in known if name not in covered]
    numbered = sum(name.startswith("T") for name in covered)
    planted = sum(bool(row["planted"]) for row in rows)
    parts = [
        INTRODUCTION,
        "| rung | life cycle |\n|---|---|\n" + "".join(f"| `{rung}` | {tag} |\n" for rung, tag in RUNGS.items()),
    ]
    parts.append(
        f"{numbered} of {sum(name.startswith('T') for name in TESTS)} tests are here; {planted} planted bugs were caught.\n"
    )
    parts += [section(name, [row for row in rows if row["test"] == name]) for name in covered]
    if missing:
        why = {"T8": "written; no GPU was at hand"}
        absent = "".join(f"| {name} | {TESTS[name]} | {why.get(name, 'arrives with its room')} |\n" for name in missing)
        parts.append(f"## Not here yet\n\n| # | test | |\n|---|---|---|\n{absent}")
    return "\n".join(parts)


def order(name: str) -> tuple[bool, int, str]:
    """T1 … T47, then the rest."""
    number = name[1:] if name.startswith("T") else ""
    return not number.isdigit(), int(number) if number.isdigit() else 0, name


def section(name: str, rows: list[dict[str, Any]]) -> str:
    """One test: its measured quantities and the planted bugs it caught."""
    measured = sorted((row for row in rows if not row["planted"]), key=lambda row: str(row["quantity"]))
    caught = sorted({str(row["quantity"]) for row in rows if row["planted"]})
    lines = [f"## {name} · {TESTS.get(name, '')}\n", "| quantity | required | measured |", "|---|---|---|"]
    lines += [f"| {cell(row['quantity'])} | {cell(row['required'])} | {cell(row['measured'])} |" for row in measured]
    lines += [f"\n✓ caught: {'; '.join(cell(bug) for bug in caught)}"] if caught else []
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """Numbers with three significant digits; text so that it cannot break the table."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = newest_rows(Path(sys.argv[1]))
    PAGE.write_text(page(rows), encoding="utf-8")
    print(f"{PAGE.relative_to(HOME)}: {len(rows)} rows")


if __name__ == "__main__":
    main()
