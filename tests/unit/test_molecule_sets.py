"""SPICE and QCML: units, charges, blocks of whole molecules, damaged files and numbers that are not finite."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from mdistill.data.store import LabelStore
from mdistill.errors import BadInput, MdistillNotice
from mdistill.io.molecule_sets import formal_charge
from mdistill.io.tfrecord import checksum, read_examples
from mdistill.labelling.import_labels import import_labels
from mdistill.labelling.settings import LabelFileSettings
from mdistill.units import BOHR, HARTREE

MOLECULES = {"water": ("[O:1]([H:2])[H:3]", (8, 1, 1)), "ammonium": ("[N+:1]([H:2])([H:3])([H:4])[H:5]", (7, 1, 1, 1, 1)),
             "hydroxide": ("[O-:1][H:2]", (8, 1))}  # fmt: skip


def labelled(atoms: int, frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Structures (bohr) with energies (Ha) and gradients of springs between all pairs."""
    places = np.random.default_rng(seed).normal(size=(frames, atoms, 3)) * 0.2 + 2.0 * np.eye(5, 3)[:atoms]
    arms = places[:, :, None] - places[:, None]
    lengths = np.linalg.norm(arms + 1e-12, axis=3)
    pull = np.where(lengths > 1e-6, (lengths - 2.0) / np.maximum(lengths, 1e-6), 0.0)
    energy = 0.05 * np.triu((lengths - 2.0) ** 2, 1).sum((1, 2))
    return places, energy, 0.1 * (pull[..., None] * arms).sum(2)


def spice(path: Path, frames: int = 12, **change: object) -> Path:
    with h5py.File(path, "w") as file:
        for seed, (name, (smiles, numbers)) in enumerate(MOLECULES.items()):
            places, energy, gradient = labelled(len(numbers), frames, seed)
            group = file.create_group(name)
            group.create_dataset("subset", data=["pairs"], dtype=h5py.string_dtype())
            group.create_dataset("smiles", data=[smiles], dtype=h5py.string_dtype())
            arrays = {"atomic_numbers": np.array(numbers, np.int16), "conformations": places.astype(np.float32),
                      "dft_total_energy": energy, "dft_total_gradient": gradient.astype(np.float32)}  # fmt: skip
            for key, values in (arrays | change if name == "water" else arrays).items():
                if key in group:
                    del group[key]
                if values is not None:
                    group.create_dataset(key, data=values)
            group["conformations"].attrs["units"] = "bohr"
    return path


def test_spice_in_our_units_with_charges_and_whole_molecules_in_blocks(tmp_path: Path) -> None:
    imported = import_labels(spice(tmp_path / "SPICE.hdf5"), LabelFileSettings(held_out=0.4))
    assert len(imported.frames) == 36 and {frame.source for frame in imported.frames} == {"pairs"}
    places, energy, gradient = labelled(3, 12)
    water = [frame for frame in imported.frames if frame.system.n_atoms == 3]
    for frame, place, value, slope in zip(water, places, energy, gradient, strict=True):
        assert np.allclose(frame.system.positions.numpy(), place * BOHR, atol=1e-5) and not frame.system.pbc.any()
        assert float(frame.target.energy) == pytest.approx(value * HARTREE, abs=1e-9)
        assert np.allclose(frame.target.forces.numpy(), -slope * HARTREE / BOHR, atol=1e-4)
    charges = {frame.system.n_atoms: int(frame.system.charge) for frame in imported.frames}
    assert charges == {3: 0, 5: 1, 2: -1} and all(frame.system.unpaired is None for frame in imported.frames)
    held = {frame.system.n_atoms for frame in imported.frames if frame.block in imported.held_blocks}
    assert held and not held & {frame.system.n_atoms for frame in imported.frames if frame.block not in imported.held_blocks}


def test_most_structures_are_taken_evenly(tmp_path: Path) -> None:
    frames = import_labels(spice(tmp_path / "SPICE.hdf5"), LabelFileSettings(most_structures=9)).frames
    counts = [sum(frame.system.n_atoms == atoms for frame in frames) for atoms in (2, 3, 5)]
    assert counts == [3, 3, 3]
    write(tmp_path / "other.extxyz", Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]))
    with pytest.raises(BadInput, match="--most-structures"):
        import_labels(tmp_path / "other.extxyz", LabelFileSettings(most_structures=9))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dft_total_gradient": None}, "no array dft_total_gradient"),
        ({"dft_total_energy": np.zeros(5)}, r"shape \(5,\), not \(12,\)"),
        ({"conformations": np.full((12, 3, 3), np.nan)}, "not finite"),
        ({"atomic_numbers": np.array([8, 1, 999])}, "999"),
        ({"smiles": np.array([], dtype="S4")}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_molecule_of_spice_is_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        import_labels(spice(tmp_path / "SPICE.hdf5", **change))


def test_other_units_and_other_files_are_refused(tmp_path: Path) -> None:
    path = spice(tmp_path / "SPICE.h5")
    with pytest.raises(BadInput, match="--energy-unit"):
        import_labels(path, LabelFileSettings(energy_unit="Ha"))
    with h5py.File(path, "r+") as file:
        file["water/conformations"].attrs["units"] = "angstrom"
    with pytest.raises(BadInput, match="in angstrom, in SPICE it is in bohr"):
        import_labels(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("positions", data=np.zeros(3))
    with pytest.raises(BadInput, match="no groups"):
        import_labels(path)
    path.write_bytes(b"\x89HDF")
    with pytest.raises(BadInput, match="cannot be read"):
        import_labels(path)


def test_labels_of_spice_that_are_not_finite_count_as_missing(tmp_path: Path) -> None:
    energy = labelled(3, 12)[1]
    energy[4] = np.nan
    with pytest.warns(MdistillNotice, match="1 labels are not finite"):
        frames = import_labels(spice(tmp_path / "SPICE.hdf5", dft_total_energy=energy)).frames
    assert [k for k, frame in enumerate(f for f in frames if f.system.n_atoms == 3) if "energy" in frame.missing] == [4]


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [("[O-:1][H:2]", -1), ("[Ca+2:1].[Cl-:2].[Cl-:3]", 0), ("[Mg++]", 2), ("[N@@+:1]([H:2])", 1), ("C[NH3+].[O-2:12]", -1),
     ("C-C(=O)[O-:7]", -1)],
)  # fmt: skip
def test_formal_charge(smiles: str, charge: int) -> None:
    assert formal_charge(smiles) == charge


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def record(**features: object) -> bytes:
    entries = []
    for name, value in features.items():
        values = np.ravel(np.asarray(value))
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif values.dtype.kind == "f":
            feature = field(2, field(1, values.astype("<f4").tobytes()))
        else:
            feature = field(3, field(1, b"".join(varint(int(one)) for one in values)))
        entries.append(field(1, field(1, name.encode()) + field(2, feature)))
    content = field(1, b"".join(entries))
    length = struct.pack("<Q", len(content))
    return b"".join([length, struct.pack("<I", checksum(length)), content, struct.pack("<I", checksum(content))])


def qcml(path: Path, *, lacking: str = "", outlier: int = 3) -> Path:
    places, energy, gradient = labelled(4, 10)
    records = []
    for k in range(10):
        features = {"atomic_numbers": [6, 1, 1, 1], "positions": places[k], "pbe0_formation_energy": float(energy[k]),
                    "pbe0_energy": float(energy[k]) - 39.7, "pbe0_forces": -gradient[k], "charge": -1 + k % 2, "multiplicity": 1 + k % 2,
                    "is_outlier": int(k == outlier), "key_hash": b"a1b2"}  # fmt: skip
        records.append(record(**{name: value for name, value in features.items() if name != lacking}))
    path.write_bytes(b"".join(records))
    return path


def test_the_checksum_is_that_of_the_published_test_value() -> None:
    value = 0xE3069283
    assert checksum(b"123456789") == (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_qcml_in_our_units_with_charges_and_unpaired_electrons(tmp_path: Path) -> None:
    path = qcml(tmp_path / "qcml-full.tfrecord-00000-of-00011")
    with pytest.warns(MdistillNotice, match="1 structures are marked as outliers"):
        frames = import_labels(path, LabelFileSettings(held_out=0.2)).frames
    places, energy, gradient = (np.delete(part, 3, 0) for part in labelled(4, 10))
    assert len(frames) == 9
    for frame, place, value, slope in zip(frames, places, energy, gradient, strict=True):
        assert np.allclose(frame.system.positions.numpy(), place * BOHR, atol=1e-6)
        assert float(frame.target.energy) == pytest.approx(value * HARTREE, abs=1e-6)
        assert np.allclose(frame.target.forces.numpy(), -slope * HARTREE / BOHR, atol=1e-5)
    store = LabelStore(tmp_path / "store")
    store.append(frames, key="qcml")
    for held in (frames, store.read()):
        assert [(int(f.system.charge), int(f.system.unpaired)) for f in held[:3]] == [(-1, 0), (0, 1), (-1, 0)]
    with pytest.warns(MdistillNotice):
        assert len(import_labels(path, LabelFileSettings(most_structures=4)).frames) == 3


def test_one_zero_of_energy_in_a_file_of_qcml(tmp_path: Path) -> None:
    mixed, path = tmp_path / "mixed.tfrecord-00000-of-00011", tmp_path / "qcml-full.tfrecord-00000-of-00011"
    total = qcml(path, lacking="pbe0_formation_energy", outlier=-1).read_bytes()
    with pytest.warns(MdistillNotice, match="no pbe0_formation_energy: total energies are read"):
        frames = import_labels(path).frames
    assert float(frames[0].target.energy) == pytest.approx((labelled(4, 10)[1][0] - 39.7) * HARTREE, abs=1e-3)
    mixed.write_bytes(qcml(path, outlier=-1).read_bytes() + total)
    with pytest.raises(BadInput, match="structure 11 has no pbe0_formation_energy"):
        import_labels(mixed)


def test_damaged_records_and_other_features_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "qcml-full.tfrecord-00000-of-00011"
    with pytest.raises(BadInput, match="structure 1 has no pbe0_forces"):
        import_labels(qcml(path, lacking="pbe0_forces"))
    whole = qcml(path).read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(BadInput, match="record 10 is cut off"):
        import_labels(path)
    for place, text in ((2, "the length of record 1"), (60, "the checksum of record 1")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BadInput, match=text):
            import_labels(path)
    path.write_bytes(record(**{"x": [-5, 7]}))
    assert next(read_examples(path))["x"].tolist() == [-5, 7]
