"""Threads of the kernel: each part of a job is done once, whoever comes; two callers at once and a forked child are served."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mdistill.kernels import build, moment
from mdistill.kernels.build import Source

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler here")
CODE = """\
#include "crew.hpp"
extern "C" {
void mdistill_work(int32_t parts, int64_t rounds, int64_t *done) {
  for (int64_t round = 0; round < rounds; ++round) mdistill::Crew::run(parts, [&](int part) { done[part] += part + round; });
}
void mdistill_split(int64_t count, int32_t parts, int32_t *owner) {
  mdistill::Crew::split(count, parts, [&](int64_t from, int64_t to) {
    for (int64_t m = from; m < to; ++m) owner[m] += int32_t(from);
  });
}
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crew")
    (folder / "crew_test.cpp").write_text(CODE)
    header = Path(moment.__file__).parent / "crew.hpp"
    return build.build(Source((folder / "crew_test.cpp", header), flags=(f"-I{header.parent}", "-O0")), {}, [folder / "built"])


def check(library, parts: int, rounds: int) -> bool:
    done = np.zeros(parts, dtype=np.int64)
    library.mdistill_work(parts, rounds, done)
    return bool(np.array_equal(done, rounds * np.arange(parts) + rounds * (rounds - 1) // 2))


def test_each_part_is_done_once(library):
    assert all(check(library, parts, 500) for parts in (1, 2, 7, 3))
    owner = np.zeros(11, dtype=np.int32)
    library.mdistill_split(11, 4, owner)
    assert list(owner) == [0, 0, 2, 2, 2, 5, 5, 5, 8, 8, 8]


def test_two_callers_and_a_child_process_are_served(library):
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda parts: check(library, parts, 500), (2, 3, 2, 4)))
    child = os.fork()
    if child == 0:
        os._exit(0 if check(library, 3, 50) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_number_of_threads_is_at_most_what_is_given_and_pays():
    assert [moment.threads_for(atoms, 2) for atoms in (1, 52, 416, 100_000)] == [1, 1, 2, 2]
    assert [moment.threads_for(atoms, 1) for atoms in (52, 100_000)] == [1, 1]
