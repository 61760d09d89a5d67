"""Held-out sets: whole blocks of contiguous time, never random frames (neighbours in time are almost copies)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from mdistill.data.segments import Segment
from mdistill.errors import BadInput
from mdistill.types import LabelledFrame


def split_blocks(
    frames: Sequence[LabelledFrame], *, held_out: float = 0.15, member: int = 1, chosen: Collection[int] = ()
) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Training and held-out frames: from every temperature the later blocks are held out, at least one where there are two.

    Blocks are grouped by source and temperature and ordered by number. From each group of at least two blocks the last
    ones are held out until they hold at least the fraction `held_out` of its frames; one block always stays for
    training. A group of a single block is trained on. Displaced copies of frames stay with their block. The choice
    depends on the blocks alone, so a store always splits the same way. Member 2 of a committee holds out the blocks before
    those of member 1, and so on; after the first block comes the last one again. The blocks `chosen`, if any, are held out
    in place of all this.

    Raises:
        BadInput: held_out outside (0, 0.9), or every group has a single block (nothing could be held out).
    """
    if not 0.0 < held_out < 0.9:
        raise BadInput("held_out", f"{held_out}", allowed="above 0, below 0.9", fix="0.15")
    groups: dict[tuple[str, float], dict[int, int]] = {}
    for frame in frames:
        if frame.source == "displaced":
            continue
        sizes = groups.setdefault((frame.source, frame.temperature_K), {})
        sizes[frame.block] = sizes.get(frame.block, 0) + 1
    chosen = set(chosen)
    for sizes in () if chosen else groups.values():
        blocks, wanted = sorted(sizes), math.ceil(held_out * sum(sizes.values()))
        for _ in range(member):
            missing, held = wanted, list[int]()
            while len(held) < len(blocks) - 1 and missing > 0:
                held.append(blocks[-1])
                missing -= sizes[held[-1]]
                blocks = [held[-1], *blocks[:-1]]
        chosen |= set(held)
    if not chosen:
        raise BadInput(
            "labels", f"{len(frames)} frames in {len({f.block for f in frames})} block(s), one per temperature",
            allowed="at least two time blocks at one temperature", fix="label longer runs or more blocks",
        )  # fmt: skip
    return [f for f in frames if f.block not in chosen], [f for f in frames if f.block in chosen]


def split_segments(segments: Sequence[Segment], *, held_out: float = 0.1) -> tuple[list[Segment], list[Segment]]:
    """Training and held-out segments: of every temperature the last blocks, at least one where there are two.

    Raises:
        BadInput: Every temperature has a single block.
    """
    chosen: set[tuple[float, int]] = set()
    for kelvin in sorted({s.temperature_K for s in segments}):
        blocks = sorted({s.block for s in segments if s.temperature_K == kelvin})
        count = min(math.ceil(held_out * len(blocks)), len(blocks) - 1)
        chosen |= {(kelvin, block) for block in blocks[len(blocks) - count :]}
    if not chosen:
        raise BadInput("segments", f"{len(segments)}, one block per temperature", allowed="two blocks", fix="make more segments")
    train: list[Segment] = []
    held: list[Segment] = []
    for segment in segments:
        (held if (segment.temperature_K, segment.block) in chosen else train).append(segment)
    return train, held
