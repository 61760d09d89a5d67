"""The pages of other engines: their Python blocks run as printed, where the engine is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ase.io import write

from mdistill.io.structures import to_atoms
from mdistill.nets.model_files import save_model
from systems import random_box, tiny_net

PAGES = Path(__file__).parent.parent / "docs" / "howto"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENGINES = {"openmm": "openmm", "torch_sim": "torch_sim", "ipi": "ipi", "metatomic": "metatomic_ase", "barrier": "ase"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")
@pytest.mark.parametrize("page", ENGINES)
def test_the_example_of_a_page_runs(page, tmp_path, monkeypatch, trust):
    pytest.importorskip(ENGINES[page])
    monkeypatch.chdir(tmp_path)
    save_model(Path("student.mdistill"), tiny_net())
    write("crystal.extxyz", to_atoms(random_box(8, atoms=30, length=9.0)))
    blocks = BLOCK.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))
    assert blocks
    names: dict[str, object] = {}
    for text in blocks:
        exec(compile(text, page, "exec"), names)  # noqa: S102
    trust("T44", f"page {page}: blocks that work verbatim", len(blocks), "all")
