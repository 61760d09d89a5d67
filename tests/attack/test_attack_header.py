"""Every bit of a model's header: a file with one of them flipped is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from attack.tally import FULL, Outcomes, flipped
from mdistill.nets.model_files import load_model, save_model
from systems import tiny_net, tiny_painn

pytestmark = pytest.mark.slow
FAULTS = Path(__file__).parent / "faults"


@pytest.mark.parametrize("make", [tiny_net, tiny_painn])
def test_every_bit_of_a_header(make: Callable[[], object], tmp_path: Path, trust: Callable[..., None]) -> None:
    path, tally = tmp_path / "student.mdistill", Outcomes()
    save_model(path, make(), {"teacher": "morse", "settings": {"cutoff": 4.9}})  # type: ignore[arg-type]
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    bits = range(0, 8 * header, 1 if FULL or make is tiny_net else 7)
    for example, content in flipped(whole, bits):
        path.write_bytes(content)
        tally.call(lambda: load_model(path), example=example, same=lambda _: False)
    assert not tally.bad, tally.bad
    trust("A", f"each bit of the header of a {make.__name__[5:]} student ({len(bits)} bits)", str(tally), "all refused")


@pytest.mark.parametrize("name", sorted(path.name for path in FAULTS.glob("model_*")))
def test_models_that_were_once_accepted(name: str, trust: Callable[..., None]) -> None:
    tally = Outcomes()
    tally.call(lambda: load_model(FAULTS / name), example=name, same=lambda _: False)
    assert not tally.bad, tally.bad
    trust("A", f"{name}", str(tally), "refused")
