"""Training of a long-stride map: it learns the exact flow, resumes bit for bit, and its file holds all of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator

from mdistill.data.relax import relax
from mdistill.data.segments import Segment
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, Interrupted
from mdistill.interrupt import StopRequest
from mdistill.nets.model_files import load_map, load_net, read_metadata, save_model
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import lighter
from mdistill.nets.splitting_map import SplittingMap
from mdistill.simulation.evaluator import Evaluator
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.langevin import Baoab
from mdistill.simulation.rollout import Collect, rollout
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.training.potential import MODEL as POTENTIAL
from mdistill.training.settings import FitSettings, StrideSettings
from mdistill.training.splitting_map import labelled, set_limits, splitting_map_of
from mdistill.training.stride import MODEL, one_stride_errors, train_stride
from mdistill.training.stride_objective import StrideObjective, errors
from mdistill.training.windows import join_windows, windows_of
from mdistill.units import KINETIC
from systems import random_box, tiny_net, tiny_painn

KELVIN = 60.0


def stiff_net() -> MomentNet:
    """A random student stiff enough that steps of 8 fs are too long for it."""
    net = tiny_net(3, hidden=0)
    net.scale.fill_(40.0)
    return net


@pytest.fixture(scope="module")
def flow() -> list[Segment]:
    """Segments of the exact flow of a random student."""
    net = stiff_net()
    evaluate = Evaluator(Conservative(net))
    generator = Generator().manual_seed(0)
    rest = relax(random_box(3, atoms=8, periodic=False), Conservative(net), max_steps=300, largest_force=0.01)[0]
    state = evaluated(initial_state(rest, temperature_K=KELVIN, generator=generator), evaluate)
    warm = Baoab(evaluate=evaluate, time_step=1.0, temperature_K=KELVIN, friction_per_ps=50.0)
    exact = VelocityVerlet(evaluate=evaluate, time_step=0.5)
    segments = []
    state = rollout(state, warm, steps=200, generator=generator)
    for block in range(10):
        state = rollout(state, warm, steps=20, generator=generator)
        frames = Collect(every=8)
        frames(0, state)
        rollout(state, exact, steps=32, generator=generator, observers=[frames])
        run = frames.trajectory()
        segments.append(
            Segment(system=state.system, masses=state.masses, positions=run.positions, momenta=run.momenta, every_fs=4.0,
                    temperature_K=KELVIN, block=block)
        )  # fmt: skip
    return segments


@pytest.fixture
def student(tmp_path):
    path = tmp_path / "student.mdistill"
    save_model(path, stiff_net())
    return path


def settings(steps: int = 80, **changed) -> StrideSettings:
    fit = FitSettings(steps=steps, batch_size=4, learning_rate=1e-3, warmup=5)
    return StrideSettings(**({"stride_fs": 16.0, "kicks": 2, "fit": fit, "float64": True, "kick_size": "student"} | changed))


def test_it_learns_what_verlet_misses(flow, student, tmp_path):
    held_out = windows_of(flow[-1:], 16.0)
    before = one_stride_errors(splitting_map_of(load_net(student), settings()), held_out)
    result = train_stride(flow, student, settings(), tmp_path / "map")
    assert result.errors["momentum"] < 0.75 * before["momentum"]
    assert result.errors["position"] < 0.75 * before["position"]
    found = one_stride_errors(load_map(result.path), held_out)
    assert found == pytest.approx({name: result.errors[name] for name in found}, rel=1e-9)
    assert 0.0 <= result.errors["wrong"] < 0.5 and 0.0 <= result.errors["wrong, noticed"] <= 1.0
    limits = load_map(result.path).largest_force
    assert bool((limits < 100.0).all()) and bool((limits.amax(1) > 0.1).all())


def test_what_adjusts_a_map_is_in_its_file_and_its_limits(flow, student, tmp_path):
    seen = []

    def adjust(net: SplittingMap) -> dict[str, float]:
        seen.append(net.largest_force.clone())
        net.scale_kicks(1.05)
        return {"factor": 1.05}

    plain = train_stride(flow, student, settings(10), tmp_path / "plain")
    adjusted = train_stride(flow, student, settings(10), tmp_path / "adjusted", adjust=adjust)
    first, second = load_map(plain.path), load_map(adjusted.path)
    assert plain.adjusted == {} and adjusted.adjusted == {"factor": 1.05}
    assert read_metadata(adjusted.path)["provenance"]["adjusted"] == {"factor": 1.05}
    for a, b in zip(first.stages, second.stages, strict=True):
        assert float(b.scale / a.scale) == pytest.approx(1.05, rel=1e-12)
    assert bool((seen[0] < 100.0).all()), "it has limits when it is adjusted"
    assert adjusted.errors["momentum"] != plain.errors["momentum"], "errors are those of the map in the file"
    assert not torch.equal(second.looked_at, first.looked_at), "limits too"


@pytest.mark.parametrize(("kicks", "stride"), [(1, 8.0), (2, 16.0)])
def test_a_fiftieth_of_the_strides_that_are_right_is_looked_at(flow, student, kicks, stride):
    net, windows = (
        splitting_map_of(load_net(student), settings(stride_fs=stride, kicks=kicks)),
        windows_of(flow, stride, every_fs=4.0),
    )
    set_limits(net, load_net(student), windows)
    changes, wrong = [], []
    with torch.no_grad():
        for window in windows:
            positions, momenta = net(window.system, window.momenta, window.masses, stride)
            batch = join_windows([window])
            error = sum(errors(batch, positions - window.positions_after[0], momenta - window.momenta_after[0]))
            wrong.append(float(error.mean()))
            energies = []
            for system, moving in ((window.system, window.momenta), (replace(window.system, positions=positions), momenta)):
                kinetic = 0.5 * KINETIC * float((moving.square().sum(1) / window.masses).sum())
                energies.append(kinetic + float(Evaluator(Conservative(net.stages[0]))(system).energy[0]))
            changes.append(abs(energies[1] - energies[0]) / window.system.n_atoms**0.5)
    error, change = torch.tensor(wrong), torch.tensor(changes)
    right = error <= 16.0 * error.median()
    share = float((change[right] > float(net.looked_at)).double().mean())
    assert 0.0 < share < max(0.03, 1.5 / len(windows))


def test_light_kicks_begin_as_a_lighter_potential_that_the_student_taught(flow, student, tmp_path):
    result = train_stride(flow, student, settings(150, kick_size="light"), tmp_path / "map")
    own, light, kick = load_net(student), load_map(result.path), load_net(tmp_path / "map" / "kick" / POTENTIAL)
    size = replace(lighter(own.settings), elements=kick.settings.elements)
    assert light.settings.potential == size == kick.settings and size.degree == 2 < own.settings.degree
    assert size.cutoff == own.settings.cutoff and size.elements == tuple(sorted(set(flow[0].system.numbers.tolist())))
    frames = labelled(flow[-1:], Conservative(own))
    true = torch.cat([frame.target.forces for frame in frames])
    found = torch.cat([Evaluator(Conservative(kick))(frame.system).forces for frame in frames])
    assert float((found - true).square().mean()) < 0.25 * float(true.square().mean()), "it must have learned the student's forces"
    assert load_map(result.path).largest_force.shape[1] == len(size.elements) and result.errors["momentum"] < 1.0
    train_stride(flow, student, settings(2), tmp_path / "as large")
    assert (
        load_map(tmp_path / "as large" / MODEL).settings.potential == own.settings
        and not (tmp_path / "as large" / "kick").exists()
    )


def test_before_training_it_is_velocity_verlet(flow, student):
    net, window = splitting_map_of(load_net(student), settings()), windows_of(flow[:1], 16.0)[0]
    positions, momenta = net(window.system, window.momenta, window.masses, 16.0)
    evaluate = Evaluator(Conservative(load_net(student)))
    start = replace(initial_state(window.system, temperature_K=1.0, generator=Generator().manual_seed(0)), momenta=window.momenta)
    after = rollout(start, VelocityVerlet(evaluate=evaluate, time_step=8.0), steps=2, generator=Generator())
    torch.testing.assert_close(positions, after.system.positions, rtol=0, atol=1e-11)
    torch.testing.assert_close(momenta, after.momenta, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("kick_size", "after"), [("student", 7), ("light", 7), ("light", 20)])
def test_an_interrupted_training_resumes_bit_for_bit(flow, student, tmp_path, kick_size, after):
    class After(StopRequest):
        def __init__(self, steps: int) -> None:
            self.left = steps

        def pending(self) -> bool:
            self.left -= 1
            return self.left < 0

        def raise_if_pending(self) -> None:
            raise Interrupted("stopped")

    how = settings(12, kick_size=kick_size)
    whole = train_stride(flow, student, how, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_stride(flow, student, how, tmp_path / "halves", stop=After(after))
    assert (tmp_path / "halves" / "kick" / POTENTIAL).is_file() == (after == 20), (
        "interrupted in the kick's training or in the map's"
    )
    halves = train_stride(flow, student, how, tmp_path / "halves")
    assert halves.sha256 == whole.sha256


def test_the_loss_is_zero_on_the_exact_flow_and_counts_every_part(flow):
    class Exact(torch.nn.Module):
        """Gives the answers, wrong by a little where asked."""

        def __init__(self, batch, *, shift=0.0, kick=0.0) -> None:
            super().__init__()
            self.batch, self.shift, self.kick, self.at = batch, shift, kick, 0

        def forward(self, system, momenta, masses, stride_fs):
            k, self.at = self.at, self.at + 1
            return self.batch.positions_after[k] + self.shift, self.batch.momenta_after[k] + self.kick

    windows = windows_of(flow[:2], 8.0, strides=2)
    batch = join_windows(windows)
    objective = StrideObjective(energy=stiff_net(), energy_weight=1.0)
    loss, found = objective(Exact(batch), windows, -1)
    assert float(loss) == 0.0 and found == {"position": 0.0, "momentum": 0.0, "energy": 0.0}
    shifted = objective(Exact(batch, shift=0.01), windows, -1)[1]
    assert shifted["position"] > 0.0 == shifted["momentum"] and shifted["energy"] < 1e-9, "a shift of all atoms costs no energy"
    kicked = objective(Exact(batch, kick=0.01), windows, -1)[1]
    assert kicked["momentum"] > 0.0 == kicked["position"] and kicked["energy"] > 0.0


def test_what_cannot_be_is_refused(flow, student, tmp_path):
    with pytest.raises(BadInput, match="multiples of 4 fs"):
        train_stride(flow, student, settings(stride_fs=18.0), tmp_path / "map")
    message_passing = tmp_path / "painn.mdistill"
    save_model(message_passing, tiny_painn())
    with pytest.raises(BadInput, match="moment student"):
        train_stride(flow, message_passing, settings(), tmp_path / "map")
    with pytest.raises(BadInput, match="splitting"):
        load_map(student)
    net = splitting_map_of(load_net(student), settings())
    save_model(tmp_path / "stride.mdistill", net)
    with pytest.raises(BadInput, match="a model of kind 'splitting'"):
        load_net(tmp_path / "stride.mdistill")
    with pytest.raises(BadInput, match="16 fs"):
        net(flow[0].system, flow[0].momenta[0], flow[0].masses, 8.0)
    for wrong in ({"stride_fs": 0.0}, {"stride_fs": 1e3}, {"kicks": -1}, {"strides": 0}, {"held_out": 1.0}):
        with pytest.raises(BadInput):
            settings(**wrong)
    with pytest.raises(BadInput, match="that size"):
        SplittingMap(net.settings).begin_as(tiny_net(0))
