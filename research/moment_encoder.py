"""The frozen time-series model MOMENT as the encoder of trajectories, in place of `displacement_spectra`.

Its weights could not be had, so it was tested with a stand-in only, and no command uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float

from mdistill.errors import BadInput, MissingPackage

_MOMENT = "pip install momentfm, and give the folder of the weights of MOMENT-1-small"


class TrajectoryEncoder(Protocol):
    """What turns displacements into features: [frame, ion, 3] Å with frames `spacing_ps` apart → [ion, feature]."""

    def __call__(self, moved: Float[np.ndarray, "frame ion 3"], spacing_ps: float) -> Float[np.ndarray, "ion feature"]: ...


def moment_encoder(weights: Path) -> TrajectoryEncoder:
    """The frozen time-series model MOMENT-1-small as an encoder, 512 features of |FFT| of each ion's displacement.

    Args:
        weights: Local folder of its weights; nothing is downloaded.
    Raises:
        BadInput: No such folder.
        MissingPackage: `momentfm` is absent.
    Reference: Goswami et al., arXiv 2402.03885 (2024).
    """
    if not (Path(weights) / "config.json").is_file():
        raise BadInput(weights, "holds no config.json", allowed="a folder with the weights of MOMENT-1-small", fix=_MOMENT)
    try:
        import torch
        from momentfm import MOMENTPipeline  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingPackage("momentfm", _MOMENT, "the encoder moment") from error
    model = MOMENTPipeline.from_pretrained(str(weights), model_kwargs={"task_name": "embedding"}, local_files_only=True)
    model.init()
    model.eval()

    def encode(moved: Float[np.ndarray, "frame ion 3"], spacing_ps: float) -> Float[np.ndarray, "ion feature"]:
        spectra = np.sqrt((np.abs(np.fft.rfft(moved - moved.mean(axis=0), axis=0)) ** 2).sum(axis=2)) / len(moved)
        grid = np.linspace(0.0, len(spectra) - 1.0, 512)
        rows = np.array([np.interp(grid, np.arange(len(spectra)), column) for column in spectra.T])
        with torch.no_grad():
            return np.asarray(model(x_enc=torch.from_numpy(rows).float()[:, None]).embeddings)

    return encode
