"""What an attack led to, counted; and how large the attacks are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdistill.errors import MdistillError

FULL = os.environ.get("MDISTILL_ATTACK") == "full"
"""`MDISTILL_ATTACK=full` runs every attack at its full size (about half an hour)."""
PER_KIND = 70
"""Cuts, and flipped bits, of each kind of file."""


@dataclass
class Outcomes:
    """Outcomes by name: refused (with our own error), harmless (the same content), silent, traceback, signal."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: str, example: object) -> None:
        self.counts[outcome] += 1
        self.examples.setdefault(outcome, str(example))

    def call(self, act: Callable[[], Any], *, example: object, same: Callable[[Any], bool]) -> None:
        """Call something on altered input and note what it led to."""
        try:
            found = act()
        except MdistillError as error:
            self.add("refused" if "fix:" in str(error) else "no fix", example)
        except Exception as error:
            self.add("traceback", f"{example}: {error!r}")
        else:
            self.add("harmless" if same(found) else "silent", example)

    @property
    def bad(self) -> dict[str, str]:
        """An example of each outcome that must not be."""
        return {name: text for name, text in self.examples.items() if name not in ("refused", "harmless", "accepted", "resumed")}

    def __str__(self) -> str:
        return ", ".join(f"{self.counts[name]} {name}" for name in sorted(self.counts))


def cuts(content: bytes, count: int = PER_KIND) -> Iterator[tuple[str, bytes]]:
    """A file cut at so many places, the ends of its lines among them."""
    lines = [k + 1 for k in range(len(content) - 1) if content[k : k + 1] == b"\n"]
    places = [*np.linspace(0, len(content) - 1, count).astype(int).tolist()]
    places[::3] = [lines[k % len(lines)] for k in range(len(places[::3]))] if lines else places[::3]
    return ((f"cut at {place} of {len(content)}", content[:place]) for place in places)


def flips(content: bytes, count: int = PER_KIND, *, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """A file with one flipped bit each."""
    return flipped(content, np.random.default_rng(seed).integers(0, 8 * len(content), count).tolist())


def flipped(content: bytes, bits: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """A file with one of these bits flipped each."""
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} of {8 * len(content)}", bytes(changed)
