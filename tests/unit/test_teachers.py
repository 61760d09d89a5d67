"""Teachers against their own ASE calculators, their curvature against differences, and what goes wrong with them."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from mdistill.derivatives import Conservative, curvature_by_differences, hessian
from mdistill.errors import BadInput, MdistillError, MdistillNotice, MissingPackage
from mdistill.graph import build_graph, concatenate, edge_vectors, make_system, turned
from mdistill.kernels.build import NoKernel, compiler
from mdistill.teachers import GOLDEN_LIMITS, TEACHERS, check_teacher, find_teacher, golden, golden_system, load_teacher
from mdistill.teachers.ase import TeacherFailure, from_calculator
from mdistill.types import CurvedPotential, Potential, Prediction, System
from mdistill.units import GPA

pytestmark = pytest.mark.teacher
QUICK = ("sevennet-0", "chgnet")
"""Teachers that `make test` loads; the others are for `make test-all`."""
NAMES = [name for name, card in TEACHERS.items() if golden(name) and importlib.util.find_spec(card.package)]
_LOADED: dict[str, Potential] = {}


def teacher(name: str) -> Any:
    """Each teacher is loaded once."""
    if name not in NAMES:
        pytest.skip(f"{name} is not installed")
    if name not in _LOADED:
        _LOADED[name] = load_teacher(name)
    return _LOADED[name]


def own_calculator(name: str) -> Calculator:
    if name == "chgnet":
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(use_device="cpu")
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


def system_of(atoms: Atoms) -> System:
    return make_system(atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)


def ask(potential: Potential, system: System) -> Prediction:
    return potential(build_graph(system, potential.cutoff))


@dataclass(frozen=True)
class Altered:
    """A potential whose answers pass through a function: how bugs are planted."""

    inner: Any
    change: Any

    @property
    def cutoff(self) -> float:
        return self.inner.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.inner.elements

    @property
    def name(self) -> str:
        return self.inner.name

    def __call__(self, graph: Any) -> Prediction:
        return self.change(self.inner(graph))


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_golden_answers(name: str, trust: Any) -> None:
    worst = check_teacher(teacher(name), name)
    for key, limit in GOLDEN_LIMITS.items():
        assert worst[key] <= limit
    trust("T10", f"{name}: energy against stored answers of its own calculator (eV/atom)", worst["energy"], "≤ 1e-5")
    trust("T10", f"{name}: forces against stored answers of its own calculator (eV/Å)", worst["forces"], "≤ 1e-4")
    trust("T10", f"{name}: stress against stored answers of its own calculator (eV/Å³)", worst["stress"], "≤ 1e-5")


@pytest.mark.planted
@pytest.mark.parametrize(
    ("bug", "change"),
    [
        ("stress in GPa", lambda p: replace(p, stress=p.stress / GPA)),
        ("stress with the opposite sign", lambda p: replace(p, stress=-p.stress)),
        ("stress missing", lambda p: replace(p, stress=None)),
        ("forces with the opposite sign", lambda p: replace(p, forces=-p.forces)),
        ("energy in eV/atom", lambda p: replace(p, energy=p.energy / len(p.forces))),
        ("forces in another order", lambda p: replace(p, forces=p.forces.flip(0))),
        ("energy not a number", lambda p: replace(p, energy=p.energy * torch.nan)),
    ],
)
def test_golden_check_catches(bug: str, change: Any, trust: Any) -> None:
    with pytest.raises(MdistillError, match="differ from the stored"):
        check_teacher(Altered(teacher("chgnet"), change), "chgnet")
    trust("T10", f"planted: {bug}", "caught", "the golden check fails", planted=True)


@pytest.mark.planted
def test_golden_check_catches_other_weights(trust: Any) -> None:
    with pytest.raises(MdistillError, match="package and weights do not match"):
        check_teacher(teacher("sevennet-mf-0-pbe"), "sevennet-mf-0")
    trust("T10", "planted: weights of another level of theory", "caught", "the golden check fails", planted=True)


@pytest.mark.parametrize("name", ["sevennet-0", "chgnet"])
def test_against_own_calculator(name: str, trust: Any) -> None:
    potential, calculator = teacher(name), own_calculator(name)
    worst = dict.fromkeys(GOLDEN_LIMITS, 0.0)
    for seed in range(3):
        random = np.random.default_rng(seed)
        atoms = bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)
        atoms.set_cell(atoms.cell.array + random.normal(scale=0.1, size=(3, 3)), scale_atoms=True)
        atoms.positions += random.normal(scale=0.15, size=(4, 3)) + 9.0
        atoms.calc = calculator
        found = ask(potential, system_of(atoms))
        assert found.stress is not None
        parts = {
            "energy": abs(float(found.energy[0]) - atoms.get_potential_energy()) / 4,
            "forces": np.abs(found.forces.numpy() - atoms.get_forces()).max(),
            "stress": np.abs(found.stress[0].numpy() - atoms.get_stress(voigt=False)).max(),
        }
        worst = {key: max(worst[key], float(parts[key])) for key in worst}
    assert all(worst[key] <= limit for key, limit in GOLDEN_LIMITS.items()), worst
    trust("T10", f"{name}: forces against its own calculator now (eV/Å)", worst["forces"], "≤ 1e-4")
    trust("T10", f"{name}: stress against its own calculator now (eV/Å³)", worst["stress"], "≤ 1e-5")


STEPS = {"sevennet-0": 0.002, "chgnet": 0.0005}
"""Å. CHGNet's surface is rough on a scale of 0.02 Å: differences of 0.002 Å are 6 % off, those of 0.01 Å 20 %."""


def curvature_error(name: str, *, factor: float = 1.0) -> float:
    """Largest difference between curvature by autodiff and by differences, relative to the largest entry."""
    potential = teacher(name)
    system = golden_system(golden(name)["frames"][0])
    probes = torch.randn((2, system.n_atoms, 3), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = factor * potential.curvature(build_graph(system, potential.cutoff), probes)
    near, far = (curvature_by_differences(potential, system, probes, step=scale * STEPS[name]) for scale in (1.0, 2.0))
    return float((exact - (4.0 * near - far) / 3.0).abs().max() / exact.abs().max())


@pytest.mark.parametrize("name", ["sevennet-0", "chgnet"])
def test_curvature_by_autodiff_and_by_differences_agree(name: str, trust: Any) -> None:
    assert isinstance(teacher(name), CurvedPotential)
    error = curvature_error(name)
    assert error < 2e-3
    trust(
        "T10",
        f"{name}: curvature products, autodiff against extrapolated differences of {STEPS[name]} Å (relative)",
        error,
        "< 2e-3",
    )


@pytest.mark.slow
def test_hessian_of_a_teacher_is_symmetric_and_that_of_differences(trust: Any) -> None:
    """All rows by vector–Jacobian products; some again from SevenNet's forces alone, extrapolated."""
    potential = teacher("sevennet-0")
    system = golden_system(golden("sevennet-0")["frames"][1])
    exact = hessian(potential, system)
    size = float(exact.abs().max())
    matrix = exact.reshape(len(exact), -1)
    assert float((matrix - matrix.T).abs().max()) < 1e-4 * size
    assert float(exact.sum(1).abs().max()) < 1e-4 * size
    rows = [0, 7, len(exact) - 1]
    plain = Altered(potential, lambda prediction: prediction)
    near, far = (hessian(plain, system, rows=rows, step=step) for step in (0.005, 0.01))
    error = float(((4.0 * near - far) / 3.0 - exact[rows]).abs().max()) / size
    assert error < 2e-3
    trust("T10", "sevennet-0: rows of the Hessian, autodiff against extrapolated differences (relative)", error, "< 2e-3")


@pytest.mark.planted
@pytest.mark.parametrize("factor", [-1.0, 0.5])
def test_curvature_check_catches(factor: float, trust: Any) -> None:
    assert curvature_error("chgnet", factor=factor) > 0.4
    trust("T10", f"planted: curvature times {factor:g}", "caught", "the two disagree", planted=True)


@pytest.mark.parametrize("name", ["sevennet-0", "chgnet"])
def test_a_batch_is_its_structs(name: str) -> None:
    potential = teacher(name)
    molecule = Atoms("OH2", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    parts = [system_of(bulk("MgO", "rocksalt", a=4.3)), system_of(molecule), system_of(Atoms("Li"))]
    together = ask(potential, concatenate(parts))
    alone = [ask(potential, part) for part in parts]
    assert together.stress is None
    assert alone[0].stress is not None and alone[1].stress is None
    torch.testing.assert_close(together.energy, torch.cat([p.energy for p in alone]), rtol=0, atol=2e-5)
    torch.testing.assert_close(together.forces, torch.cat([p.forces for p in alone]), rtol=0, atol=2e-5)
    assert bool((alone[2].forces == 0).all())


@pytest.mark.parametrize("name", ["sevennet-0", "chgnet"])
def test_where_atoms_are_stored_does_not_matter(name: str) -> None:
    potential = teacher(name)
    system = golden_system(golden(name)["frames"][1])
    before = ask(potential, system)
    images = torch.tensor([[3, 0, -2], [0, 1, 0], [0, 0, 0], [-4, 2, 1], [0, 0, 5], [1, 1, 1], [0, -1, 0], [2, 0, 0]]).double()
    moved = replace(system, positions=(system.positions + images @ system.cell[0]).flip(0), numbers=system.numbers.flip(0))
    after = ask(potential, moved)
    torch.testing.assert_close(before.energy, after.energy, rtol=0, atol=2e-5)
    torch.testing.assert_close(before.forces, after.forces.flip(0), rtol=0, atol=2e-5)


def test_unknown_element_is_named() -> None:
    for name in ("sevennet-0", "chgnet"):
        with pytest.raises(BadInput, match="does not know Rn"):
            ask(teacher(name), system_of(Atoms("RnLi", positions=[[0, 0, 0], [0, 0, 2]])))


def test_names_and_suggestion() -> None:
    assert find_teacher("7NET-0").name == find_teacher("SevenNet_0").name == "sevennet-0"
    assert find_teacher("CHGNet-0.3.0").name == "chgnet"
    with pytest.raises(BadInput, match=r"did you mean 'sevennet-0'\?") as error:
        load_teacher("sevenet0")
    assert "chgnet" in error.value.allowed


@pytest.mark.parametrize(("name", "package", "extra"), [("7net-0", "sevenn", "sevennet"), ("chgnet", "chgnet", "chgnet")])
def test_missing_package_names_the_pip_line(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=rf'pip install "mdistill\[{extra}\]"') as error:
        load_teacher(name)
    assert error.value.exit_status == 2


def test_noise_goes_to_the_log(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    if "chgnet" not in NAMES:
        pytest.skip("chgnet is not installed")
    with caplog.at_level(logging.INFO, logger="mdistill.teachers"):
        load_teacher("chgnet")
    assert capfd.readouterr() == ("", "")
    assert "initialized with" in caplog.text


@pytest.mark.slow
def test_loading_in_a_fresh_process_is_silent_and_changes_no_global_state() -> None:
    if "sevennet-0" not in NAMES:
        pytest.skip("sevenn is not installed")
    code = (
        "import torch; torch.set_num_threads(1); before = (torch.get_default_dtype(), torch.get_num_threads(), torch.load)\n"
        "from mdistill.teachers import load_teacher; load_teacher('sevennet-0')\n"
        "assert before == (torch.get_default_dtype(), torch.get_num_threads(), torch.load) and torch.is_grad_enabled()"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Stub(Calculator):
    """An ASE calculator whose answers are given."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self.answers = answers

    def calculate(self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)} | self.answers


class Sorting(EMT):
    """A calculator that computes the atoms in another order than it was given."""

    def calculate(self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        assert atoms is not None
        super().calculate(atoms[np.argsort(atoms.numbers, kind="stable")], list(properties), system_changes)


ALLOY = bulk("Cu", "fcc", a=3.8, cubic=True)
ALLOY.numbers = [79, 29, 79, 29]
ALLOY.rattle(0.1, seed=1)


def test_any_calculator_by_path_or_object() -> None:
    atoms = ALLOY.copy()
    atoms.calc = EMT()
    for potential in (
        load_teacher("ase.calculators.emt:EMT"),
        load_teacher("ase:ase.calculators.emt:EMT"),
        from_calculator(EMT()),
    ):
        found = ask(potential, system_of(ALLOY))
        assert found.stress is not None
        assert float(found.energy[0]) == atoms.get_potential_energy()
        np.testing.assert_array_equal(found.forces.numpy(), atoms.get_forces())
        np.testing.assert_array_equal(found.stress[0].numpy(), atoms.get_stress(voigt=False))
        assert not isinstance(potential, CurvedPotential) and potential.cutoff == 0.0
    check_teacher(potential, "ase.calculators.emt:EMT", system=system_of(ALLOY))
    assert ask(potential, concatenate([system_of(ALLOY)] * 2)).forces.shape == (8, 3)


@pytest.mark.parametrize(
    "path", ["ase.calculators.emt:ENT", "no.such.module:x", ":x", "math:pi", "ase.calculators.emt:parameters"]
)
def test_import_path_that_leads_to_no_calculator(path: str) -> None:
    with pytest.raises(BadInput, match="teacher"):
        load_teacher(path)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"energy": float("nan")}, "energy is not finite"),
        ({"forces": np.full((4, 3), np.inf)}, "forces is not finite"),
        ({"forces": np.zeros((3, 3))}, r"forces has shape \(3, 3\)"),
        ({"forces": np.zeros((4, 3), dtype=np.float16)}, "float16"),
        ({"stress": np.zeros(9)}, r"stress has shape \(9,\)"),
        ({"forces": None}, r"forces has shape \(\)"),
        ({"energy": None}, "energy is not finite"),
    ],
)
def test_broken_answers_are_refused(answers: dict[str, Any], message: str, trust: Any) -> None:
    with pytest.raises(TeacherFailure, match=message):
        ask(from_calculator(Stub(**answers)), system_of(ALLOY))
    trust("T37", f"ASE teacher: {message}", "refused", "a clear error", planted=True)


def test_changed_atom_order_is_refused(trust: Any) -> None:
    with pytest.raises(TeacherFailure, match="atom order"):
        ask(from_calculator(Sorting()), system_of(ALLOY))
    unsorted = Altered(from_calculator(EMT()), lambda p: replace(p, forces=p.forces.sort(0).values))
    with pytest.raises(MdistillError, match="do not follow the atoms"):
        check_teacher(unsorted, "some.module:Calculator", system=system_of(ALLOY))
    trust("T37", "ASE teacher that computes the atoms in another order", "refused", "a clear error", planted=True)


def test_teachers_with_curvature_need_no_own_neighbour_search() -> None:
    for name in ("sevennet-0", "chgnet"):
        assert isinstance(teacher(name), CurvedPotential) and teacher(name).cutoff in (5.0, 6.0)


@pytest.mark.skipif("sevennet-0" not in NAMES, reason="sevenn is not installed")
def test_sevennet_shows_what_it_makes_of_atoms() -> None:
    """Features that the controls of curvature training are tied to: scalars that tell atoms apart, and begin by element."""
    net, system = teacher("sevennet-0").net, golden_system(golden("sevennet-0")["frames"][1])
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0])
    graphs = [build_graph(s, net.cutoff) for s in (system, turned(system, turn))]
    first, second = (net.node_features(graph, edge_vectors(graph)) for graph in graphs)
    assert first.shape == (system.n_atoms, net.node_width) and float(first.std(0).max()) > 1e-3
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4 * float(first.abs().max()))
    begun, elements = net.element_features(graphs[0]), tuple(system.numbers.unique().tolist())
    assert len(begun.unique(dim=0)) == len(elements)


@pytest.mark.skipif("sevennet-0" not in NAMES or compiler() is None, reason="no sevenn, or no C++ compiler")
def test_compiled_sevennet_answers_as_the_network_in_torch_does() -> None:
    """A batch of two structures, displaced; limits: a few times the scatter of float32."""
    potential, generator = teacher("sevennet-0"), torch.Generator().manual_seed(0)
    system = concatenate([golden_system(frame) for frame in golden("sevennet-0")["frames"] if all(frame["pbc"])][:2])
    noise = torch.randn(system.positions.shape, generator=generator, dtype=torch.float64)
    graph = build_graph(replace(system, positions=system.positions + 0.1 * noise), 5.0)
    fast, slow = potential(graph), Conservative(potential.net)(graph)
    assert system.n_structs == 2 and float(slow.forces.abs().max()) > 0.5
    assert float((fast.energy - slow.energy).abs().max()) < 2e-6 * system.n_atoms
    assert float((fast.forces - slow.forces).abs().max()) < 3e-5
    assert float((fast.stress - slow.stress).abs().max()) < 1e-6


@pytest.mark.skipif("sevennet-0" not in NAMES or compiler() is None, reason="no sevenn, or no C++ compiler")
def test_atoms_closer_than_the_first_knot_are_computed_in_torch() -> None:
    potential, system = teacher("sevennet-0"), golden_system(golden("sevennet-0")["frames"][0])
    positions = system.positions.clone()
    positions[1] = positions[0] + torch.tensor([0.2, 0.0, 0.0])
    graph = build_graph(replace(system, positions=positions), 5.0)
    fast, slow = potential(graph), Conservative(potential.net)(graph)
    assert torch.equal(fast.forces, slow.forces)


@pytest.mark.skipif("sevennet-0" not in NAMES or compiler() is None, reason="no sevenn, or no C++ compiler")
def test_sevennet_runs_in_torch_where_compiled_code_is_off_or_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from mdistill.teachers import sevennet

    def fails(net: Any) -> Any:
        raise NoKernel("no C++ compiler was found")

    net = teacher("sevennet-0").net
    with monkeypatch.context() as off:
        off.setenv("MDISTILL_COMPILED", "0")
        assert isinstance(sevennet.fastest(net), Conservative)
    monkeypatch.setattr(sevennet, "_compiled", fails)
    with pytest.warns(MdistillNotice, match="five times slower: no C"):
        assert isinstance(sevennet.fastest(net), Conservative)
