"""The label store: round trips, damage, kills and full disks."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdistill.data.store import LabelStore
from mdistill.errors import BadInput, MdistillError, MdistillNotice
from mdistill.graph import make_system
from mdistill.io.arrays import read_arrays
from mdistill.io.files import sha256
from mdistill.types import LabelledFrame, Prediction


def frame(
    seed: int, *, atoms: int = 3, probes: int = 0, stress: bool = True, block: int = 0, source: str = "md"
) -> LabelledFrame:
    draw = np.random.default_rng(seed)
    target = Prediction(
        energy=torch.from_numpy(draw.normal(size=1)),
        forces=torch.from_numpy(draw.normal(size=(atoms, 3))),
        stress=torch.from_numpy(draw.normal(size=(1, 3, 3))) if stress else None,
    )
    rows = torch.from_numpy(draw.normal(size=(2, probes, atoms, 3)))
    return LabelledFrame(
        system=make_system(draw.normal(size=(atoms, 3)), draw.integers(1, 90, atoms), draw.normal(size=(3, 3)), [1, stress, 1]),
        target=target, probes=rows[0] if probes else None, products=rows[1] if probes else None,
        source=source, temperature_K=float(seed), block=block,
    )  # fmt: skip


def flat(frames: list[LabelledFrame]) -> list[Any]:
    """Everything in the frames, comparable with ==."""
    tensors = [
        [
            f.system.positions,
            f.system.numbers,
            f.system.cell,
            f.system.pbc,
            f.target.energy,
            f.target.forces,
            f.target.stress,
            f.probes,
            f.products,
        ]
        for f in frames
    ]
    values = [[None if t is None else (tuple(t.shape), t.tolist()) for t in row] for row in tensors]
    return [(f.source, f.temperature_K, f.block, row) for f, row in zip(frames, values, strict=True)]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 999), st.integers(1, 5), st.integers(0, 2), st.booleans()), min_size=1, max_size=4),
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, appends: list[list[tuple[int, int, int, bool]]]) -> None:
    store = LabelStore(tmp_path_factory.mktemp("store"))
    written: list[LabelledFrame] = []
    for number, group in enumerate(appends):
        frames = [frame(s, atoms=n, probes=k, stress=p, block=number, source="rattle") for s, n, k, p in group]
        store.append(frames)
        written += frames
    assert flat(store.read()) == flat(written)
    assert len(store) == len(written)
    assert store.blocks == list(range(len(appends)))


def test_where_and_keys(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "not" / "there" / "yet")
    assert len(store) == 0 and store.read() == [] and store.keys == set()
    store.append([frame(1), frame(2, source="strain")], key="a@2")
    store.append([frame(3)], key="a@2")
    store.append([frame(4)])
    assert store.keys == {"a@2"}
    assert len(store) == 3
    assert flat(store.read(lambda f: f.source == "strain")) == flat([frame(2, source="strain")])
    with pytest.raises(BadInput, match="none given"):
        store.append([])


def old_form(folder: Path, *, lines: int) -> None:
    """Make a store one of an earlier version: shards without key and sha256, lines without check; this many lines are left."""
    entries = LabelStore(folder).index()
    for entry in entries:
        held = {k: v for k, v in read_arrays(folder / entry["shard"]).items() if k not in ("key", "digest")}
        np.savez(folder / entry["shard"], **held)
    text = [json.dumps(entry | {"sha256": sha256(folder / entry["shard"])}) for entry in entries[:lines]]
    (folder / "labels.jsonl").write_text("".join(line + "\n" for line in text))


@pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")
def test_lost_lines_are_made_from_their_shards(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)], key="one")
    store.append([frame(2, block=4)], key="two")
    index = tmp_path / "labels.jsonl"
    content, entries = index.read_bytes(), store.index()
    for cut in range(0, len(content), 7):
        index.write_bytes(content[:cut])
        assert store.index() == entries, cut
    assert flat(store.read()) == flat([frame(1), frame(2, block=4)]) and store.keys == {"one", "two"}
    store.append([frame(2)], key="two")
    assert index.read_bytes() == content, "the append repairs the index, and knows what is there"
    index.unlink()
    assert store.index() == entries


def test_lost_lines_are_told(tmp_path: Path) -> None:
    for k in range(3):
        LabelStore(tmp_path).append([frame(k)])
    index = tmp_path / "labels.jsonl"
    index.write_text(index.read_text().splitlines(keepends=True)[0])
    with pytest.warns(MdistillNotice, match="had lost 2 of its 3 entries"):
        assert len(LabelStore(tmp_path)) == 3


def test_a_cut_index_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    for k in range(3):
        LabelStore(tmp_path).append([frame(k)])
    old_form(tmp_path, lines=3)
    assert flat(LabelStore(tmp_path).read()) == flat([frame(0), frame(1), frame(2)])
    old_form(tmp_path, lines=1)
    with pytest.raises(BadInput, match=r"(?s)labels\.jsonl: 1 entries, but there are 2 further shards.*fix: restore"):
        LabelStore(tmp_path).read()


def test_a_shard_of_an_earlier_version_without_a_line_is_overwritten(tmp_path: Path) -> None:
    for k in range(2):
        LabelStore(tmp_path).append([frame(k)])
    old_form(tmp_path, lines=1)
    assert flat(LabelStore(tmp_path).read()) == flat([frame(0)])
    LabelStore(tmp_path).append([frame(3)])
    assert flat(LabelStore(tmp_path).read()) == flat([frame(0), frame(3)])


def test_a_flipped_bit_of_the_index_is_named(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)], key="md-600/3")
    index = tmp_path / "labels.jsonl"
    whole, entries = index.read_bytes(), store.index()
    for place in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        index.write_bytes(content)
        try:
            found, message = store.index(), "labels.jsonl"
        except BadInput as error:
            found, message = entries, str(error)
        assert found == entries and "labels.jsonl" in message, place


def damage_is_named(store: LabelStore) -> bool:
    try:
        store.read()
    except BadInput as error:
        return "labels-00001.npz" in str(error)
    return False


def test_undamaged_store_is_read(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)])
    store.append([frame(2)])
    assert not damage_is_named(store)


@pytest.mark.planted
@pytest.mark.parametrize("how", ["flipped bit", "truncated", "removed", "swapped"])
def test_damaged_shard_is_named(tmp_path: Path, how: str, trust: Any) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)])
    store.append([frame(2)])
    shard = tmp_path / "labels-00001.npz"
    content = bytearray(shard.read_bytes())
    if how == "flipped bit":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif how == "truncated":
        shard.write_bytes(content[:-1])
    elif how == "removed":
        shard.unlink()
    else:
        shard.write_bytes((tmp_path / "labels-00000.npz").read_bytes())
    assert damage_is_named(store)
    trust("T34", f"label store: shard {how}", "named", "the shard is named", planted=True)


@pytest.mark.parametrize("line", ["{}", "no json", '{"shard": "../../secret.npz"}'])
def test_altered_index_is_named(tmp_path: Path, line: str) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)])
    index = tmp_path / "labels.jsonl"
    index.write_text(line + "\n" + index.read_text())
    with pytest.raises(BadInput, match=r"labels\.jsonl"):
        store.read()


def test_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "inner")
    store.append([frame(1)])
    index = tmp_path / "inner" / "labels.jsonl"
    entry = {k: v for k, v in json.loads(index.read_text()).items() if k != "check"}
    index.write_text(json.dumps(entry | {"shard": "../labels-00000.npz"}) + "\n")
    (tmp_path / "inner" / "labels-00000.npz").rename(tmp_path / "labels-00000.npz")
    with pytest.raises(BadInput, match="no shard of this folder"):
        store.read()


def test_pickled_shard_is_refused(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)])
    shard, index = tmp_path / "labels-00000.npz", tmp_path / "labels.jsonl"
    np.savez(shard, atoms=np.array([print], dtype=object))
    entry = {k: v for k, v in json.loads(index.read_text()).items() if k != "check"}
    index.write_text(json.dumps(entry | {"sha256": sha256(shard)}) + "\n")
    with pytest.raises((BadInput, ValueError)):
        store.read()


@pytest.mark.slow
def test_readable_after_kill_at_any_moment(tmp_path: Path, trust: Any) -> None:
    store, random, kills = LabelStore(tmp_path), np.random.default_rng(5), 0
    while kills < 25 or len(store) < 8:
        child = os.fork()
        if child == 0:
            while True:
                store.append([frame(len(store), probes=1, block=len(store))])
        time.sleep(random.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        frames = store.read()
        assert flat(frames) == flat([frame(k, probes=1, block=k) for k in range(len(frames))])
    trust("T34", "label store readable after SIGKILL at random moments of writing", f"{kills} of {kills}", "all")


@pytest.mark.slow
def test_full_disk_leaves_the_store_intact(tmp_path: Path, trust: Any) -> None:
    store = LabelStore(tmp_path)
    for k in range(40):
        store.append([frame(k)])
    before = flat(store.read())
    shard, index = (tmp_path / name for name in ("labels-00000.npz", "labels.jsonl"))
    sizes = [
        int(x)
        for x in (
            *np.linspace(0, shard.stat().st_size - 1, 14),
            *np.linspace(shard.stat().st_size, index.stat().st_size + 100, 6),
        )
    ]
    assert index.stat().st_size > shard.stat().st_size + 200
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for size in sizes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
            with pytest.raises(MdistillError, match="could not be written"):
                store.append([frame(99)])
            assert flat(store.read()) == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    store.append([frame(100)])
    assert flat(store.read()) == before + flat([frame(100)])
    trust(
        "T36", "label store: disk full at offsets of shard and index, old labels intact, then goes on", len(sizes), "20 offsets"
    )


def test_frames_are_not_changed_by_writing(tmp_path: Path) -> None:
    kept = frame(7, probes=2)
    copy = replace(kept, probes=None if kept.probes is None else kept.probes.clone())
    LabelStore(tmp_path).append([kept])
    assert flat([kept]) == flat([copy])


@pytest.mark.parametrize("gone", [1, 3])
def test_a_shard_removed_with_its_line_is_noticed(gone: int, tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    for k in range(4):
        store.append([frame(k)], key=f"md@{k}")
    store.finished()
    assert len(store.read()) == 4  # without a notice
    lines = (tmp_path / "labels.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "labels.jsonl").write_text("".join(line for k, line in enumerate(lines) if k != gone))
    (tmp_path / f"labels-{gone:05d}.npz").unlink()
    with pytest.warns(MdistillNotice, match=r"labels\.jsonl: 1 of 4 shards were removed with their lines"):
        assert len(store.read()) == 3
    if gone < 3:  # a gap is seen where labelling never finished, too
        (tmp_path / "ledger.json").unlink()
        with pytest.warns(MdistillNotice, match="1 of 4 shards"):
            store.read()


def test_charge_and_unpaired_electrons_are_kept(tmp_path: Path) -> None:
    """Of frames that state them; a shard without any has no such arrays, as in earlier versions."""
    store, plain = LabelStore(tmp_path), frame(0)
    ion = replace(plain, system=replace(plain.system, charge=torch.tensor([-2])))
    radical = replace(plain, system=replace(plain.system, charge=torch.tensor([0]), unpaired=torch.tensor([1])))
    store.append([plain])
    store.append([plain, ion, radical])
    states = [[None if one is None else int(one) for one in (f.system.charge, f.system.unpaired)] for f in store.read()]
    assert states == [[None, None], [None, None], [-2, None], [0, 1]]
    assert "charge" not in np.load(tmp_path / "labels-00000.npz")
