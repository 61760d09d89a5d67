"""D and σ of Li in Li6PS5Cl from published AIMD (0 % and 50 % Cl/S disorder, 500 K), beside kinisi called directly.

python -m benchmarks.analyse_argyrodite [DATA]      DATA: folder with argyrodite_aimd/, default $MDISTILL_DATA
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdistill.io.xdatcar import read_xdatcar
from mdistill.workflows.analyse import analyse
from mdistill.workflows.settings import AnalyseSettings

FRAME_TIME_FS = 100.0
TEMPERATURE_K = 500.0
KINISI_FROM = 8000.0
"""Start of kinisi's line, fs: jumps back and forth in the cages are over."""


def runs_of(data: Path, disorder: str) -> list[Path]:
    """The runs of one system in time order."""
    return sorted((data / "argyrodite_aimd" / "Li6PS5Cl" / disorder).glob("run*/actual_XDATCAR.gz"))


def kinisi_directly(paths: Sequence[Path], *, fit_from: float, lags: int = 40, longest: float = 1.0) -> tuple[float, float]:
    """D and its standard deviation (cm²/s) as kinisi gives them: its unwrapping, drift, MSD, covariance and sampling.

    Only the lags (geometric, up to `longest` times the run) and the start of the fit (fs) are handed to it. For the caged
    ions of the ordered crystal its covariance is not positive definite with lags up to half of the run: its chain then runs
    away, which shows as a standard deviation many times the mean.
    """
    import scipp
    from kinisi.diffusion import Diffusion
    from kinisi.displacement import calculate_msd
    from kinisi.parser import Parser

    parts = [read_xdatcar(path) for path in paths]
    numbers = parts[0][0]
    positions, cells = np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])
    chosen = np.unique(np.round(np.geomspace(1, int(longest * (len(positions) - 1)), lags)).astype(int))
    parser = Parser(
        coords=scipp.array(dims=["time", "particle", "dimension"], values=positions @ np.linalg.inv(cells) % 1.0),
        latt=scipp.array(dims=["time", "dimension1", "dimension2"], values=cells, unit="angstrom"),
        time_step=scipp.scalar(FRAME_TIME_FS / 1000.0, unit="ps"),
        step_skip=scipp.scalar(1),
        dt=scipp.array(dims=["time interval"], values=chosen * FRAME_TIME_FS / 1000.0, unit="ps"),
        specie_indices=scipp.array(dims=["particle"], values=np.flatnonzero(numbers == 3)),
        drift_indices=scipp.array(dims=["particle"], values=np.flatnonzero(numbers != 3)),
    )
    diffusion = Diffusion(calculate_msd(parser, progress=False))
    state = np.random.RandomState(1)
    diffusion._diffusion(scipp.scalar(fit_from / 1000.0 - 1e-6, unit="ps"), progress=False, random_state=state)
    draws = np.asarray(diffusion.D.values)
    return float(draws.mean()), float(draws.std())


def main() -> None:
    """Print the rows and write results/analyse_argyrodite.json."""
    from benchmarks.record import write_record

    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MDISTILL_DATA"])
    settings = AnalyseSettings(species="Li", temperature_K=TEMPERATURE_K, frame_time_fs=FRAME_TIME_FS)
    rows: list[dict[str, object]] = []
    for disorder in ("0p", "50p"):
        paths = runs_of(data, disorder)
        start = time.perf_counter()
        results = analyse(paths, settings)
        seconds = time.perf_counter() - start
        d, sigma = (results.values[f"{name}_{TEMPERATURE_K:g}K"] for name in ("diffusivity", "conductivity"))
        row = {
            "disorder": f"{disorder[:-1]} %",
            "D_cm2_s": d.value,
            "D_error": d.error,
            "D_95": d.interval,
            "D_limit": d.upper_limit,
        }
        row |= {
            "sigma_mS_cm": sigma.value,
            "sigma_error": sigma.error,
            "sigma_95": sigma.interval,
            "sigma_limit": sigma.upper_limit,
        }
        for name, longest in (("kinisi_whole_run", 1.0), ("kinisi_half_run", 0.5)):
            value, error = kinisi_directly(paths, fit_from=KINISI_FROM, longest=longest)
            row |= {name: value, f"{name}_error": error} if error < value else {name: None, f"{name}_error": "runs away"}
        rows.append(row | {"kinisi_from_ps": KINISI_FROM / 1000.0, "seconds": seconds})
    described = {"temperature_K": TEMPERATURE_K, "frame_time_fs": FRAME_TIME_FS, "diffusion": settings.diffusion()}
    write_record("analyse_argyrodite", described, rows)


if __name__ == "__main__":
    main()
