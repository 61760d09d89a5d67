"""Which stage runs and what is left: from budgets, and from the measured cost of a label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mdistill.estimates import exactly
from mdistill.interrupt import NEVER
from mdistill.labelling.plan import estimate_cost
from mdistill.runs.results import Results, write_results
from mdistill.workflows import distill, stage_log
from mdistill.workflows.distill_settings import DistillSettings
from mdistill.workflows.stage_log import minutes_of, seconds_per_call, tell_stage
from systems import fcc

STAGES = ("prepare", "label", "train", "refine", "gates", "production", "check")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> DistillSettings:
    monkeypatch.setattr(stage_log, "usable_cores", lambda: 2)
    return DistillSettings(structure="x.cif", teacher="toy", temperatures=(500.0, 700.0), committee=4)


def test_minutes_are_the_budgets_of_what_is_left(settings: DistillSettings) -> None:
    fit = 2.0 * settings.train.fit.max_minutes
    production = settings.production.max_minutes
    assert minutes_of(("production",), settings, [fcc()], seconds=None) == (production, True)
    assert minutes_of(("train", "production"), settings, [fcc()], seconds=None) == (pytest.approx(fit + production), True)
    hard = settings.harden.fit.time * settings.train.fit.max_minutes
    assert minutes_of(("harden",), replace(settings, hard="cp2k"), [fcc()], seconds=None)[0] == pytest.approx(4 * hard)
    steps = replace(settings, train=replace(settings.train, fit=replace(settings.train.fit, steps=100)))
    assert minutes_of(("train",), steps, [fcc()], seconds=None)[0] == 0.0


def test_teacher_calls_count_once_their_cost_is_known(settings: DistillSettings, tmp_path: Path) -> None:
    assert seconds_per_call(tmp_path, settings, [fcc()]) is None
    assert minutes_of(("check",), settings, [fcc()], seconds=None) == (0.0, False)
    calls = estimate_cost([fcc()], settings.label, 1.0)[0]
    (tmp_path / "label").mkdir()
    write_results(tmp_path / "label", Results(command="label", values={"label_seconds": exactly(2.0 * calls)}))
    assert seconds_per_call(tmp_path, settings, [fcc()]) == pytest.approx(2.0)
    expected = 2 * settings.check.frames * 2.0 / 60.0
    assert minutes_of(("check",), settings, [fcc()], seconds=2.0) == (pytest.approx(expected), True)


def test_the_line_names_the_stage_and_stays_silent_when_asked(
    settings: DistillSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MDISTILL_QUIET", "1")
    tell_stage("train", STAGES, settings, tmp_path, [fcc()])
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("MDISTILL_QUIET")
    tell_stage("train", STAGES, settings, tmp_path, [fcc()])
    line = capsys.readouterr().err
    assert line.startswith("stage 3 of 7: train, about ") and line.endswith("min left without teacher calls\n")
    tell_stage("prepare", STAGES[:1], settings, tmp_path, [fcc()])
    assert capsys.readouterr().err == "stage 1 of 1: prepare\n"


def test_stages_that_are_not_asked_for_are_not_counted(settings: DistillSettings, tmp_path: Path) -> None:
    def order(**asked: object) -> list[str]:
        job = distill._Job(replace(settings, **asked), tmp_path, None, None, 0, NEVER)
        return job._order()

    assert order() == ["prepare", "label", "train", "refine", "gates", "production", "check"]
    assert order(stride_fs=8.0, check_ps=20.0) == [
        "prepare", "label", "train", "refine", "gates", "stride", "production", "check", "follow",
    ]  # fmt: skip
    assert order(hard="cp2k")[4] == "harden" and order(hard="cp2k")[-1] == "before"
    assert order(hard="cp2k", harden=replace(settings.harden, before=0.0))[-1] == "check"
    assert order(check=replace(settings.check, frames=0))[-1] == "production"
