"""Held-out sets are whole time blocks, the later ones, of every temperature."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mdistill.data.split import split_blocks
from mdistill.errors import BadInput
from systems import morse_frames


def frames(blocks):
    """blocks: {(temperature, block): number of frames}."""
    frame = morse_frames(1, atoms=2)[0]
    return [replace(frame, temperature_K=t, block=b) for (t, b), count in blocks.items() for _ in range(count)]


def test_whole_blocks_and_every_temperature():
    every = frames({(600.0, 0): 10, (600.0, 1): 10, (600.0, 2): 10, (900.0, 3): 5, (900.0, 4): 5})
    train, held = split_blocks(every, held_out=0.15)
    assert {f.block for f in held} == {2, 4}
    assert {f.block for f in train} & {f.block for f in held} == set()
    assert len(train) + len(held) == len(every)


def test_enough_blocks_for_the_fraction_but_one_always_stays():
    every = frames({(600.0, k): 10 for k in range(5)})
    assert {f.block for f in split_blocks(every, held_out=0.35)[1]} == {3, 4}
    assert {f.block for f in split_blocks(every, held_out=0.89)[0]} == {0}


def test_a_temperature_of_one_block_is_trained_on():
    train, held = split_blocks(frames({(600.0, 0): 4, (900.0, 1): 4, (900.0, 2): 4}))
    assert {f.block for f in train} == {0, 1}
    assert {f.block for f in held} == {2}


def test_nothing_to_hold_out_is_refused():
    with pytest.raises(BadInput, match="block"):
        split_blocks(frames({(600.0, 0): 20, (900.0, 1): 20}))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_bad_fractions_are_refused(fraction):
    with pytest.raises(BadInput):
        split_blocks(frames({(600.0, 0): 2, (600.0, 1): 2}), held_out=fraction)


def test_displaced_copies_go_where_their_block_goes():
    every = frames({(600.0, 0): 5, (600.0, 1): 5, (1000.0, 2): 5, (1000.0, 3): 5})
    copies = [replace(f, source="displaced", temperature_K=0.0) for f in every]
    plain, both = split_blocks(every, held_out=0.3), split_blocks(every + copies, held_out=0.3)
    for alone, together in zip(plain, both, strict=True):
        assert {f.block for f in alone} == {f.block for f in together} and len(together) == 2 * len(alone)


def test_members_of_a_committee_hold_out_other_blocks_while_there_are_any():
    every = frames({(600.0, k): 10 for k in range(5)} | {(900.0, 5): 4, (900.0, 6): 4, (1000.0, 7): 4})
    held = [{f.block for f in split_blocks(every, held_out=0.15, member=member)[1]} for member in range(1, 7)]
    assert held == [{4, 6}, {3, 5}, {2, 6}, {1, 5}, {0, 6}, {4, 5}]
    pairs = [{f.block for f in split_blocks(every, held_out=0.35, member=member)[1] if f.block < 5} for member in (1, 2, 3)]
    assert pairs == [{3, 4}, {1, 2}, {4, 0}]
