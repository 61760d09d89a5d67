"""Restart files: bit for bit, and refused when damaged."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.simulation import restart
from mdistill.simulation.restart import RestartPoint, load_restart, save_restart
from mdistill.types import Prediction, RunningSums, State


def point(*, known: bool = True, middle: bool = True) -> RestartPoint:
    generator = Generator().manual_seed(4)
    torch.randn(5, generator=generator)
    system = make_system(
        np.random.default_rng(0).normal(size=(4, 3)), np.array([3, 16, 15, 1]), 5 * np.eye(3), [True, False, True]
    )
    momenta = torch.randn((4, 3), generator=generator, dtype=torch.float64)
    stress = torch.rand((1, 3, 3), dtype=torch.float64)
    prediction = Prediction(energy=torch.tensor([-1.0 / 3.0], dtype=torch.float64), forces=momenta / 7, stress=stress)
    masses_by_element = torch.tensor([0.1, 0.2, 0.3, 1.0 / 3.0], dtype=torch.float64)
    state = State(
        system=system,
        momenta=momenta,
        masses=torch.rand(4, dtype=torch.float64),
        time=0.1 + 0.2,
        prediction=prediction if known else None,
        middle_momenta=momenta / 3 if middle else None,
        running_sums=RunningSums(steps=7, evaluated=3, potential=-1.0 / 3.0, pressure=0.1, kinetic=masses_by_element)
        if middle
        else None,
    )
    return RestartPoint(step=-17, state=state, generator_state=generator.get_state(), extras={"seconds": 1.0 / 3.0})


@pytest.mark.parametrize(("known", "middle"), [(True, True), (True, False), (False, False)])
def test_round_trip_is_exact(known: bool, middle: bool, tmp_path: Path) -> None:
    saved = point(known=known, middle=middle)
    save_restart(tmp_path / "r.npz", saved)
    loaded = load_restart(tmp_path / "r.npz")
    assert (loaded.step, loaded.extras, loaded.state.time) == (saved.step, saved.extras, saved.state.time)
    for name in ("positions", "numbers", "cell", "pbc", "owner"):
        assert torch.equal(getattr(loaded.state.system, name), getattr(saved.state.system, name))
    assert torch.equal(loaded.state.momenta, saved.state.momenta) and torch.equal(loaded.state.masses, saved.state.masses)
    assert (loaded.state.middle_momenta is None) == (not middle)
    assert (loaded.state.running_sums is None) == (not middle)
    if middle:
        was, now = saved.state.running_sums, loaded.state.running_sums
        assert (now.steps, now.evaluated, now.potential, now.pressure) == (was.steps, was.evaluated, was.potential, was.pressure)
        assert torch.equal(now.kinetic, was.kinetic)
    if known:
        assert torch.equal(loaded.state.prediction.stress, saved.state.prediction.stress)
        assert torch.equal(loaded.state.prediction.energy, saved.state.prediction.energy)
    else:
        assert loaded.state.prediction is None
    assert torch.equal(torch.rand(9, generator=loaded.generator()), torch.rand(9, generator=saved.generator()))


def test_a_missing_stress_stays_missing(tmp_path: Path) -> None:
    saved = point()
    bare = replace(saved.state, prediction=replace(saved.state.prediction, stress=None))
    save_restart(tmp_path / "r.npz", replace(saved, state=bare))
    assert load_restart(tmp_path / "r.npz").state.prediction.stress is None


def test_any_damage_is_refused_or_harmless(tmp_path: Path, trust: Callable[..., None]) -> None:
    """T39: every byte region flipped; the file is refused, or what it holds is what was saved."""
    path = tmp_path / "r.npz"
    save_restart(path, point())
    whole, refused = path.read_bytes(), 0
    places = range(0, len(whole), max(1, len(whole) // 150))
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            loaded = load_restart(path)
        except BadInput:
            refused += 1
        else:
            assert torch.equal(loaded.state.momenta, point().state.momenta) and loaded.step == -17
    assert refused > 0.8 * len(places)
    for share in range(0, 100, 5):
        path.write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(BadInput, match=r"(?s)r\.npz.*fix:"):
            load_restart(path)
    trust("T39", "altered restart files that were refused (the others hold the same numbers)", refused, f"of {len(places)}")


class Canary:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (open, ("canary", "w"))


def test_strange_files_are_refused_and_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.npz"
    with pytest.raises(BadInput):
        load_restart(path)
    for content in (b"", b"PK\x03\x04", b"hello", pickle.dumps(Canary())):
        path.write_bytes(content)
        with pytest.raises(BadInput):
            load_restart(path)
    np.savez(path, digest=np.array([Canary()], dtype=object), header=np.zeros(1))
    with pytest.raises(BadInput):
        load_restart(path)
    assert not (tmp_path / "canary").exists()


def test_files_of_format_1_are_read(tmp_path, monkeypatch):
    saved = point(middle=False)
    monkeypatch.setattr(restart, "FORMAT", 1)
    save_restart(tmp_path / "restart.npz", saved)
    monkeypatch.undo()
    found = load_restart(tmp_path / "restart.npz")
    assert found.step == saved.step and found.state.running_sums is None
    monkeypatch.setattr(restart, "FORMAT", 4)
    save_restart(tmp_path / "newer.npz", saved)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="format is 4"):
        load_restart(tmp_path / "newer.npz")


def test_a_tally_of_format_2_was_evaluated_at_every_step(tmp_path, monkeypatch):
    saved = point()
    monkeypatch.setattr(restart, "FORMAT", 2)
    save_restart(tmp_path / "new.npz", saved)
    with np.load(tmp_path / "new.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "digest"}
    arrays["running_sums"] = np.delete(arrays["running_sums"], 1)
    np.savez(tmp_path / "old.npz", digest=restart._digest(arrays), **arrays)
    monkeypatch.undo()
    was, now = saved.state.running_sums, load_restart(tmp_path / "old.npz").state.running_sums
    assert (now.steps, now.evaluated, now.potential, now.pressure) == (was.steps, was.steps, was.potential, was.pressure)
    assert torch.equal(now.kinetic, was.kinetic)
