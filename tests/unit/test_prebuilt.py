"""Kernels that a wheel carries: chosen by the processor, used where nothing can be compiled, refused when damaged."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from mdistill.errors import MdistillNotice
from mdistill.kernels import build as building
from mdistill.kernels import prebuilt as carried
from mdistill.kernels.build import NoKernel, Source
from mdistill.kernels.prebuilt import LEVELS, prebuilt
from mdistill.nets.carried_kernels import carried_kernels, prebuild
from mdistill.nets.compiled import kernel_weights
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import SIZES, MomentSettings, lighter

pytestmark = pytest.mark.skipif(
    building.compiler() is None or platform.machine() not in LEVELS, reason="no C++ compiler here, or another kind of machine"
)
TWICE = """\
#include <cstdint>
extern "C" {
void mdistill_twice(int64_t count, const double *from, double *to) {
  for (int64_t i = 0; i < count; ++i) to[i] = MDISTILL_TIMES * from[i];
}
}
"""


@pytest.fixture
def source(tmp_path) -> Source:
    (tmp_path / "twice.cpp").write_text(TWICE)
    return Source((tmp_path / "twice.cpp",))


@pytest.fixture
def folder(tmp_path, source, monkeypatch) -> Path:
    """A folder as in a wheel, on a machine without a compiler."""
    prebuild([(source, {"times": 2})], tmp_path / "prebuilt")
    monkeypatch.setattr(building, "FOLDER", tmp_path / "prebuilt")
    monkeypatch.setattr(building, "compiler", lambda: None)
    building._library.cache_clear()
    yield tmp_path / "prebuilt"
    building._library.cache_clear()


def test_a_machine_without_a_compiler_runs_the_kernel_of_the_wheel(folder, source) -> None:
    doubled = np.empty(3)
    source.library(times=2).mdistill_twice(3, [1.0, 2.0, 3.5], doubled)
    assert doubled.tolist() == [2.0, 4.0, 7.0]


def test_other_sizes_other_sources_and_flags_are_not_carried(folder, source, tmp_path) -> None:
    assert prebuilt(source.files, {"times": 3}, folder) is None
    with pytest.raises(NoKernel, match="no C\\+\\+ compiler"):
        Source(source.files, ("-O0",)).library(times=2)
    (tmp_path / "twice.cpp").write_text(TWICE + "// changed\n")
    assert prebuilt(source.files, {"times": 2}, folder) is None
    with pytest.raises(NoKernel, match="no C\\+\\+ compiler"):
        source.library(times=3)


def test_the_highest_level_that_the_processor_has_is_taken(folder, source, monkeypatch) -> None:
    for level, (_, needed) in LEVELS[platform.machine()].items():
        monkeypatch.setattr(carried, "processor_flags", lambda needed=needed: needed)
        found = prebuilt(source.files, {"times": 2}, folder)
        assert found is not None
        assert found.stem.endswith(level)
    if platform.machine() == "x86_64":
        monkeypatch.setattr(carried, "processor_flags", set)
        assert prebuilt(source.files, {"times": 2}, folder) is None


def test_a_damaged_kernel_is_not_loaded(folder, source) -> None:
    for path in folder.glob("*.so"):
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.warns(MdistillNotice, match="damaged"), pytest.raises(NoKernel):
        source.library(times=2)


@pytest.mark.parametrize("size", SIZES)
def test_the_wheel_carries_the_kernels_of_each_size_and_its_light_kicks(size) -> None:
    known = [macros for source, macros in carried_kernels() if source.files[0].stem == "moment"]
    full = MomentSettings(elements=(3, 8), **SIZES[size])
    for settings in (full, lighter(full)):
        for double in (False, True):
            assert kernel_weights(MomentNet(settings, seed=0), double=double).sizes in known
