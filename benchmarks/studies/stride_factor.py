"""One map for any stride: does a map taught at one stride serve others, with one factor on its kicks?

RUN is a run with a trained splitting map of two kicks. At each stride t from 4 to 32 fs these are compared with the student's NVE
dynamics over held-out segments (errors as in training, in units of thermal motion):

    time steps       the student's force in all kicks: velocity Verlet with steps of t/2
    the map as it is the kicks of the map, whose stride is t₀
    one factor       the same, kicks times a factor c(t) that is best for the momenta after the stride
    one exponent     F + (t/t₀)² (F_map − F): the error of a splitting grows as t², so its correction should; costs both forces

    python -m benchmarks.studies.stride_factor RUN [--windows 200]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from benchmarks.record import write_record
from mdistill.data.segments import read_segments
from mdistill.data.split import split_segments
from mdistill.derivatives import forces_through
from mdistill.nets.model_files import load_map
from mdistill.nets.splitting_map import SplittingMap, build_graph_at, compose
from mdistill.training.stride import load_moment
from mdistill.training.stride_objective import squares
from mdistill.training.windows import Window, join_windows, windows_of
from mdistill.types import System

STRIDES_FS = (4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 32.0)
Forces = Callable[[System], Tensor]


def forces_of(net: Any) -> Forces:
    """The force field of a moment net."""
    return lambda system: forces_through(net, build_graph_at(system, net.cutoff)).detach()


def mixed(first: Forces, second: Forces, share: float) -> Forces:
    """First + share · (second − first)."""
    return lambda system: (1.0 - share) * first(system) + share * second(system)


def error(windows: list[Window], stages: list[Forces], net: SplittingMap, stride: float) -> tuple[float, float]:
    """Root mean square relative errors of positions and momenta after one stride."""
    batch = join_windows(windows)
    positions, momenta = compose(stages, replace(net.settings, stride_fs=stride), batch.system, batch.momenta, batch.masses)
    position, momentum = squares(batch, positions, momenta)
    return float(position.mean()) ** 0.5, float(momentum.mean()) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--windows", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    net, student = load_map(given.run / "stride" / "stride.mdistill"), load_moment(given.run / "student.mdistill")
    assert isinstance(net, SplittingMap)
    files = sorted((given.run / "stride" / "segments").glob("segments-*.npz"))
    held_out = split_segments([segment for file in files for segment in read_segments(file)], held_out=0.1)[1]
    learned, plain, taught_at = [forces_of(one) for one in net.potentials()], forces_of(student), net.settings.stride_fs
    rows: list[dict[str, Any]] = []
    for stride in STRIDES_FS:
        windows = windows_of(held_out, stride)
        windows = windows[:: max(1, len(windows) // given.windows)]

        def scaled(factor: float) -> list[Forces]:
            return [mixed(lambda system: torch.zeros_like(system.positions), one, factor) for one in learned]

        best = minimize_scalar(
            lambda c, windows=windows, stride=stride: error(windows, scaled(c), net, stride)[1], bounds=(0.5, 1.5),
            method="bounded", options={"xatol": 1e-3},
        ).x  # fmt: skip
        ways = {
            "time steps": [plain] * len(learned), "the map as it is": learned, "one factor": scaled(best),
            "one exponent": [mixed(plain, one, (stride / taught_at) ** 2) for one in learned],
        }  # fmt: skip
        for name, stages in ways.items():
            position, momentum = error(windows, stages, net, stride)
            row = {"stride (fs)": stride, "kicks": name, "position (%)": 100 * position, "momentum (%)": 100 * momentum}
            rows.append(row | ({"factor": best} if name == "one factor" else {}) | {"windows": len(windows)})
            print(rows[-1], flush=True)
    write_record("stride_factor", {"run": given.run.name, "taught at (fs)": taught_at, "kicks": net.settings.kicks}, rows)


if __name__ == "__main__":
    main()
