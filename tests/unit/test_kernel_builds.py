"""The kernel is the network whatever compiles it and for whatever processor: every compiler found here, SSE, AVX2 and AVX-512 code,
and arm64 code in an emulator (T7)."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from test_kernels import net_of, pair_of, structures, with_search

from laws import assert_close
from mdistill.derivatives import Conservative
from mdistill.graph import build_graph
from mdistill.kernels import build as building
from mdistill.kernels.moment import SOURCE
from mdistill.kernels.motion import Ensemble, Motion, Point
from mdistill.nets.compiled import CompiledMoment, kernel_weights
from mdistill.types import System
from systems import random_box

pytestmark = pytest.mark.skipif(building.compiler() is None, reason="no C++ compiler here")
COMPILERS = [
    name for base in ("g++", "clang++") for name in (base, *(f"{base}-{n}" for n in range(11, 23))) if shutil.which(name)
]
LEVELS = {"x86-64-v2": "sse4_2", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}
ARM_COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")


@pytest.fixture
def built_by(monkeypatch):
    """Have kernels built by this compiler for this processor."""

    def use(compiler: str, *flags: str) -> None:
        monkeypatch.setenv("CXX", compiler)
        monkeypatch.setattr(building, "_TRIES", (flags,))
        building._library.cache_clear(), building.compiler.cache_clear()

    yield use
    building._library.cache_clear(), building.compiler.cache_clear()


def end_of_motion(fast: CompiledMoment, system: System, *leaps: int) -> np.ndarray:
    atoms, rng = system.n_atoms, np.random.default_rng(0)
    numbers = {name: np.zeros((atoms, 3)) for name in ("middle", "forces")}
    point = Point(
        positions=system.positions.numpy().copy(), momenta=rng.normal(0, 0.1, (atoms, 3)), cell=system.cell[0].numpy().copy(),
        pbc=np.ones(3), masses=np.full(atoms, 20.0), energy=0.0, virial=np.zeros((3, 3)), known=False, sums=np.zeros(7), **numbers,
    )  # fmt: skip
    engine = fast.engine(system, threads=2, skin=0.5)
    for steps in leaps:
        assert engine.run(Motion(steps=steps, first_step=0, ensemble=Ensemble.NVE, time_step=1.0), point) == (steps, False)
    return point.positions


def assert_is_the_network(trust, name: str) -> None:
    plain, fast = pair_of("small")
    worst = 0.0
    for system, threads in product(structures(), (1, 3)):
        expected, found = plain(build_graph(system, plain.cutoff)), with_search(fast, system, threads=threads)
        scale = 1.0 + float(expected.energy.abs()) + float(expected.forces.abs().max())
        assert_close(found.energy, expected.energy, absolute=1e-12 * scale * system.n_atoms)
        worst = max(worst, assert_close(found.forces, expected.forces, absolute=1e-11 * scale) / scale)
    system = random_box(8, atoms=37, length=9.0)
    assert np.array_equal(end_of_motion(fast, system, 12), end_of_motion(fast, system, 5, 7))
    trust("T7", f"{name}: forces by the kernel against torch, float64, relative", worst, "1e-11")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_gives_the_network(compiler, built_by, trust):
    for level, needed in LEVELS.items():
        if needed in building.processor():
            built_by(compiler, f"-march={level}")
            assert_is_the_network(trust, f"{compiler}, {level}")
    built_by(compiler, "-march=native")
    assert_is_the_network(trust, compiler)
    plain, fast = pair_of("small", double=False)
    system = random_box(8, atoms=37, length=9.0)
    expected = plain(build_graph(system, plain.cutoff)).forces
    assert_close(with_search(fast, system).forces, expected, absolute=1e-4, relative=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(ARM_COMPILER is None or EMULATOR is None, reason="no aarch64-linux-gnu-g++ or qemu-aarch64 here")
def test_code_for_arm_gives_the_network(tmp_path, trust):
    plain = Conservative(net_of("small"))
    weights = kernel_weights(plain.net, double=True)
    system = random_box(8, atoms=37, length=9.0)
    macros = [f"-DMDISTILL_{name.upper()}={value}" for name, value in weights.sizes.items()]
    flags = [flag for flag in building._FLAGS if flag not in ("-shared", "-fPIC")]
    driver, program = Path(__file__).parent / "kernel_driver.cpp", tmp_path / "driver"
    subprocess.run([str(ARM_COMPILER), *flags, *macros, "-static", str(driver), "-o", str(program)], check=True)
    expected = plain(build_graph(system, plain.cutoff))
    kinds, flat = plain.net.species(system.numbers).numpy(), weights.flat()
    for threads in (1, 3):
        head = [len(weights.reference), system.n_atoms, threads, len(flat)]
        numbers = np.concatenate([head, flat, kinds, system.positions.flatten(), system.cell.flatten()]).astype(np.float64)
        run = subprocess.run([str(EMULATOR), str(program)], input=numbers.tobytes(), capture_output=True, check=True)
        found = torch.from_numpy(np.frombuffer(run.stdout).copy())
        scale = 1.0 + float(expected.forces.abs().max())
        assert_close(found[:1], expected.energy, absolute=1e-11 * scale)
        worst = assert_close(found[1:112].view(37, 3), expected.forces, absolute=1e-11 * scale)
    trust("T7", "arm64 code in an emulator: forces against torch, float64 (eV/Å)", worst, "1e-11")


def test_no_header_but_one_knows_instruction_sets():
    for path in SOURCE.files:
        if path.name not in ("lanes.hpp", "crew.hpp"):
            assert not re.search(r"__AVX|__SSE|__ARM|_mm\d*_|__builtin_|#pragma omp", path.read_text()), path.name
