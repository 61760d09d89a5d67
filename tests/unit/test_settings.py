"""Numbers from users: in range, or an error that says what would be."""

from __future__ import annotations

import importlib
import json
import math
import tomllib
from dataclasses import field, is_dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mdistill
from mdistill.errors import BadInput
from mdistill.judge.settings import StrideRungSettings
from mdistill.nets.settings import MomentSettings
from mdistill.settings import (
    amended,
    changes,
    child_seed,
    describe,
    from_json,
    setting,
    settings,
    stream,
    to_json,
    to_toml,
    within,
)
from mdistill.simulation.barostat import StochasticCellRescaling
from mdistill.simulation.bussi import Bussi
from mdistill.simulation.energy_correction import CorrectEnergy
from mdistill.simulation.langevin import Baoab, Obabo
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.training.settings import FitSettings
from mdistill.workflows import stride as workflow
from mdistill.workflows.distill_settings import DistillSettings


def test_bounds() -> None:
    within("x", 1, 0, 1)
    within("x", np.float32(0.5), 0, 1)
    within("x", 0.0, 0, 1, open_low=False)
    for bad in (0.0, 1.1, -1, math.nan, math.inf, "1", None, True):
        with pytest.raises(BadInput, match=r"(?s)x: .*allowed: above 0, at most 1 m.*fix: ") as caught:
            within("x", bad, 0, 1, unit="m")
        assert repr(bad) in str(caught.value)


VERLET = VelocityVerlet(evaluate=None, time_step=1.0)
BAD = [
    (VelocityVerlet, {"time_step": 0.0}),
    (VelocityVerlet, {"time_step": 50.0}),
    (Baoab, {"time_step": -1.0, "temperature_K": 300.0}),
    (Baoab, {"time_step": 1.0, "temperature_K": 0.0}),
    (Baoab, {"time_step": 1.0, "temperature_K": 300.0, "friction_per_ps": math.nan}),
    (Bussi, {"inner": VERLET, "temperature_K": 1e9}),
    (Bussi, {"inner": VERLET, "temperature_K": 300.0, "relaxation_fs": 0.0}),
    (Obabo, {"inner": VERLET, "temperature_K": 0.0}),
    (Obabo, {"inner": VERLET, "temperature_K": 300.0, "friction_per_ps": -1.0}),
    (CorrectEnergy, {"inner": VERLET, "every": 0}),
    (CorrectEnergy, {"inner": VERLET, "clip": 0.6}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": -1.0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "relaxation_ps": 0.0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "compressibility_per_GPa": -1.0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "every": 0}),
    (StochasticCellRescaling, {"inner": VERLET, "temperature_K": 300.0, "pressure_GPa": math.inf}),
]


@pytest.mark.parametrize(("propagator", "bad"), BAD)
def test_propagators_refuse_bad_settings(propagator: type, bad: dict) -> None:
    with pytest.raises(BadInput, match=list(bad)[-1] if bad.get("time_step", 1.0) == 1.0 else "time_step"):
        propagator(**({} if propagator in (Bussi, Obabo) else {"evaluate": None}), **bad)


@settings
class Inner:
    """Inner.

    Attributes:
        step_fs: Time step, fs. More is said here.
        counts: Counts.
        kind: Kind of thing.
    """

    step_fs: float | None = setting(None, above=0.0, most=10.0, unit="fs")
    counts: tuple[int, ...] = setting((1, 2), least=1)
    kind: Literal["a", "b"] = "a"


@settings
class Outer:
    """Outer."""

    inner: Inner = field(default_factory=Inner)
    path: Path = Path("x")
    share: float = 0.5


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"step_fs": 0.0}, "Inner.step_fs: 0.0\n  allowed: above 0, at most 10 fs"),
        ({"step_fs": math.nan}, "Inner.step_fs: nan"),
        ({"counts": (3, 0)}, "Inner.counts: 0\n  allowed: at least 1"),
        ({"kind": "c"}, "Inner.kind: c\n  allowed: a, b\n  fix: choose one of them"),
    ],
)
def test_fields_are_held_against_their_declaration(bad: dict, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        Inner(**bad)
    assert said in str(caught.value)


@given(
    st.builds(
        Outer,
        inner=st.builds(
            Inner,
            step_fs=st.none() | st.floats(1e-6, 10.0),
            counts=st.lists(st.integers(1, 10**6)).map(tuple),
            kind=st.sampled_from(["a", "b"]),
        ),
        path=st.sampled_from([Path("a/b.cif"), Path("é x.cif")]),
        share=st.floats(-1e9, 1e9),
    )
)
def test_json_and_toml_give_back_what_was_written(made: Outer) -> None:
    assert from_json(Outer, json.loads(json.dumps(to_json(made))), source="text") == made
    text = to_toml(dict(changes(made, Outer())), lambda name: describe(Outer, name), head="made")
    assert from_json(Outer, tomllib.loads(text), source="text") == made


def test_a_comment_is_the_first_sentence() -> None:
    assert describe(Outer, "inner.step_fs") == "Time step, fs" and describe(Outer, "share") == ""


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"inner": {"step_f": 1}}, "did you mean inner.step_fs?"),
        ({"inner": {"step_fs": -1}}, "inner.step_fs in run.toml: -1.0"),
        ({"share": "much"}, "share in run.toml: 'much'"),
        ({"inner": {"counts": [1.5]}}, "inner.counts in run.toml: 1.5"),
    ],
)
def test_a_bad_entry_of_a_file_is_named(raw: dict, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        from_json(Outer, raw, source="run.toml")
    assert said in str(caught.value)


def test_files_neither_set_nor_hold_the_seeds_that_a_run_derives() -> None:
    for raw in ({"label": {"seed": 3}}, {"train": {"fit": {"seed": 3}}}, {"prepare": {"disorder": {"orderings": 3}}}):
        with pytest.raises(BadInput, match=r"(?s)(seed|orderings) in run.toml: is unknown"):
            from_json(DistillSettings, {"structure": "x.cif", **raw}, source="run.toml")
    usual = DistillSettings(structure=Path("x.cif"))
    derived = replace(usual, seed=7, train=replace(usual.train, fit=replace(usual.train.fit, seed=child_seed(7, "train"))))
    assert dict(changes(derived, usual)) == {"seed": 7}


def test_values_added_to_the_json_of_settings_are_the_only_change() -> None:
    made = StrideRungSettings()
    raw = amended(made, {"segments.seed": 3, "train.fit.seed": 4})
    assert raw["segments"].pop("seed") == 3 and raw["train"]["fit"]["seed"] == 4
    raw["train"]["fit"]["seed"] = made.train.fit.seed
    assert raw == to_json(made)


REQUIRED = {
    "DistillSettings": {"structure": Path("x.cif"), "temperatures": (300.0, 400.0), "seed": 7, "cutoff": 4.0},
    "AnalyseSettings": {"species": "Li", "elements": ("Li", "Cl")},
    **{key: {"elements": (3, 17)} for key in ("MomentSettings", "PainnSettings", "EdgeTransformerSettings")},
    "SplittingMapSettings": {"stride_fs": 8.0, "kicks": 2, "potential": MomentSettings(elements=(3, 17))},
    "OneStepSettings": {"strides_fs": (8.0, 16.0), "potential": MomentSettings(elements=(3, 17))},
    "OneStepAttentionSettings": {"strides_fs": (8.0,), "elements": (3, 17)},
    "TrainSettings": {"fit": FitSettings(seed=5, steps=12), "cutoff": 4.0},
}


def settings_classes() -> list[type]:
    """Every settings class of the package."""
    rooms = [f"mdistill.{path.parent.name}.{path.stem}" for path in Path(mdistill.__file__).parent.glob("*/*settings.py")]
    modules = [importlib.import_module(name) for name in sorted(rooms)]
    found = {one for m in modules for one in vars(m).values() if isinstance(one, type) and one.__module__ == m.__name__}
    return sorted((one for one in found if is_dataclass(one)), key=lambda one: one.__name__)


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.__name__)
def test_the_json_of_every_settings_class_reads_back(kind: type) -> None:
    made = kind(**REQUIRED.get(kind.__name__, {}))
    assert from_json(kind, json.loads(json.dumps(to_json(made))), source="x", derived=True) == made


def test_every_settings_class_is_tried() -> None:
    assert {"DistillSettings", "LabelSettings", "FitSettings", "JudgeSettings", "SimulateSettings"} <= {
        k.__name__ for k in settings_classes()
    }
    assert len(settings_classes()) >= 27


def test_streams_of_different_names_or_seeds_share_no_number() -> None:
    names = [(seed, name) for seed in (0, 1, 7) for name in ("label", "500 K", "700 K")]
    drawn = [set(torch.randint(2**62, (2000,), generator=stream(seed, name)).tolist()) for seed, name in names]
    assert len(set.union(*drawn)) == sum(map(len, drawn))
    assert len({child_seed(seed, name) for seed, name in names}) == len(names)
    assert torch.equal(torch.rand(3, generator=stream(3, "a")), torch.rand(3, generator=stream(3, "a")))


def test_every_part_of_the_stride_rung_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed reaches segments, training, kick scale and judgement; no two of them share one, nor do two seeds."""
    parts: dict[str, int] = {}

    def train(segments, student, settings, folder, *, adjust, stop):
        parts["train"] = settings.fit.seed
        adjust(None)

    monkeypatch.setattr(workflow, "load", lambda *_, **__: None)
    monkeypatch.setattr(workflow, "train_stride", train)
    for name in ("make_segments", "set_kick_scale", "judge_map"):
        monkeypatch.setattr(workflow, name, lambda *_, name=name, seed, **__: parts.update({name: seed}))
    seeds = []
    for seed in (0, 7):
        workflow.stride_rung(Path("x"), [None], StrideRungSettings(), Path("x"), seed=seed)
        assert parts["set_kick_scale"] == parts["judge_map"]
        seeds += {*parts.values()}
    assert len(seeds) == len({*seeds}) == 6


def test_a_number_in_quotes_is_answered_without_them() -> None:
    from mdistill.simulation.settings import SimulateSettings

    with pytest.raises(BadInput, match=r"(?s)'0.05'.*fix: 0.05, without quotes"):
        from_json(SimulateSettings, {"time_ps": "0.05"}, source="simulate()")
