"""How kernels are built, kept and loaded: damaged files, other people's folders, broken compilers, two processes at once."""

from __future__ import annotations

import ctypes
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.errors import MdistillNotice
from mdistill.graph import build_graph
from mdistill.io.structures import to_atoms
from mdistill.kernels import build as building
from mdistill.kernels.build import NoKernel, Source
from mdistill.kernels.moment import SLOW, SOURCE, build_failure
from mdistill.nets.compiled import compiled
from mdistill.nets.model_files import save_model
from systems import random_box, tiny_net

pytestmark = pytest.mark.skipif(building.compiler() is None, reason="no C++ compiler here")
SUM = """\
#include <cstdint>
#include "half.hpp"
extern "C" {
double mdistill_sum(int64_t count, const double *from, int32_t *rounded) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += MDISTILL_TIMES * half(from[i]), rounded[i] = int(from[i]);
  return total;
}
void mdistill_second(void *place, double *to) { *to = static_cast<double *>(place)[1]; }
}
"""
LOAD = """\
import sys
from pathlib import Path
import numpy as np
from mdistill.kernels.build import Source
source = Source((Path(sys.argv[1]) / "sum.cpp", Path(sys.argv[1]) / "half.hpp"))
print(source.library(times=2).mdistill_sum(2, [1.5, 2.0], np.empty(2, np.int32)))
"""


@pytest.fixture
def source(tmp_path) -> Source:
    """A source that is built in a moment."""
    (tmp_path / "sum.cpp").write_text(SUM)
    (tmp_path / "half.hpp").write_text("inline double half(double x) { return x / 2; }\n")
    return Source((tmp_path / "sum.cpp", tmp_path / "half.hpp"), flags=("-DUNUSED=1",))


def test_scratch_of_a_killed_compilation_is_removed_by_the_next(source, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("sum.so.1a.scratch", "other.so.1a.scratch"):
        (folder / name).mkdir()
        (folder / name / "sum.so").write_text("half")
    building.compile_library(str(building.compiler()), source, {"times": 2}, folder / "sum.so")
    assert sorted(path.name for path in folder.iterdir()) == ["other.so.1a.scratch", "sum.sha256", "sum.so"]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A cache folder where nothing is built yet."""
    monkeypatch.setenv("MDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(building.tempfile, "tempdir", None)
    forget()
    yield tmp_path / "cache" / "kernels"
    forget()


def forget() -> None:
    building._library.cache_clear()
    building.compiler.cache_clear()


def broken_compiler(place: Path, says: str = "lanes.hpp:1: error: 'vector' was not declared") -> str:
    """A compiler that says a warning, then this, and fails."""
    program = place / "broken compiler"
    program.write_text(f"#!/bin/sh\necho 'In file included from here' >&2\necho \"{says}\" >&2\nexit 1\n")
    program.chmod(stat.S_IRWXU)
    return str(program)


def built(folder: Path) -> Path:
    (path,) = folder.glob("*.so")
    return path


# ---- any source, any sizes -----------------------------------------------------------------------------------------------


def test_any_source_is_built_for_any_sizes(folder, source, tmp_path):
    rounded = np.empty(3, dtype=np.int32)
    for times in (2, 6):
        assert source.library(times=times).mdistill_sum(3, [1.5, 2.5, 4], rounded) == 4.0 * times
    assert list(rounded) == [1, 2, 4]
    library, second = source.library(times=2), np.empty(1)
    with pytest.raises((TypeError, ctypes.ArgumentError), match="int32"):
        library.mdistill_sum(3, [1, 2, 3], np.empty(3))
    library.mdistill_second(ctypes.byref(building.c_struct(first=3, second=0.25)), second)
    assert second == 0.25
    assert len(list(folder.glob("sum-*.so"))) == 2
    (tmp_path / "half.hpp").write_text("inline double half(double x) { return x / 4; }\n")
    forget()
    assert source.library(times=2).mdistill_sum(3, [1.5, 2.5, 4], rounded) == 4.0


def test_every_function_is_declared():
    text = SOURCE.files[0].read_text(encoding="utf-8")
    assert {name for _, _, name, _ in building._FUNCTION.findall(text)} == set(re.findall(r"mdistill_\w+", text))


def test_sources_are_part_of_the_package():
    includes = {line.split('"')[1] for path in SOURCE.files for line in path.read_text().splitlines() if '#include "' in line}
    assert includes == {path.name for path in SOURCE.files[1:]}


# ---- the cache -----------------------------------------------------------------------------------------------------------


def test_a_library_is_built_once_for_its_user_alone(folder, source):
    source.library(times=2)
    before = built(folder).stat().st_mtime_ns
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    building._library.cache_clear()
    source.library(times=2)
    assert built(folder).stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "empty", "no sha256"])
def test_a_damaged_library_is_built_again(folder, source, damage):
    replace(source, flags=()).library(times=2)
    path = built(folder)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 4
    path.unlink()  # this process has it mapped
    path.write_bytes({"truncated": whole[: len(whole) // 2], "one bit flipped": bytes(flipped), "empty": b""}.get(damage, whole))
    if damage == "no sha256":
        path.with_suffix(".sha256").unlink()
    run = subprocess.run([sys.executable, "-c", LOAD, str(source.files[0].parent)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "3.5\n"), run.stderr
    assert building._intact(path)


def test_two_processes_build_once(folder, source, tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    slow = tmp_path / "slow compiler"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *-o*) echo x >> "{calls}"; sleep 0.3;; esac\nexec "{building.compiler()}" "$@"\n')
    slow.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CXX", str(slow))
    runs = [subprocess.Popen([sys.executable, "-c", LOAD, str(tmp_path)], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert calls.read_text() == "x\n"
    assert building._intact(built(folder))


def test_a_folder_that_others_could_read_is_closed(folder, source):
    source.library(times=2)
    folder.chmod(0o755)
    building._library.cache_clear()
    before = built(folder).stat().st_mtime_ns
    source.library(times=2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert built(folder).stat().st_mtime_ns == before


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_what_others_could_write_is_removed(folder, source, mode):
    folder.mkdir(parents=True)
    planted = folder / "sum-planted.so"
    planted.write_bytes(b"code of somebody else")
    folder.chmod(mode)
    source.library(times=2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not planted.exists() and building._intact(built(folder))


@pytest.mark.parametrize("reason", ["a link", "another user's", "a file"])
def test_a_folder_of_somebody_else_is_not_used(folder, source, tmp_path, monkeypatch, reason):
    (tmp_path / "other").mkdir()
    folder.parent.mkdir()
    if reason == "a link":
        folder.symlink_to(tmp_path / "other")
    elif reason == "a file":
        folder.write_text("a file where the folder should be")
    else:
        folder.mkdir()
        mine = os.getuid()
        answers = iter([mine, mine + 1])  # of the folder in the temporary place, of this user's first question
        monkeypatch.setattr(building.os, "getuid", lambda: next(answers, mine))
    monkeypatch.setattr(building.tempfile, "tempdir", str(tmp_path))
    with pytest.warns(MdistillNotice, match=r"cannot be stored in .*kernels.*MDISTILL_CACHE"):
        source.library(times=2)
    assert not list((tmp_path / "other").iterdir())
    assert len(list(tmp_path.glob("mdistill-*/*.so"))) == 1


# ---- where nothing can be built ------------------------------------------------------------------------------------------


def test_students_run_in_torch_where_kernels_are_turned_off(folder, monkeypatch, recwarn):
    monkeypatch.setenv("MDISTILL_COMPILED", "0")
    plain = Conservative(tiny_net())
    assert compiled(plain, double=True) is plain
    assert not folder.exists() and not recwarn


def test_a_compiler_that_fails_is_told_and_tried_once(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", broken_compiler(tmp_path))
    plain = Conservative(tiny_net())
    message = r"10 to 30 times slower: the C\+\+ compiler .*broken compiler failed: lanes.hpp:1: error: 'vector' was not declared\n  fix: "
    for _ in range(2):
        with pytest.warns(MdistillNotice, match=message):
            assert compiled(plain, double=True) is plain
        monkeypatch.setattr(building.subprocess, "run", None)
    assert not list(folder.glob("*.so")) and not list(folder.glob("*.sha256"))


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("/bin/false", "no message, exit status 1"), ("/bin/true", "no message, exit status 0"), (None, "no C")],
)
def test_the_reason_is_told_where_the_compiler_says_none(folder, source, monkeypatch, compiler, reason):
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoKernel, match=reason):
        source.library(times=2)
    assert reason in str(build_failure())


def test_a_kernel_that_cannot_be_built_is_told_once_everywhere(folder, monkeypatch, tmp_path, capsys):
    """On the terminal, in results.json and in the report."""
    monkeypatch.setenv("CXX", broken_compiler(tmp_path))
    structure, student = tmp_path / "box.extxyz", tmp_path / "student.mdistill"
    box = random_box(3, closest=2.3)
    write(structure, to_atoms(box))
    save_model(student, tiny_net())
    md = ["simulate", str(structure), "--potential", str(student), "--time-ps", "0.01", "--equilibration-ps", "0"]
    assert cli.run([*md, "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert f"{out}{err}".count("'vector' was not declared") == 1 and f"mdistill: students run {SLOW}: " in err
    (note,) = [n for n in json.loads((tmp_path / "run" / "results.json").read_text())["notes"] if "torch" in n]
    assert "was not declared" in note and "fix: install g++" in note
    assert "was not declared" in (tmp_path / "run" / "report.html").read_text().replace("&#39;", "'")
    with pytest.warns(MdistillNotice, match="was not declared"):
        in_torch = compiled(Conservative(tiny_net()), double=True)
    assert in_torch(build_graph(box, 5.0)).energy.isfinite()


def test_doctor_builds_a_kernel_to_know(folder, monkeypatch, capsys):
    for compiler, says in ((None, "in compiled code"), ("/bin/false", f"{SLOW}: the C++ compiler /bin/false failed: no library")):
        if compiler:
            monkeypatch.setenv("CXX", compiler)
        forget()
        assert cli.run(["doctor"]) == 0
        assert says in " ".join(capsys.readouterr().out.split())
