"""Fields deep inside results.json and the label index of a type or value that they cannot have: status 2, or harmless."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attack.tally import FULL, Outcomes
from attack.test_altered_files import make_labels
from mdistill import cli
from mdistill.data.store import INDEX, _line
from mdistill.nets.model_files import save_model
from mdistill.runs.results import write_results
from report_sample import sample
from systems import tiny_net

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_drawing")]
ODD = (None, "x", -1, 1e300, float("nan"), [], {}, [[1]], True)
COUNT = 600 if FULL else 120


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON; of long lists, the first three entries."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*at, name))


def altered(whole: Any, count: int) -> Iterator[tuple[str, Any]]:
    """Copies with one entry of another value, or without it."""
    draw, known = np.random.default_rng(7), list(places(whole))
    for _ in range(count):
        changed, at = copy.deepcopy(whole), known[draw.integers(len(known))]
        odd, place = draw.integers(len(ODD) + 1), changed
        for name in at[:-1]:
            place = place[name]
        if odd == len(ODD):
            del place[at[-1]]
        else:
            place[at[-1]] = ODD[odd]
        yield f"{'.'.join(map(str, at))} → {'removed' if odd == len(ODD) else ODD[odd]!r}", changed


def outcome(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    status, told = cli.run(words), capsys.readouterr()
    if "unexpected" in told.err or "Traceback" in told.err:
        return f"traceback: {told.err}", told.out
    if status == 2:
        return "refused" if "fix:" in told.err else f"no fix: {told.err}", told.out
    return "accepted" if status == 0 else f"status {status}: {told.err}", told.out


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_fields_of_results(tmp_path: Path, capsys: pytest.CaptureFixture[str], trust: Callable[..., None]) -> None:
    path, tally = write_results(tmp_path, sample(points=20)), Outcomes()
    whole = json.loads(path.read_text())
    del whole["sha256"]  # as files of earlier versions, or of an attacker
    for example, changed in altered(whole, COUNT):
        path.write_text(json.dumps(changed))
        found, _ = outcome(["report", str(tmp_path)], capsys)
        tally.add(found.partition(":")[0], f"{example}: {found}")
    assert not tally.bad, f"{tally}: {tally.bad}"
    trust("A", f"results.json: {COUNT} fields of another type or value", str(tally), "status 2, or 0")


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_fields_of_the_label_index(tmp_path: Path, capsys: pytest.CaptureFixture[str], trust: Callable[..., None]) -> None:
    """Each line has the check of its altered content, so that only the content tells."""
    make_labels(tmp_path)
    save_model(tmp_path / "student.mdistill", tiny_net())
    words, tally = ["test", str(tmp_path / "student.mdistill"), str(tmp_path), "--out", str(tmp_path / "out")], Outcomes()
    path, right = tmp_path / INDEX, outcome(words, capsys)
    entries = [{k: v for k, v in json.loads(line).items() if k != "check"} for line in path.read_text().splitlines()]
    assert right[0] == "accepted"
    for example, changed in altered(entries, COUNT):
        path.write_text("".join(f"{_line(line) if isinstance(line, dict) and line else json.dumps(line)}\n" for line in changed))
        found, said = outcome(words, capsys)
        found = ("harmless" if said == right[1] else f"silent: {said}") if found == "accepted" else found
        tally.add(found.partition(":")[0], f"{example}: {found}")
    assert not tally.bad, f"{tally}: {tally.bad}"
    trust("A", f"{INDEX}: {COUNT} fields of another type or value", str(tally), "status 2, or the same errors")
