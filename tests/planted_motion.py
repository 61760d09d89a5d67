"""Crystals whose motion is known: log10 MSD depends on a latent of the structure, which the spectra tell too."""

from __future__ import annotations

import numpy as np

from mdistill.transport.trajectory_set import CrystalRecord

KELVINS = np.array([600.0, 800.0, 1000.0, 1200.0])
COUNTS = ((1, 1), (4, 1), (8, 1), (16, 1), (4, 4), (8, 4), (2, 1), (6, 2), (3, 2), (12, 2), (30, 1), (6, 4))
"""Atoms of the two other elements: twelve stoichiometries with four ions."""
ELEMENTS = ((8,), (16,), (9,), (17,), (8, 15), (16, 15), (7,), (35,), (8, 13), (16, 14), (53,), (34,))


def planted(
    count: int, *, seed: int = 0, ions: int = 4, features: int = 6, noise: float = 0.0, network: float = 0.0
) -> list[CrystalRecord]:
    """Records with latent z = w·x; log10 MSD = 1.2 z + T/1000 K; spectra shift by it and have a band that says nothing. The first
    number of the ion network is `network` z and noise, the others are noise."""
    rng = np.random.default_rng(seed)
    weights, bins = np.random.default_rng(99).normal(size=features), np.arange(12)
    weights /= np.linalg.norm(weights)
    records = []
    for k in range(count):
        kinds = rng.normal(size=(2, features)) + rng.normal(size=features)
        kind = np.arange(ions) % 2
        z = kinds[kind] @ weights
        per_ion = 0.6 * z[None] + KELVINS[:, None] / 1000.0 + noise * rng.normal(size=(4, 1))
        spectra = per_ion[:, :, None] - 0.1 * bins + 0.05 * rng.normal(size=(4, ions, 12))
        log_msd = per_ion.mean(1)
        d = 10.0 ** (log_msd - 6.0)
        diffusing = log_msd > 0.3
        others = ELEMENTS[k % len(ELEMENTS)]
        about = {
            "formula": f"Li{k}", "source": f"{k}.cif", "mobile": "Li", "gate_passed": True,
            "flags": {f"{t:g}": ([] if on else ["not diffusing"]) for t, on in zip(KELVINS, diffusing, strict=True)},
            "atoms": ions + 2, "labels": 10, "cpu_seconds": 100.0,
        }  # fmt: skip
        first, second = COUNTS[k % len(COUNTS)]
        numbers = np.array([3] * ions + [others[0]] * first + [others[1] if len(others) > 1 else 12] * second)
        records.append(CrystalRecord(
            key=f"{seed}-{k:015d}", about=about, numbers=numbers, positions=np.resize(rng.normal(size=(ions + 2, 3)), (len(numbers), 3)),
            cell=8.0 * np.eye(3), features=kinds, kind=kind, physics=rng.normal(size=8) + network * z.mean() * (np.arange(8) == 0), temperatures_K=KELVINS,
            spectra=spectra, log_msd=log_msd, log_msd_error=np.full(4, 0.1), lags_ps=np.array([0.1, 1.0, 10.0]), msd=np.tile(10.0**log_msd, (3, 1)).T,
            diffusivity=np.where(diffusing, d, np.nan), error=np.where(diffusing, 0.1 * d, np.nan),
            limit=np.where(diffusing, np.nan, d), slope=np.where(diffusing, 1.0, 0.2),
        ))  # fmt: skip
    return records
