"""JSON of another type than expected, in each JSON file the package reads, is bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdistill.data.store import INDEX, LabelStore, _line
from mdistill.errors import BadInput
from mdistill.labelling.label import _notes
from mdistill.nets.model_files import _settings
from mdistill.nets.settings import MomentSettings
from mdistill.runs.ledger import LEDGER, Ledger, Work
from mdistill.runs.results import read_results
from mdistill.runs.sealed import sealed
from mdistill.settings import to_json

ODD = [[], 3, "x", None, True, [{}]]
WORK = Work(key="stage", settings={"frames": 80})


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [LEDGER, "settings.json", "started.json", "run.json"])
def test_a_ledger_of_any_version(name, odd, tmp_path):
    (tmp_path / name).write_text(json.dumps(odd))
    with pytest.raises(BadInput) as told:
        Ledger(tmp_path).entries()
    assert str(tmp_path) in told.value.subject and told.value.fix


@pytest.mark.parametrize("odd", [3, "x", [{}], [1]])
@pytest.mark.parametrize("part", ["", "settings", "inputs", "models", "outputs"])
def test_an_entry_of_the_ledger(part, odd, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(WORK)
    raw = json.loads((tmp_path / LEDGER).read_text())
    raw.pop("sha256")
    raw["work"]["stage"] = raw["work"]["stage"] | {part: odd} if part else odd
    (tmp_path / LEDGER).write_text(json.dumps(sealed(raw)))
    with pytest.raises(BadInput, match="its entry 'stage' cannot be read"):
        ledger.is_done(WORK)


@pytest.mark.parametrize("odd", ODD)
def test_results(odd, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(odd))
    with pytest.raises(BadInput):
        read_results(tmp_path)


@pytest.mark.parametrize("name", ["", "sha256", "key", "frames", "blocks", "sources"])
def test_a_line_of_the_label_index(name, tmp_path):
    entry = {
        "shard": "labels-00000.npz",
        "sha256": "ab",
        "key": "k",
        "frames": 1,
        "sources": [],
        "temperatures_K": [],
        "blocks": [],
    }
    for odd in (None, {}, 1.5):
        (tmp_path / INDEX).write_text((_line(entry | {name: odd}) if name else json.dumps(odd)) + "\n")
        with pytest.raises(BadInput, match="a line is not as it was written"):
            len(LabelStore(tmp_path))


def test_notes_of_labelling_that_are_no_notes_are_left_out(tmp_path):
    good = {"text": "a", "failure": False}
    (tmp_path / "notes.jsonl").write_text("\n".join(json.dumps(one) for one in [*ODD, good]) + "\n")
    assert _notes(tmp_path) == [good]


@pytest.mark.parametrize("odd", [[], "x", None, {}, [[1]]])
@pytest.mark.parametrize("name", ["cutoff", "degree", "elements"])
def test_settings_of_a_model_header(name, odd):
    raw = to_json(MomentSettings(elements=(3, 17)))
    assert _settings(Path("m"), MomentSettings, raw) == MomentSettings(elements=(3, 17))
    with pytest.raises(BadInput):
        _settings(Path("m"), MomentSettings, raw | {name: odd})
