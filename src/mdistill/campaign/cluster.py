"""A Dask cluster by its address."""

from __future__ import annotations

from typing import Any

from mdistill.errors import BadInput, MissingPackage

_WAIT_S = 10


def connected(address: str) -> Any:
    """A client of the scheduler at dask://HOST:PORT.

    Raises:
        MissingPackage: Dask is not installed.
        BadInput: Nothing answers there within 10 s.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackage("distributed", 'pip install "mdistill[dask]"', "a Dask cluster") from error
    place = address.removeprefix("dask://")
    try:
        return Client(f"tcp://{place}", timeout=_WAIT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        fix = "start one with `dask scheduler`, or use --workers 2"
        raise BadInput(address, f"no Dask scheduler answers ({error})", allowed="dask://HOST:PORT of one", fix=fix) from error
