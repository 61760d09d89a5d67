"""Model files: round trip, metadata, golden files (T21), and everything that must be refused (T32)."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from laws import evaluate
from mdistill.derivatives import potential_of
from mdistill.errors import BadInput, MdistillError
from mdistill.graph import build_graph
from mdistill.nets import model_files as checkpoint
from mdistill.nets.model_files import FORMAT, load_model, read_metadata, save_model, tensor_hash
from systems import NETS, SYSTEMS, random_box, tiny_net, tiny_painn

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "student.mdistill"
    save_model(path, tiny_net(), {"teacher": "morse"})
    return path


def test_round_trip_is_exact(model):
    net, system = tiny_net(), SYSTEMS["box"]()
    loaded = load_model(model)
    assert torch.equal(evaluate(loaded.net, system).forces, evaluate(net, system).forces)
    single = load_model(model, dtype=torch.float32)
    assert torch.allclose(evaluate(single.net, system).forces, evaluate(net, system).forces, atol=1e-4)
    assert not any(p.requires_grad for p in loaded.net.parameters())


@pytest.mark.parametrize("make", [*NETS.values(), lambda: tiny_painn(direct=True)], ids=[*NETS, "painn direct"])
def test_every_kind_of_network_comes_back(make, tmp_path):
    net, system = make(), SYSTEMS["box"]()
    save_model(tmp_path / "m", net)
    loaded = load_model(tmp_path / "m")
    graph = build_graph(system, net.cutoff)
    found, expected = loaded(graph), potential_of(net)(graph)
    assert type(loaded) is type(potential_of(net)) and loaded.net.settings == net.settings
    assert read_metadata(tmp_path / "m")["kind"] == net.kind
    assert torch.allclose(found.forces, expected.forces, rtol=0.0, atol=1e-13)
    assert torch.allclose(found.energy, expected.energy, rtol=0.0, atol=1e-12)


def test_a_network_in_single_precision_is_stored_as_it_is(tmp_path):
    net = tiny_net().in_type(torch.float32)
    save_model(tmp_path / "m", net)
    assert torch.equal(load_model(tmp_path / "m").net.mixing, net.mixing.double())


def test_metadata_says_what_it_is(model):
    metadata = read_metadata(model)
    assert metadata["format"] == FORMAT
    assert metadata["kind"] == "moment"
    assert metadata["elements"] == [3, 15, 16, 17]
    assert metadata["provenance"] == {"teacher": "morse"}
    assert metadata["settings"]["cutoff"] == 4.9
    assert len(metadata["sha256"]) == 64
    assert metadata["sha256"] == save_model(model, tiny_net()), "the hash is that of the weights, not of the file"
    assert metadata["sha256"] != save_model(model, tiny_net(1))


def parts(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    return json.loads(header["__metadata__"]["mdistill"].splitlines()[-1]), safetensors.numpy.load(raw), raw


def write(path, metadata, tensors):
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"mdistill": json.dumps(metadata)}))


def rehashed(metadata, tensors):
    return metadata | {"sha256": tensor_hash(tensors)}


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def other_tensors(change):
    def make(path):
        metadata, tensors, _ = parts(path)
        tensors = {name: value.copy() for name, value in tensors.items()}
        change(tensors)
        write(path, rehashed(metadata, tensors), tensors)

    return make


def other_metadata(**changes):
    def make(path):
        metadata, tensors, _ = parts(path)
        write(path, {k: v for k, v in (metadata | changes).items() if v is not None}, tensors)

    return make


def other_settings(**changes):
    def make(path):
        metadata, tensors, _ = parts(path)
        write(path, metadata | {"settings": metadata["settings"] | changes}, tensors)

    return make


def raw_bytes(change):
    def make(path):
        path.write_bytes(change(bytearray(path.read_bytes())))

    return make


def flip(raw):
    raw[-200] ^= 4
    return bytes(raw)


def zipped(path):
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("student.mdistill", content)


def folder(path):
    path.unlink()
    path.mkdir()


def gone(path):
    path.unlink()


def header_of(text: bytes):
    return lambda raw: struct.pack("<Q", len(text)) + text


def set_nan(tensors):
    tensors["first.weight"][0, 0, 0] = np.nan


BAD = {
    "no such file": gone,
    "a folder": folder,
    "empty": raw_bytes(lambda raw: b""),
    "7 bytes": raw_bytes(lambda raw: bytes(raw[:7])),
    "text": raw_bytes(lambda raw: b"hello " * 100),
    "zip": zipped,
    "pickle": lambda path: path.write_bytes(pickle.dumps(Canary(path.parent / "canary"))),
    "torch zip with pickle": lambda path: torch.save({"a": Canary(path.parent / "canary")}, path),
    "flipped bit": raw_bytes(flip),
    "trailing bytes": raw_bytes(lambda raw: bytes(raw) + b"12345678"),
    "header claims 2^60 bytes": raw_bytes(lambda raw: struct.pack("<Q", 2**60) + bytes(raw[8:])),
    "header of 11 MB": raw_bytes(header_of(b'{"a":"' + b"x" * 11_000_000 + b'"}')),
    "JSON 100,000 deep": raw_bytes(header_of(b"[" * 100_000 + b"]" * 100_000)),
    "JSON 100,000 deep inside": raw_bytes(header_of(json.dumps({"__metadata__": {"mdistill": "[" * 100_000}}).encode())),
    "header is no JSON": raw_bytes(header_of(b"{nonsense")),
    "header is a list": raw_bytes(header_of(b"[1, 2, 3]")),
    "no metadata": lambda path: path.write_bytes(safetensors.numpy.save({"a": np.zeros(3)})),
    "metadata is a number": raw_bytes(header_of(b'{"__metadata__": {"mdistill": "3"}}')),
    "newer format": other_metadata(format=FORMAT + 1),
    "format 0": other_metadata(format=0),
    "format is text": other_metadata(format="1"),
    "unknown kind": other_metadata(kind="schnet"),
    "other kind": other_metadata(kind="painn"),
    "wrong sha256": other_metadata(sha256="0" * 64),
    "no sha256": other_metadata(sha256=None),
    "other elements": other_metadata(elements=[3, 15, 16, 35]),
    "settings of other elements": other_settings(elements=[3, 15, 16, 35]),
    "settings missing": other_metadata(settings=None),
    "unknown setting": other_settings(wings=2),
    "setting out of range": other_settings(cutoff=-5.0),
    "setting of wrong type": other_settings(cutoff="5"),
    "huge network announced": other_settings(hidden=1024, channels=64, radial=64),
    "118 elements announced": lambda path: other_settings(elements=list(range(1, 119)))(path) or None,
    "missing tensor": other_tensors(lambda t: t.pop("second.bias")),
    "unknown tensor": other_tensors(lambda t: t.update(extra=np.zeros(3))),
    "wrong shape": other_tensors(lambda t: t.update({"last.weight": np.zeros((4, 8, 2))})),
    "integer weights": other_tensors(lambda t: t.update({"last.weight": np.zeros((4, 8, 1), dtype=np.int64)})),
    "NaN weights": other_tensors(set_nan),
    "weights of 1e300": other_tensors(lambda t: t.update(scale=np.array(1e300))),
    "elements are floats": lambda path: (
        other_settings(elements=[3.0, 15.0, 16.0, 17.0])(path),
        other_metadata(elements=[3.0, 15.0, 16.0, 17.0])(path),
    ),
    "infinite scale": other_tensors(lambda t: t.update(scale=np.array(np.inf))),
}


@pytest.mark.parametrize("damage", BAD.values(), ids=BAD.keys())
def test_bad_model_files_are_refused_at_once(model, damage):
    damage(model)
    begin = time.process_time()
    with pytest.raises(BadInput) as error:
        load_model(model)
    assert time.process_time() - begin < 1.0
    text = str(error.value)
    assert str(model) in text and "allowed:" in text and "fix:" in text
    assert not (model.parent / "canary").exists(), "code in the file was run"


BAD_PAINN = {
    "a moment's kind": other_metadata(kind="moment"),
    "flipped bit": raw_bytes(flip),
    "unknown setting": other_settings(channels=8),
    "setting out of range": other_settings(layers=0),
    "setting of wrong type": other_settings(layers="2"),
    "direct is no truth value": other_settings(direct="yes"),
    "direct head announced": other_settings(direct=True),
    "huge network announced": other_settings(width=1024, layers=12, radial=64),
    "wider network announced": other_settings(width=512),
    "further layer announced": other_settings(layers=3),
    "fewer layers announced": other_settings(layers=1),
    "missing tensor": other_tensors(lambda t: t.pop("updates.1.mix.weight")),
    "wrong shape": other_tensors(lambda t: t.update({"readout.last.weight": np.zeros((3, 2))})),
    "NaN weights": other_tensors(lambda t: t["embedding"].fill(np.nan)),
}


@pytest.mark.parametrize("damage", BAD_PAINN.values(), ids=BAD_PAINN.keys())
def test_bad_files_of_a_message_passing_student_are_refused_at_once(tmp_path, damage):
    path = tmp_path / "student.mdistill"
    save_model(path, tiny_painn())
    load_model(path)
    damage(path)
    begin = time.process_time()
    with pytest.raises(BadInput) as error:
        load_model(path)
    assert time.process_time() - begin < 1.0
    assert str(path) in str(error.value) and "fix:" in str(error.value)


def test_truncated_at_each_percent_is_refused(model, trust):
    raw = model.read_bytes()
    slowest = 0.0
    for percent in range(100):
        model.write_bytes(raw[: len(raw) * percent // 100])
        begin = time.process_time()
        with pytest.raises(BadInput):
            load_model(model)
        slowest = max(slowest, time.process_time() - begin)
    assert slowest < 1.0
    trust(
        "T32",
        f"{len(BAD)} kinds of bad model files and truncation at each 1 %: refused; slowest truncation (CPU s)",
        slowest,
        "< 1 s",
    )


def flipped_bits(path, bits):
    """Whether each flipped bit is refused; the file is as it was afterwards."""
    whole, refused = path.read_bytes(), []
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            load_model(path)
        except BadInput:
            refused.append(True)
        else:
            refused.append(False)
    path.write_bytes(whole)
    return refused


def test_flipped_bits_of_the_header_are_refused(model):
    """Every bit of it: tests/attack."""
    length = struct.unpack("<Q", model.read_bytes()[:8])[0]
    assert all(flipped_bits(model, range(3, 8 * (length + 8), 31)))


@pytest.mark.planted
def test_without_the_digest_of_the_header_a_flipped_cutoff_would_pass(model, trust):
    """Files before format 3."""
    metadata, tensors, _ = parts(model)
    write(model, metadata | {"format": 2}, tensors)
    place = 8 * model.read_bytes().index(b"4.9") + 1
    assert flipped_bits(model, [place]) == [False]
    save_model(model, tiny_net())
    assert flipped_bits(model, [8 * model.read_bytes().index(b"4.9") + 1]) == [True]
    trust("T32", "header without its sha256: a flipped cutoff goes unnoticed", "seen", "seen", planted=True)


@pytest.mark.planted
def test_without_the_hash_a_flipped_bit_would_pass(model, monkeypatch, trust):
    flipped = raw_bytes(flip)
    flipped(model)
    claimed = read_metadata(model)["sha256"]
    monkeypatch.setattr(checkpoint, "tensor_hash", lambda tensors: claimed)
    load_model(model)
    trust("T32", "hash not compared: the flipped bit goes unnoticed", "seen", "seen", planted=True)


def test_the_canary_would_sing(tmp_path):
    """The pickle of the bad-file tests does run code where it is unpickled."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_a_newer_format_comes_with_advice(model):
    other_metadata(format=FORMAT + 1)(model)
    with pytest.raises(BadInput, match="pip install --upgrade mdistill"):
        load_model(model)


def test_an_older_format_is_upgraded(model, monkeypatch):
    """A made-up format 0 that called the settings `size`."""
    metadata, tensors, _ = parts(model)
    old = {k: v for k, v in metadata.items() if k != "settings"} | {"format": 0, "size": metadata["settings"]}
    write(model, old, tensors)

    def upgrade(header):
        return {k: v for k, v in header.items() if k != "size"} | {"format": FORMAT, "settings": header["size"]}

    monkeypatch.setattr(checkpoint, "UPGRADES", {0: upgrade})
    assert load_model(model).elements == {3, 15, 16, 17}


def golden_files():
    return sorted(GOLDEN.glob("*_format_*.mdistill"))


def test_there_is_a_golden_file_of_every_kind_and_format():
    names = [f"{kind}_format_{k}.mdistill" for kind in ("painn", "student") for k in range(1, FORMAT + 1)]
    assert [path.name for path in golden_files()] == names
    assert [read_metadata(path)["kind"] for path in golden_files()] == ["painn"] * FORMAT + ["moment"] * FORMAT
    assert all(path.stat().st_size < 50_000 for path in golden_files())


def largest_golden_difference(path, scale=1.0):
    stored = json.loads(path.with_suffix(".json").read_text())
    potential, worst = load_model(path), 0.0
    for name, values in stored["predictions"].items():
        found = evaluate(potential.net, SYSTEMS[name]())
        expected = torch.tensor(values["energy"]), torch.tensor(values["forces"], dtype=torch.float64)
        worst = max(worst, abs(scale * float(found.energy[0]) - float(values["energy"])))
        worst = max(worst, float((found.forces - expected[1]).abs().max()))
    return worst


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_golden_files_give_their_stored_energies_and_forces(path, trust):
    worst = largest_golden_difference(path)
    assert worst < 1e-10
    trust("T21", f"{path.stem}: stored E (eV), F (eV/Å)", worst, "1e-10")


@pytest.mark.planted
def test_golden_files_catch_a_changed_constant(trust, monkeypatch):
    from mdistill.nets import moment

    monkeypatch.setattr(moment, "FREEZE", 0.151)
    close = replace(random_box(1), positions=random_box(1).positions * 0.8)
    before, after = evaluate(tiny_net(), close), None
    monkeypatch.undo()
    after = evaluate(tiny_net(), close)
    assert float((before.forces - after.forces).abs().max()) > 1e-8
    assert largest_golden_difference(GOLDEN / "student_format_1.mdistill", scale=1.0 + 1e-9) > 1e-10
    trust("T21", "energy off by 1e-9 relative", "caught", "caught", planted=True)


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(MdistillError, match=r"student\.mdistill"):
        save_model(tmp_path / "student.mdistill", tiny_net())


def test_equal_models_are_equal_files(tmp_path):
    written = set()
    for _ in range(8):
        save_model(tmp_path / "m", tiny_net(), {"teacher": "morse"})
        written.add((tmp_path / "m").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_card_names_the_format_that_the_file_has(number: int) -> None:
    from mdistill.report.cards import card

    shown = card(Path(__file__).parent.parent / "golden" / f"student_format_{number}.mdistill")
    assert any(f"format {number}" in str(row[1]) for table in shown.tables for row in table.rows if row[0] == "file")
