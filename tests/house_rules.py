"""The house rules no linter knows: lengths, forbidden names, no folder inside a room, no circle of imports. Run by `make lint`."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "mdistill"
MAX_FILE, MAX_FUNCTION, MAX_ROOM = 400, 60, 3000
MAX_OF_ROOM = {"workflows": 2000}
FORBIDDEN = ("utils", "helpers", "misc")
FORGOTTEN = """
    SplineNet SplineSettings CompiledSpline SplineKernel CompositionNet CompositionSettings Composed DirectStrideNet StrideNetSettings
    AttentionStrideNet StrideAttentionSettings Flight DirectMap EnergyKept Tally LastLayerDoubt set_strength strengthen ActionNet
    ActionSettings StrideNet force_cap save_every_fs warm_start
"""
"""Names that the code no longer has; they stand in files of old formats and in `research/` alone."""
GONE = """
    workflows/run workflows/models workflows/label workflows/segments workflows/measurements workflows/judge_stride workflows/strength
    workflows/validate workflows/replay workflows/transport workflows/simulate io/results simulation/record
    simulation/kept simulation/tally simulation/flight simulation/composed simulation/strides simulation/start simulation/engines
    simulation/evaluate nets/spline nets/moments nets/composition nets/stride nets/stride_attention nets/doubt data/screen
    commands/parse kernels/library kernels/spline kernels/strides training/checkpoint training/products training/contacts
    training/doubt workflows/refine transport/make_set transport/trajectory_job
    workflows/screen transport/read transport/tables transport/motion_tables
"""
"""Modules that are called otherwise today."""
READ = ("src/**/*", "tests/**/*.py", "docs/**/*", "benchmarks/**/*.py", "examples/**/*", "*.md", "*.toml", "Makefile")
NOT_READ = (
    "tests/golden/",
    "tests/house_rules.py",
    "tests/unit/test_house_rules.py",
    "src/mdistill/runs/earlier.py",
    "docs/_build/",
)
TEXT = (".py", ".md", ".toml", ".hpp", ".cpp", ".cu", ".html", ".css", ".rst", ".txt", "")


def complaints(path: Path) -> list[str]:
    """What one source file does against the rules."""
    text = path.read_text(encoding="utf-8")
    found = [f"{path}: name {path.stem!r} says nothing"] if path.stem in FORBIDDEN else []
    if (length := text.count("\n")) > MAX_FILE:
        found.append(f"{path}: {length} lines, at most {MAX_FILE}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION}")
        if isinstance(node, ast.ClassDef) and (node.name.startswith("Base") or node.name.endswith("Manager")):
            found.append(f"{path}:{node.lineno}: class name {node.name!r}")
        if isinstance(node, ast.Call) and (name := _dotted(node.func)) in (
            "torch.load",
            "torch.save",
            "eval",
            "exec",
            "pickle.load",
            "np.load",
        ):
            found.append(f"{path}:{node.lineno}: calls {name}")
    return found


def crowded() -> list[str]:
    """Rooms with more lines of Python than a room may have."""
    found = []
    for room in sorted(path for path in SOURCE.iterdir() if path.is_dir()):
        length = sum(path.read_text(encoding="utf-8").count("\n") for path in room.rglob("*.py"))
        most = MAX_OF_ROOM.get(room.name, MAX_ROOM)
        found += [f"{room}: {length} lines, at most {most}"] if length > most else []
    return found


def forgotten() -> list[str]:
    """Places that still use a name of `FORGOTTEN` or a module of `GONE`."""
    modules = [form for path in GONE.split() for form in (f"mdistill.{path.replace('/', '.')}", f"{path}.py")]
    old = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, [*FORGOTTEN.split(), *modules]))})(?!\w)")
    found = []
    for path in sorted({path for pattern in READ for path in ROOT.glob(pattern)}):
        inside = path.relative_to(ROOT).as_posix()
        if path.suffix not in TEXT or not path.is_file() or inside.startswith(NOT_READ) or ".egg-info/" in inside:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{path}:{number}: {name} is called otherwise today" for name in old.findall(line)]
    return found


def imports() -> dict[str, set[str]]:
    """Every module with the modules of this package that it names in an import, those for the type checker included."""
    files = {_module(path): path for path in SOURCE.rglob("*.py")}
    found = {}
    for name, path in files.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= (parts & files.keys()) or {str(node.module)}
        found[name] = (named & files.keys()) - {name}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, whatever the way round."""
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        for name in graph[ahead.pop()] - seen:
            seen.add(name)
            ahead.append(name)
    return seen


def _module(path: Path) -> str:
    parts = ("mdistill", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def main() -> int:
    found = [c for path in sorted(SOURCE.rglob("*.py")) for c in complaints(path)]
    for path in sorted([path for kind in ("hpp", "cpp", "cu") for path in SOURCE.rglob(f"*.{kind}")]):
        length = path.read_text(encoding="utf-8").count("\n")
        found += [f"{path}: {length} lines, at most {MAX_FILE}"] if length > MAX_FILE else []
    nested = [p for p in SOURCE.glob("*/*/") if p.is_dir() and p.name != "__pycache__"]
    found += [f"{p}: a folder inside a room" for p in nested]
    found += crowded() + forgotten()
    found += [f"{' ↔ '.join(group)}: a circle of imports" for group in circles(imports())]
    print("\n".join(found) or "house rules hold")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
