"""The label store: round trips, damage, kills and full disks."""

from __future__ import annotations

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
from mdistill.errors import BadInput, MdistillError
from mdistill.graph import make_system
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


def test_torn_line_and_orphan_are_ignored_and_repaired(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)])
    index = tmp_path / "labels.jsonl"
    whole = index.read_bytes()
    store.append([frame(2)])
    second = index.read_bytes()[len(whole) :]
    for cut in range(len(second)):
        index.write_bytes(whole + second[:cut])
        assert flat(store.read()) == flat([frame(1)])
    store.append([frame(3)])
    assert flat(store.read()) == flat([frame(1), frame(3)])


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
    index.write_text(index.read_text().replace("labels-00000.npz", "../labels-00000.npz"))
    (tmp_path / "inner" / "labels-00000.npz").rename(tmp_path / "labels-00000.npz")
    with pytest.raises(BadInput, match="no shard of this folder"):
        store.read()


def test_pickled_shard_is_refused(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    store.append([frame(1)])
    shard, index = tmp_path / "labels-00000.npz", tmp_path / "labels.jsonl"
    old = LabelStore(tmp_path).index()[0]["sha256"]
    np.savez(shard, atoms=np.array([print], dtype=object))
    from mdistill.io.files import sha256

    index.write_text(index.read_text().replace(old, sha256(shard)))
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
