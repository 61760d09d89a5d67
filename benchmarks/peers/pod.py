"""Linear POD (proper orthogonal descriptors) by LAMMPS's own `fitpod`.

With regularisation 1e-10, which `fitpod` takes by default, dynamics of such fits breaks: 1e-5 here.

Reference:
    N. C. Nguyen, A. Rohskopf, J. Comput. Phys. 480, 112030 (2023), doi 10.1016/j.jcp.2023.112030.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.pair_style import PairStyle, keep, kept, spent_by, write_frames
from mdistill.types import LabelledFrame

REGULARISATION = 1e-5
BODIES: dict[str, dict[str, tuple[int, int]]] = {
    "POD, three-body": {"three": (6, 4), "four": (0, 0)},
    "POD, four-body": {"three": (6, 4), "four": (3, 2)},
}
"""Radial functions and angular degree of the descriptors; eight radial functions for pairs."""


def fit_pod(name: str, frames: Sequence[LabelledFrame], folder: Path, *, elements: tuple[str, ...], cutoff: float) -> PairStyle:
    """Fit all frames given, once; weights of energies and forces are those of LAMMPS's example (100 and 1)."""
    folder = folder.resolve()
    fitted = kept(folder)
    if fitted is None:
        write_frames(folder / "train" / "train.xyz", frames)
        bodies = BODIES[name]
        settings = {
            "species": " ".join(elements), "pbc": "1 1 1", "rin": 0.8, "rcut": cutoff, "bessel_polynomial_degree": 4,
            "inverse_polynomial_degree": 8, "onebody": 1, "twobody_number_radial_basis_functions": 8,
        }  # fmt: skip
        for body, (radial, degree) in bodies.items():
            settings |= {f"{body}body_number_radial_basis_functions": radial, f"{body}body_angular_degree": degree}
        data = {
            "file_format": "extxyz", "file_extension": "xyz", "path_to_training_data_set": '"train"',
            "path_to_test_data_set": '"train"', "fitting_weight_energy": 100.0, "fitting_weight_force": 1.0,
            "fitting_regularization_parameter": REGULARISATION, "error_analysis_for_training_data_set": 0,
            "error_analysis_for_test_data_set": 0, "basename_for_output_files": "pod", "precision_for_pod_coefficients": 14,
        }  # fmt: skip
        for file, lines in (("pod.txt", settings), ("data.txt", data)):
            (folder / file).write_text("".join(f"{key} {value}\n" for key, value in lines.items()), encoding="utf-8")
        (folder / "fit.in").write_text("fitpod pod.txt data.txt\n", encoding="utf-8")
        minutes = spent_by([str(Path(sys.executable).parent / "lmp"), "-in", "fit.in", "-log", "none"], folder)
        count = int((folder / "pod_coefficients.pod").read_text(encoding="utf-8").split()[1])
        fitted = keep(folder, {"cpu minutes": minutes, "parameters": count, "regularisation": REGULARISATION, **bodies})
    coefficients = f"pair_coeff * * {folder / 'pod.txt'} {folder / 'pod_coefficients.pod'} {' '.join(elements)}"
    return PairStyle(name=name, elements=elements, commands=("pair_style pod", coefficients), fitted=fitted)
