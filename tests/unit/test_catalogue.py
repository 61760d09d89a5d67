"""The catalogue of networks: every line holds, and reading one kind loads no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mdistill.errors import BadInput
from mdistill.nets.catalogue import MAPS, ONE_STEP_NETS, POTENTIALS, kind_of, resolve
from mdistill.nets.model_files import save_model
from mdistill.nets.network import StrideMap, Student
from mdistill.training.settings import FitSettings, StrideSettings, TrainSettings
from systems import tiny_painn


@pytest.mark.parametrize("name", POTENTIALS | MAPS)
def test_every_line_names_what_exists(name: str) -> None:
    kind = kind_of(name)
    functions = ("calibrate", "kernel", "gpu_kernel") if name in POTENTIALS else ("begin", "untrained", "limit", "propagator")
    assert all(callable(resolve(path)) for part in functions if (path := getattr(kind, part)))
    assert resolve(kind.settings).kind == name
    assert issubclass(resolve(kind.net), Student if name in POTENTIALS else StrideMap)
    suited = FitSettings().suited(name)
    assert (suited.learning_rate, suited.weight_decay) == kind.rates


def test_settings_know_every_kind_and_no_other() -> None:
    assert {TrainSettings(net=name).student((3,)).kind for name in POTENTIALS} == set(POTENTIALS)
    one_step = {StrideSettings(map="one_step", one_step_net=name).kind for name in ONE_STEP_NETS}  # type: ignore[arg-type]
    assert one_step | {StrideSettings().kind} == set(MAPS)
    for wrong in (lambda: TrainSettings(net="schnet"), lambda: StrideSettings(map="attention"), lambda: kind_of("spline")):
        with pytest.raises(BadInput, match="allowed: "):
            wrong()


def test_reading_one_kind_loads_no_other(tmp_path) -> None:
    save_model(tmp_path / "painn.mdistill", tiny_painn())
    code = f"""if True:
        import sys
        from mdistill.nets.model_files import load_net
        load_net({str(tmp_path / "painn.mdistill")!r})
        print(*sorted(name for name in sys.modules if name.startswith("mdistill.nets.")))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("mdistill.nets.") for name in done.stdout.split()}
    assert "painn" in loaded and not loaded & {"moment", "one_step", "one_step_attention", "splitting_map"}
