"""The label workflow: the plan, exact restarts after any stop, kills, blow-ups and teachers that fail."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdistill.data.store import LabelStore
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, Interrupted, MdistillError
from mdistill.graph import make_system
from mdistill.interrupt import StopRequest
from mdistill.io.files import write_json
from mdistill.labelling.label import label_run, label_structures
from mdistill.labelling.plan import estimate_cost, plan, task_frames
from mdistill.labelling.settings import LabelSettings
from mdistill.runs.ledger import FORMAT, LEDGER, Ledger
from mdistill.runs.sealed import sealed
from mdistill.types import Graph, LabelledFrame, Prediction, System
from systems import MorseNet, random_box

SITES = torch.tensor([[0.0, 0, 0], [2.1, 2.1, 0], [2.1, 0, 2.1], [0, 2.1, 2.1]], dtype=torch.float64)


def crystal() -> System:
    return make_system(SITES.numpy(), np.array([29] * 4), np.eye(3) * 4.2, [True] * 3)


SETTINGS = LabelSettings(
    temperatures_K=(300.0, 600.0), frames=8, blocks=4, every_fs=6.0, equilibration_fs=10.0, time_step_fs=2.0,
    strains=(-0.02, 0.02), shears=1, rattles=(0.05, 0.1), contacts=2, probes=1, probe_every=3,
)  # fmt: skip


@dataclass
class Springs:
    """Atoms on springs to their sites; counts its calls, and `fault(calls, prediction)` may break an answer."""

    fault: Callable[[int, Prediction, System], Prediction] = lambda n, p, s: p
    calls: int = 0
    stop: StopRequest = field(default_factory=StopRequest)
    stop_at: int = -1
    cutoff: float = 0.0
    elements: frozenset[int] = frozenset()
    name: str = "springs"

    def __call__(self, graph: Graph) -> Prediction:
        self.calls += 1
        if self.calls == self.stop_at:
            self.stop.signal_number = signal.SIGINT
        moved = graph.system.positions - SITES
        cubed = moved**3
        answer = Prediction(
            energy=(2.5 * moved.square() + cubed * moved).sum().reshape(1), forces=-5.0 * moved - 4.0 * cubed,
            stress=torch.eye(3, dtype=torch.float64).reshape(1, 3, 3),
        )  # fmt: skip
        return self.fault(self.calls, answer, graph.system)


def content(folder: Path) -> list[Any]:
    """Everything in the store, comparable with == (bit for bit)."""
    return [
        (f.source, f.temperature_K, f.block, f.system.positions.tolist(), f.system.cell.tolist(), f.target.energy.tolist(),
         f.target.forces.tolist(), None if f.products is None else (f.probes.tolist(), f.products.tolist()))
        for f in LabelStore(folder).read()
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], int]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    springs = Springs()
    label_run([crystal(), crystal()], springs, SETTINGS, folder)
    return content(folder), springs.calls


def test_the_plan_is_carried_out(uninterrupted: tuple[list[Any], int]) -> None:
    frames, calls = uninterrupted
    tasks = plan([crystal()] * 2, SETTINGS)
    assert len(frames) == sum(task_frames(task, SETTINGS) for task in tasks) == 2 * (3 + 3 + 2 + 16 + 16)
    assert estimate_cost([crystal()] * 2, SETTINGS, 6.0, teacher=Springs()) == (calls, calls / 10)
    md = [f for f in frames if f[0] == "md"]
    assert sorted({f[2] for f in frames}) == list(range(2 * (3 + 8)))
    assert all(len({f[1] for f in md if f[2] == block}) == 1 for block in {f[2] for f in md})
    assert [sum(f[2] == block for f in md) for block in sorted({f[2] for f in md})] == [2] * 16
    assert [f[7] is not None for f in md[:8]] == [True, False, False] * 2 + [True, False]
    assert len({str(f[3]) for f in md}) == 32


def test_every_frame_has_a_displaced_copy_in_its_block(uninterrupted: tuple[list[Any], int]) -> None:
    frames = uninterrupted[0]
    md, moved = ([f for f in frames if f[0] == source] for source in ("md", "displaced"))
    assert len(md) == len(moved) and [f[2] for f in md] == [f[2] for f in moved]
    assert {f[1] for f in moved} == {0.0} and all(f[7] is None for f in moved)
    apart = np.array([f[3] for f in md]) - np.array([f[3] for f in moved])
    assert 0.9 * SETTINGS.displacement_A < apart.std() < 1.1 * SETTINGS.displacement_A
    assert len({str(f[3]) for f in moved}) == len(moved)


def test_frames_are_at_the_temperature(tmp_path: Path) -> None:
    settings = replace(SETTINGS, temperatures_K=(200.0, 800.0), frames=100, blocks=5, every_fs=24.0, probes=0, time_step_fs=3.0)
    label_run([crystal()], Springs(), settings, tmp_path)
    found = [
        np.mean([float(f.target.energy[0]) for f in LabelStore(tmp_path).read(lambda f, t=t: f.temperature_K == t)])
        for t in (200.0, 800.0)
    ]
    assert 0.7 < found[0] / (6 * 200.0 * 8.617e-5) < 1.3
    assert 0.7 < found[1] / (6 * 800.0 * 8.617e-5) < 1.3


@pytest.mark.parametrize("stop_at", [1, 5, 9, 12, 17, 20, 21, 40, 47, 55, 80, 112])
def test_a_stopped_run_goes_on_bit_for_bit(
    stop_at: int, uninterrupted: tuple[list[Any], int], tmp_path: Path, trust: Any
) -> None:
    stop = StopRequest()
    springs = Springs(stop=stop, stop_at=stop_at)
    with pytest.raises(Interrupted) as error:
        label_run([crystal(), crystal()], springs, SETTINGS, tmp_path, stop=stop)
    assert error.value.exit_status == 130
    assert springs.calls <= stop_at + 2, "a stop takes at most the label under way (one call, or one with its probe)"
    rest = Springs()
    label_run([crystal(), crystal()], rest, SETTINGS, tmp_path)
    assert content(tmp_path) == uninterrupted[0]
    assert springs.calls + rest.calls <= uninterrupted[1] + 1, "nothing is asked twice"
    trust("T19", f"labels after a stop at call {stop_at}: as uninterrupted, none twice", "bit-equal", "exact")
    trust(
        "T35",
        f"label: teacher calls from SIGINT to a saved run (stopped at call {stop_at})",
        springs.calls - stop_at,
        "≤ 2 calls",
    )


@pytest.mark.slow
def test_killed_at_random_moments_and_gone_on_with(uninterrupted: tuple[list[Any], int], tmp_path: Path, trust: Any) -> None:
    def slow(_n: int, answer: Prediction, _s: System) -> Prediction:
        time.sleep(0.001)
        return answer

    kills = 0
    for moment in np.random.default_rng(3).uniform(0.02, 0.25, 25):
        child = os.fork()
        if child == 0:
            try:
                label_run([crystal(), crystal()], Springs(slow), SETTINGS, tmp_path)
            finally:
                os._exit(0)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
        frames = content(tmp_path)
        assert frames == uninterrupted[0][: len(frames)]
    label_run([crystal(), crystal()], Springs(), SETTINGS, tmp_path)
    assert content(tmp_path) == uninterrupted[0]
    trust("T34", "labels after SIGKILL at random moments: readable each time, in the end as uninterrupted", kills, "bit-equal")


def test_a_finished_run_asks_nothing_more(tmp_path: Path, trust: Any) -> None:
    first = label_run([crystal()], Springs(), SETTINGS, tmp_path)
    springs = Springs()
    again = label_run([crystal()], springs, SETTINGS, tmp_path)
    assert springs.calls == 0
    assert [table.rows for table in again.tables] == [table.rows for table in first.tables]
    trust("T20", "teacher calls of a finished label run that is run again", springs.calls, "0")


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_damaged_labels_are_named_before_the_teacher_is_asked(damage: str, tmp_path: Path) -> None:
    """Of an interrupted run too: it would else go on for hours, and end there."""
    springs = Springs(stop_at=30)
    with pytest.raises(Interrupted):
        label_run([crystal()], springs, SETTINGS, tmp_path, stop=springs.stop)
    shard = sorted(tmp_path.glob("*.npz"))[0]
    shard.write_bytes(b"x" + shard.read_bytes()[1:]) if damage == "flipped" else shard.unlink()
    again = Springs()
    with pytest.raises(BadInput, match=f"(?s){shard.name}: (was altered|is missing).*label again into another folder"):
        label_run([crystal()], again, SETTINGS, tmp_path)
    assert again.calls == 0


def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    label_run([crystal()], Springs(), SETTINGS, tmp_path)
    with pytest.raises(BadInput, match=r"\n    frames: 8 → 12"):
        label_run([crystal()], Springs(), replace(SETTINGS, frames=12), tmp_path)
    other = replace(crystal(), positions=crystal().positions + 0.01)
    with pytest.raises(BadInput, match="structures"):
        label_run([other], Springs(), SETTINGS, tmp_path)
    label_run([crystal()], Springs(), replace(SETTINGS, timeout_s=7.0), tmp_path)


def explode(_n: int, answer: Prediction, system: System) -> Prediction:
    """Beyond 0.38 Å from its site an atom is thrown out."""
    far = (system.positions - SITES).norm(dim=1, keepdim=True) > 0.38
    return replace(answer, forces=torch.where(far, torch.full_like(answer.forces, 1e3), answer.forces))


HOT = replace(SETTINGS, temperatures_K=(300.0, 3000.0, 310.0), strains=(), shears=0, contacts=0, frames=40, blocks=5)


def test_a_blow_up_keeps_the_frames_before_it_and_goes_on(tmp_path: Path) -> None:
    results = label_run([crystal()], Springs(explode), HOT, tmp_path)
    counts = {t: len(LabelStore(tmp_path).read(lambda f, t=t: f.temperature_K == t)) for t in HOT.temperatures_K}
    assert counts[300.0] == counts[310.0] == 40
    assert counts[3000.0] < 40
    assert any("md-3000" in line and "eV/Å" in line for line in results.notes)
    assert all(float(f.target.forces.norm(dim=1).max()) <= HOT.largest_force for f in LabelStore(tmp_path).read())
    springs = Springs(explode)
    assert label_run([crystal()], springs, HOT, tmp_path).notes == results.notes
    assert springs.calls == 0


def test_a_blow_up_after_a_stop_is_the_same(tmp_path: Path) -> None:
    label_run([crystal()], Springs(explode), HOT, tmp_path / "whole")
    for stop_at in (30, 140, 160, 175):
        stop, folder = StopRequest(), tmp_path / str(stop_at)
        with pytest.raises(Interrupted):
            label_run([crystal()], Springs(explode, stop=stop, stop_at=stop_at), HOT, folder, stop=stop)
        label_run([crystal()], Springs(explode), HOT, folder)
        assert content(folder) == content(tmp_path / "whole")


def nan(_answer: Prediction) -> Prediction:
    return replace(_answer, forces=_answer.forces * torch.nan)


def raising(_answer: Prediction) -> Prediction:
    raise RuntimeError("SCF did not converge")


def half(_answer: Prediction) -> Prediction:
    return replace(_answer, forces=_answer.forces.half())


@pytest.mark.parametrize("fault", [nan, raising, half])
def test_few_broken_labels_are_left_out(fault: Callable[[Prediction], Prediction], tmp_path: Path, trust: Any) -> None:
    settings = replace(SETTINGS, probes=0, rattles=(0.05,) * 60)
    results = label_run([crystal()], Springs(lambda n, p, _s: fault(p) if n == 20 else p), settings, tmp_path)
    planned = results.values["planned_frames"].value
    assert planned is not None and results.values["frames"].value == planned - 1
    assert len(results.notes) == 1 and "left out" in results.notes[0]
    assert len(list((tmp_path / "broken").glob("*.extxyz"))) == 1
    trust(
        "T37",
        f"one broken answer ({fault.__name__}) in a run",
        "left out, counted, structure saved",
        "frame skipped",
        planted=True,
    )


@pytest.mark.parametrize("fault", [nan, raising, half])
def test_many_broken_labels_stop_the_run(fault: Callable[[Prediction], Prediction], tmp_path: Path, trust: Any) -> None:
    settings = replace(SETTINGS, probes=0, rattles=(0.05,) * 60)
    springs = Springs(lambda n, p, _s: fault(p) if n % 10 == 0 else p)
    with pytest.raises(MdistillError, match=r"failed on \d+ of \d+ structures"):
        label_run([crystal()], springs, settings, tmp_path)
    assert springs.calls < 60
    assert len(LabelStore(tmp_path)) > 0
    trust(
        "T37", f"10 % broken answers ({fault.__name__}) stop the run at call", springs.calls, "> 5 % stops the run", planted=True
    )


def test_more_than_five_percent_of_a_short_run_is_an_error_too(tmp_path: Path) -> None:
    springs = Springs(lambda n, p, _s: nan(p) if n == 3 else p)
    settings = replace(SETTINGS, temperatures_K=(), contacts=0)
    with pytest.raises(MdistillError, match="failed on 1 of 6"):
        label_run([crystal()], springs, settings, tmp_path)
    assert len(LabelStore(tmp_path)) == 5


def test_forces_beyond_the_cap_are_no_failure_of_the_teacher(tmp_path: Path) -> None:
    results = label_run([crystal()], Springs(), replace(SETTINGS, temperatures_K=(), largest_force=1.5), tmp_path)
    assert any("above the cap" in line for line in results.notes)


def test_a_failure_within_dynamics_is_repeated_once(uninterrupted: tuple[list[Any], int], tmp_path: Path) -> None:
    label_run([crystal(), crystal()], Springs(lambda n, p, _s: raising(p) if n == 32 else p), SETTINGS, tmp_path)
    assert content(tmp_path) == uninterrupted[0]


def test_two_failures_within_dynamics_stop_with_the_structure_saved(
    uninterrupted: tuple[list[Any], int], tmp_path: Path, trust: Any
) -> None:
    with pytest.raises(MdistillError, match=r"failed twice after step .* SCF did not converge"):
        label_run([crystal(), crystal()], Springs(lambda n, p, _s: raising(p) if n >= 33 else p), SETTINGS, tmp_path)
    (saved,) = (tmp_path / "broken").glob("*.extxyz")
    assert saved.stat().st_size > 0
    label_run([crystal(), crystal()], Springs(), SETTINGS, tmp_path)
    assert content(tmp_path) == uninterrupted[0]
    trust(
        "T37",
        "teacher that fails within dynamics",
        "stopped, structure saved, resumed bit-equal",
        "stop with the frame saved",
        planted=True,
    )


def test_labels_of_given_structures(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    found = [
        replace(crystal(), positions=SITES + 0.05 * torch.randn((4, 3), generator=random, dtype=torch.float64)) for _ in range(20)
    ]
    for folder, stops in ((tmp_path / "whole", []), (tmp_path / "parts", [3, 7, 11])):
        store = LabelStore(folder)
        label_run([crystal()], Springs(), SETTINGS, folder)
        for stop_at in stops:
            stop = StopRequest()
            with pytest.raises(Interrupted):
                label_structures(found, Springs(stop=stop, stop_at=stop_at), store, name="round-1", settings=SETTINGS, stop=stop)
        assert (
            label_structures(
                found, Springs(), store, name="round-1", settings=SETTINGS, temperature_K=900.0 if not stops else 0.0
            )
            == 20
        )
    whole, parts = content(tmp_path / "whole"), content(tmp_path / "parts")
    assert [f[2:] for f in whole] == [f[2:] for f in parts]
    mine = [f for f in whole if f[0] == "on-policy"]
    assert sorted({f[2] for f in mine}) == [11, 12, 13]
    springs = Springs()
    assert label_structures(found, springs, LabelStore(tmp_path / "whole"), name="round-1", settings=SETTINGS) == 20
    assert springs.calls == 0


def test_max_frames_shortens_the_ladder() -> None:
    alone = replace(SETTINGS, displaced=0)
    tasks = plan([crystal()], replace(alone, max_frames=8 + 2 * 4))
    assert sum(task.frames for task in tasks) == 16
    for most in (8 + 2 * 2 * 4, 8 + 2 * 2 * 8 - 1):
        copied = replace(SETTINGS, max_frames=most)
        assert sum(task_frames(task, copied) for task in plan([crystal()], copied)) == 24
    with pytest.raises(BadInput, match="max_frames: 15"):
        plan([crystal()], replace(alone, max_frames=15))
    with pytest.raises(BadInput, match="max_frames: 23"):
        plan([crystal()], replace(SETTINGS, max_frames=23))
    with pytest.raises(BadInput, match="structures"):
        plan([], SETTINGS)


def test_open_structures_are_not_strained() -> None:
    molecule = replace(crystal(), pbc=torch.zeros((1, 3), dtype=torch.bool))
    assert {task.kind for task in plan([molecule], SETTINGS)} == {"rattle", "contact", "md"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperatures", (300.0, 0.0)), ("temperatures", (-5.0,)), ("time_step_fs", 0.0), ("time_step_fs", -1.0),
        ("time_step_fs", float("nan")), ("every_fs", 0.5), ("blocks", 0), ("frames", 0), ("probe_every", 0), ("probes", -1),
        ("strains", (0.5,)), ("rattles", (0.0,)), ("largest_force", 0.0), ("timeout_s", -1.0), ("max_frames", 0),
        ("friction_per_ps", 0.0), ("equilibration_fs", -1.0),
    ],
)  # fmt: skip
def test_bad_settings_are_named(name: str, value: Any) -> None:
    with pytest.raises(BadInput, match=name):
        replace(SETTINGS, **{"temperatures_K" if name == "temperatures" else name: value})


def test_results_table(tmp_path: Path) -> None:
    results = label_run([crystal()], Springs(), SETTINGS, tmp_path)
    (table,) = results.tables
    assert [row[0] for row in table.rows] == ["contact", "displaced", "md", "md", "rattle", "relaxed", "strain"]
    assert sum(row[2] for row in table.rows) == results.values["frames"].value  # type: ignore[misc]
    frames: list[LabelledFrame] = LabelStore(tmp_path).read(lambda f: f.temperature_K == 600.0)
    force = torch.cat([f.target.forces for f in frames]).norm(dim=1)
    assert table.rows[3][5] == pytest.approx(1e3 * float(force.mean()))


def test_defects_are_labelled_with_their_kind_and_change_no_other_label(tmp_path: Path) -> None:
    box, teacher = random_box(0, atoms=10, closest=2.2), Conservative(MorseNet())
    short = replace(SETTINGS, temperatures_K=(50.0,), frames=4, time_step_fs=0.5, every_fs=1.0, equilibration_fs=1.0, contacts=0)
    plain, more = (replace(short, largest_force=1e4, defects=count) for count in (None, 4))
    for name, settings in (("plain", plain), ("more", more)):
        label_run([box], teacher, settings, tmp_path / name)
    added = LabelStore(tmp_path / "more").read(lambda f: f.source in ("vacancy", "swap"))
    assert [f.source for f in added] == ["vacancy", "swap", "vacancy", "swap"]
    assert [f.system.n_atoms for f in added] == [9, 10, 9, 10] and all(bool(f.target.energy.isfinite()) for f in added)
    still = [row for row in content(tmp_path / "more") if row[0] in ("strain", "rattle", "relaxed")]
    assert still == [row for row in content(tmp_path / "plain") if row[0] in ("strain", "rattle", "relaxed")]
    assert estimate_cost([box], more, 1.0)[0] > estimate_cost([box], plain, 1.0)[0]
    results = label_run([box], teacher, more, tmp_path / "more")
    assert {"vacancy", "swap"} <= {str(row[0]) for row in results.tables[0].rows}


def test_a_run_of_a_version_without_defects_resumes(tmp_path: Path) -> None:
    label_run([crystal()], Springs(), SETTINGS, tmp_path)
    ledger = Ledger(tmp_path)
    raw = ledger.entries()
    raw["labels"]["settings"].pop("defects")
    write_json(tmp_path / LEDGER, sealed({"format": FORMAT, "work": raw}))
    springs = Springs()
    label_run([crystal()], springs, SETTINGS, tmp_path)
    assert springs.calls == 0
