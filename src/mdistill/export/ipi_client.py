"""A potential as a client of i-PI behind a UNIX socket.

    python -m mdistill.export.ipi_client ADDRESS MODEL STRUCTURE [PRECISION]

It speaks i-PI's protocol (headers of twelve characters, numbers in the machine's order) and ends when i-PI does: with status 0
after its word to exit, with status 1 and a message where the connection breaks. i-PI's own client waits for ever in that case.

Reference: M. Ceriotti et al., Comput. Phys. Commun. 185, 1019 (2014), doi 10.1016/j.cpc.2013.10.027.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mdistill.errors import BadInput, MdistillError
from mdistill.export.ipi_driver import MdistillDriver

PREFIX = "/tmp/ipi_"  # noqa: S108
"""i-PI's sockets."""
WAIT_S = 60.0
"""Longest wait for i-PI to open its socket, s."""
_HEADER = 12


class ConnectionBroken(MdistillError):
    """i-PI ended without a word."""


def connect(address: str, *, wait_s: float = WAIT_S) -> socket.socket:
    """A connection to i-PI.

    Raises:
        BadInput: No i-PI opens that socket in time.
    """
    path, end = f"{PREFIX}{address}", time.monotonic() + wait_s
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            if time.monotonic() > end:
                allowed, fix = "the address of an i-PI that waits for a client", "start i-PI first: i-pi input-socket.xml"
                raise BadInput(path, f"no i-PI answers ({error.strerror})", allowed=allowed, fix=fix) from error
            time.sleep(0.1)
        else:
            return connection


def serve(connection: socket.socket, driver: Callable[[Any, Any], Any]) -> int:
    """Answer i-PI until it says that it ends; gives the number of structures evaluated.

    Args:
        connection: To i-PI.
        driver: Cell (lattice vectors in columns) and positions to energy, forces, virial and a text, all in atomic units.
    Raises:
        ConnectionBroken: i-PI was killed, or closed the connection.
        MdistillError: Batches of structures, which this client does not take.
    """
    ready, answer, evaluated = False, None, 0
    while True:
        header = _received(connection, _HEADER).decode("ascii", "replace").strip()
        if header == "STATUS":
            _send(connection, "HAVEDATA" if answer is not None else "READY" if ready else "NEEDINIT")
        elif header == "INIT":
            _, length = np.frombuffer(_received(connection, 8), dtype=np.int32)
            text = _received(connection, int(length)).decode("utf-8", "replace")
            if re.search(r"\bbatch_size\s*:\s*(?!1\s*(,|$))", text):
                raise MdistillError(f"i-PI asks for batches ({text})\n  fix: leave <batch_size> out of the input of i-PI")
            ready = True
        elif header == "POSDATA":
            cell = np.frombuffer(_received(connection, 72), dtype=np.float64).reshape(3, 3)
            _received(connection, 72)  # its inverse
            (atoms,) = np.frombuffer(_received(connection, 4), dtype=np.int32)
            answer = driver(cell, np.frombuffer(_received(connection, 24 * int(atoms)), dtype=np.float64).reshape(-1, 3))
            evaluated += 1
        elif header == "GETFORCE" and answer is not None:
            energy, forces, virial, text = answer
            said = np.frombuffer(text.encode(), dtype=np.uint8)
            sizes = (np.int32(len(forces)), np.int32(len(said)))
            _send(connection, "FORCEREADY", np.float64(energy), sizes[0], forces, virial, sizes[1], said)
            answer = None
        elif header == "EXIT":
            return evaluated
        else:
            raise MdistillError(f"i-PI sent {header!r}, which is not known here\n  fix: use the i-PI of mdistill[ipi]")


def _received(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        try:
            part = connection.recv(size - len(parts))
        except OSError as error:
            raise _broken(str(error)) from error
        if not part:
            raise _broken("it was closed")
        parts += part
    return parts


def _send(connection: socket.socket, header: str, *numbers: Any) -> None:
    try:
        connection.sendall(header.ljust(_HEADER).encode() + b"".join(np.ascontiguousarray(part).tobytes() for part in numbers))
    except OSError as error:
        raise _broken(str(error)) from error


def _broken(why: str) -> ConnectionBroken:
    again = "if it was killed: python -m mdistill.export.ipi_resume tells the command"
    fix = f"if i-PI was stopped, continue from its checkpoint: i-pi RESTART; {again}; then start this client again"
    return ConnectionBroken(f"the connection to i-PI broke: {why}\n  fix: {fix}")


def main(arguments: list[str]) -> int:
    """Serve until i-PI ends; gives the exit status."""
    try:
        if len(arguments) not in (3, 4):
            usage = "python -m mdistill.export.ipi_client ADDRESS MODEL STRUCTURE [PRECISION]"
            raise BadInput("arguments", f"{len(arguments)}", allowed="3 or 4", fix=usage)
        address, model, structure, *precision = arguments
        driver = MdistillDriver(model, structure, precision=precision[0] if precision else "float64")
        with connect(address) as connection:
            print(f"i-PI ended; {serve(connection, driver)} structures were evaluated")
    except MdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
