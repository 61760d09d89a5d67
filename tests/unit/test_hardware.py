"""What a number was measured with."""

from __future__ import annotations

import pytest

import mdistill
from mdistill.runs.hardware import code_version, hardware, instructions


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu avx avx2 avx512f", "avx512"),
        ("flags\t\t: fpu avx avx2", "avx2"),
        ("Features\t: fp asimd sve", "neon"),
        ("flags\t\t: fpu sse2", "sse"),
        ("flags\t\t: fpu", ""),
        ("flags", ""),
    ],
)
def test_the_widest_vector_instructions_are_named(line, found):
    assert instructions(["processor\t: 0", line]) == found


def test_hardware_and_version_say_something():
    found = hardware()
    assert found["cores"] >= 1 and found["processor"] and found["instructions"] in ("avx512", "avx2", "sse", "neon", "")
    assert code_version()["version"] == mdistill.__version__
