"""Weights of teachers: where they are looked for, how they are fetched and checked. Nothing is fetched without a request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from mdistill.errors import BadInput, MdistillError
from mdistill.io.files import replacing, sha256, write_text
from mdistill.progress import progress
from mdistill.teachers.cards import Teacher

_BLOCK = 1 << 20
_SCHEMES = ("https", "file")


def weights_folder() -> Path:
    """Folder of fetched weights: $MDISTILL_WEIGHTS, else mdistill/weights in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdistill"
    return Path(os.environ.get("MDISTILL_WEIGHTS") or base / "weights")


def places(card: Teacher) -> list[Path]:
    """Files that are looked for, in this order; empty where the weights come with the package."""
    if card.weights is None:
        return []
    own = weights_folder() / card.weights.file
    return [own, *(Path(place).expanduser() for place in card.weights.elsewhere)]


def find_weights(card: Teacher) -> Path | None:
    """The file of weights, checked against its sha256 where one is known; None where there is none.

    Raises:
        BadInput: The file is not the one expected.
    """
    for path in places(card):
        if path.is_file():
            _check(path, _expected(path, card))
            return path
    return None


def needed_weights(card: Teacher, *, subject: str = "teacher") -> Path:
    """As `find_weights`.

    Raises:
        BadInput: No such file; the message says where it was looked for and how to fetch it.
    """
    found = find_weights(card)
    if found is None:
        where = " or ".join(str(path) for path in places(card))
        fix = f"mdistill download {card.name}"
        raise BadInput(subject, f"the weights of {card.name} are not on this machine", allowed=f"the file {where}", fix=fix)
    return found


def fetch(card: Teacher, folder: Path, *, address: str = "", digest: str = "") -> Path:
    """Fetch weights, all or nothing; a file that is there and right is kept.

    Args:
        card: The teacher.
        folder: Folder for the file.
        address: Address to fetch from (https or file); the public one where empty.
        digest: sha256 to require; by default the known one.
    Returns:
        The file. Beside it lies `<file>.sha256`, against which later loads check it.
    Raises:
        BadInput: A teacher whose weights come with its package, another scheme, or a file with another sha256.
        MdistillError: The address does not answer.
    """
    if card.weights is None:
        problem = f"the weights of {card.name} come with its package"
        raise BadInput("download", problem, allowed="a teacher with weights of its own", fix=card.pip_line)
    address, wanted, path = address or card.weights.address, digest or card.weights.sha256, folder / card.weights.file
    if urlsplit(address).scheme not in _SCHEMES:
        raise BadInput("--address", address, allowed="https://… or file://…", fix=f"leave it out for {card.weights.address}")
    if path.is_file():
        _check(path, wanted or _expected(path, card))
        return path
    with replacing(path) as partial:
        found = _stream(address, partial, card.name)
        if wanted and found != wanted:
            problem = f"the file has sha256 {found}"
            raise BadInput(address, problem, allowed=wanted, fix="fetch it again; if that repeats, the file there is another one")
    write_text(_sidecar(path), f"{found}  {path.name}\n")
    return path


def _stream(address: str, partial: Path, name: str) -> str:
    """Copy what an address gives into a file; returns its sha256."""
    digest = hashlib.sha256()
    try:
        with urlopen(address, timeout=60) as answer, open(partial, "wb") as handle:  # noqa: S310  (the scheme was checked)
            size = float(answer.headers.get("Content-Length") or 0.0)
            with progress(f"download {name}", size / _BLOCK, unit="MiB") as advance:
                while block := answer.read(_BLOCK):
                    digest.update(block)
                    handle.write(block)
                    advance(len(block) / _BLOCK)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise MdistillError(
            f"{address}: could not be fetched ({reason})\n  fix: fetch it elsewhere and name it with --address file:///PATH"
        ) from error
    return digest.hexdigest()


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _expected(path: Path, card: Teacher) -> str:
    """The sha256 that a file must have: the known one, else that written when it was fetched; "" where neither is."""
    known = card.weights.sha256 if card.weights is not None else ""
    if known:
        return known
    with suppress(OSError, UnicodeDecodeError):
        return _sidecar(path).read_text(encoding="utf-8").split()[0]
    return ""


def _check(path: Path, wanted: str) -> None:
    if wanted and (found := sha256(path)) != wanted:
        raise BadInput(path, f"its sha256 is {found[:12]}…", allowed=f"{wanted[:12]}…", fix="remove it and fetch it again")


def conflicts(card: Teacher) -> list[str]:
    """Installed packages of versions that the teacher's package is not made for, a phrase each."""
    from packaging.specifiers import SpecifierSet

    found = []
    for name, specifier in card.needs:
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            if not SpecifierSet(specifier).contains(version, prereleases=True):
                found.append(f"{name} {version} is installed, {card.package} is made for {name} {specifier}")
    return found


def advice(phrases: Sequence[str]) -> str:
    """What to do about a conflict of packages."""
    return (
        f"{'; '.join(phrases)}. Use an environment of its own for this teacher: labels made there are read here "
        "(mdistill label there, mdistill train potential here)"
    )
