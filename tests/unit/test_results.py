"""`results.json`: round trips, files of format 1, sections that are replaced as a whole, rungs in their order."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mdistill.errors import BadInput
from mdistill.estimates import Gate, exactly
from mdistill.report.page import headlines
from mdistill.runs.results import (
    Density,
    Figure,
    Headline,
    Hops,
    Results,
    Rung,
    Scene,
    Series,
    Table,
    add_to_run,
    headline_parts,
    in_section,
    merge,
    read_results,
    with_sections,
    write_results,
)
from report_sample import sample

OLD = Path(__file__).parent.parent / "golden" / "ca4b391"


def part(name: str, number: float) -> Results:
    """A command's section with a value, a gate and a table."""
    value = exactly(number)
    table = Table(name=f"{name} table", title="", section="training", columns=["a"], rows=[[value]])
    gate = Gate(name=f"{name} gate", measured=value, limit=1.0, passed=True)
    told = [Headline(quantity="speed_up", value=f"{name} value")]
    held = Results(command=name, values={f"{name} value": value}, headlines=told, gates=[gate], tables=[table], notes=["own"])
    return in_section(name, held)


def test_what_is_written_is_read(tmp_path):
    results = merge(sample(points=5), part("bench", 1.0))
    write_results(tmp_path, results)
    found = read_results(tmp_path)
    assert found.rungs == results.rungs and found.headlines == results.headlines and found.sections == results.sections
    assert found.values == results.values and found.gates == results.gates and found.tables == results.tables


def scene(name: str = "paths") -> Scene:
    hops = [Hops(start=(0.0, 0.5, 1.0), end=(1.5, 0.5, 1.0), count=3)]
    return Scene(name=name, title="t", section="transport", numbers=[3, 17], positions=[[0.0, 0.5, 1.0], [2.0, 2.0, 2.0]],
                 cell=[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]], mobile=3, hops=hops,
                 density=Density(shape=(2, 1, 2), values=[0, 255, 3, 0], largest=0.2))  # fmt: skip


def test_a_scene_is_read_as_written_with_one_line_for_its_numbers(tmp_path):
    results = in_section("paths", Results(command="x", scenes=[scene(), scene("other")]))
    text = write_results(tmp_path, results).read_text(encoding="utf-8")
    assert read_results(tmp_path).scenes == results.scenes and "[0,255,3,0]" in text
    again = in_section("paths", Results(command="x", scenes=[scene("new")]))
    assert [one.name for one in with_sections(read_results(tmp_path), again).scenes] == ["new"]


def test_a_file_without_doubts_parts_and_scenes_is_read(tmp_path):
    told = [Headline(quantity="conductivity", value="conductivity_700K", temperature_K=700.0, doubts=["Only 3 hops."])]
    write_results(tmp_path, Results(command="x", headlines=told))
    assert read_results(tmp_path).headlines == told
    raw = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    del raw["sha256"], raw["scenes"], raw["headlines"][0]["doubts"]
    (tmp_path / "results.json").write_text(json.dumps(raw), encoding="utf-8")
    found = read_results(tmp_path)
    assert found.scenes == [] and found.headlines[0].doubts == []


def test_parts_of_a_headline_are_those_of_its_temperature():
    values = {f"conductivity{part}_{t}K": exactly(t) for part in ("", "_statistical", "_model") for t in (500, 700)}
    told = Headline(quantity="conductivity", value="conductivity_700K", temperature_K=700.0)
    found = headline_parts(Results(command="x", values=values), told)
    assert found == {"statistical": exactly(700), "model": exactly(700)}
    assert headline_parts(Results(command="x", values={"conductivity_700K": exactly(1)}), told) == {}


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    series = Series(label="", x=[0.0, 1.0], y=[math.nan, math.inf])
    figure = Figure(name="f", title="", section="training", x_label="", y_label="", series=[series])
    write_results(tmp_path, Results(command="x", figures=[figure]))
    assert read_results(tmp_path).figures[0].series[0].y == [None, None]


def test_format_1_is_read_as_what_it_says(tmp_path):
    found, today = read_results(OLD / "report_sample.json"), sample(points=3)
    assert found.rungs == today.rungs and found.headlines == today.headlines
    assert [t.name for t in found.tables] == [t.name for t in today.tables] and found.values == today.values
    assert {f.name for f in found.figures} == {"parity_forces", "msd"} and found.figures[0].series[0].subject == "300 K"
    assert [n.label for n in headlines(found)] == [n.label for n in headlines(today)]


def test_a_run_of_format_1_has_its_rungs_and_sections(tmp_path):
    shutil.copy(OLD / "run" / "results.json", tmp_path)
    found = read_results(tmp_path)
    assert [(rung.kind, rung.name) for rung in found.rungs] == [
        ("teacher", "toy_teacher:salt"), ("potential", "spline-Li-Cl"), ("stride", "strides of 4 fs"),
    ]  # fmt: skip
    stride = found.rungs[2]
    assert stride.speed_up.value == pytest.approx(0.649, abs=1e-3) and stride.errors["error of a stride"].unit == "% of velocity"
    (section,) = found.sections
    assert section.name == "strides" and len(section.gates) == 4 and len(section.values) == 6 and len(section.tables) == 3
    assert [(h.quantity, h.temperature_K) for h in found.headlines] == [
        ("speed_up", None), ("diffusivity", 300.0), ("conductivity", 300.0), ("stride_speed_up", None),
    ]  # fmt: skip
    whole = add_to_run(tmp_path, replace(part("strides", 2.0), rungs=[Rung(kind="stride", name="strides of 8 fs")]))
    assert [rung.name for rung in whole.rungs][2] == "strides of 8 fs"
    assert not any(gate.name.startswith("stride: ") for gate in whole.gates) and "stride_error" not in whole.values
    assert json.loads((tmp_path / "results.json").read_text())["format"] == 2


def test_a_section_is_replaced_as_a_whole_and_the_rest_stays():
    whole = with_sections(sample(points=3), part("bench", 1.0))
    again = with_sections(with_sections(whole, part("other", 5.0)), part("bench", 2.0))
    assert again.values["bench value"].value == 2.0 and again.values["other value"].value == 5.0
    for name in ("bench", "other"):
        assert [t.name for t in again.tables].count(f"{name} table") == [g.name for g in again.gates].count(f"{name} gate") == 1
    assert again.notes == sample(points=3).notes and {s.name for s in again.sections} == {"bench", "other"}
    assert again.values.keys() > sample(points=3).values.keys()


def test_rungs_stand_in_their_order_and_a_cost_follows_from_the_speed_up():
    stride = Rung(kind="stride", name="strides", speed_up=exactly(4.0, "×"))
    student = Rung(kind="potential", name="student", cost=exactly(2.0, "µs/atom/step"))
    found = merge(Results(command="x", rungs=[stride]), Results(command="y", rungs=[student]))
    assert [rung.kind for rung in found.rungs] == ["potential", "stride"]
    assert found.rungs[1].cost == exactly(0.5, "µs/atom/step")
    assert merge(Results(command="x"), Results(command="y", rungs=[stride])).rungs == [stride]


@pytest.mark.parametrize("content", ["[]", '{"format": 3}', '{"format": 2}', "text"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(BadInput, match="results.json"):
        read_results(tmp_path)
