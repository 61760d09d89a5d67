"""Controls that tie a student's features to its teacher's."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.nets.model_files import load_net
from mdistill.nets.moment import MomentNet
from mdistill.nets.painn import PainnNet
from mdistill.nets.settings import PainnSettings
from mdistill.teachers import golden, golden_system, load_teacher
from mdistill.training.labels import items_of, join
from mdistill.training.potential import train_potential
from mdistill.training.settings import FitSettings, PainnSize, TrainSettings
from research.matching import EmbeddingMatching, NodeMatching, train_tied
from systems import morse_frames, tiny_net

FIT = FitSettings(steps=30, batch_size=6, warmup=10, learning_rate=0.02)
SMALL = TrainSettings(cutoff=5.0, channels=6, radial=6, hidden=16, held_out=0.25, fit=FIT)
PAINN = replace(SMALL, net="painn", cutoff=4.0, painn=PainnSize(width=8, layers=1, radial=6))


@pytest.fixture(scope="module")
def frames():
    return morse_frames(48, probes=2)


@pytest.mark.parametrize("settings", [SMALL, PAINN], ids=["moment", "painn"])
def test_features_are_tied_to_the_teachers(settings, frames, tmp_path):
    elements = (3, 15, 16, 17)
    teacher = tiny_net(4) if settings is SMALL else PainnNet(PainnSettings(elements=elements, width=6), seed=4)
    matching = NodeMatching(teacher, weight=1.0)
    items = items_of(frames[:4], settings.cutoff, torch.float64)
    net = settings.student(elements)
    net = MomentNet(net, seed=0) if settings is SMALL else PainnNet(net, seed=0)
    matching.attach(net, seed=0)
    loss = matching.loss(net, join([i.graph for i in items]), [i.frame for i in items])
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    assert float(loss.detach()) > 0.0 and any(g is not None and float(g.abs().max()) > 0 for g in gradients)
    matching.detach(net)
    assert not hasattr(net, "matched")
    done = train_tied(frames, settings, tmp_path / "tied", NodeMatching(teacher))
    plain = train_potential(frames, settings, tmp_path / "plain")
    assert done.sha256 != plain.sha256 and done.parameters == plain.parameters
    assert set(load_net(done.path).state_dict()) == set(load_net(plain.path).state_dict())


def test_the_embedding_is_a_projection_of_the_teachers(frames, tmp_path):
    elements = (3, 15, 16, 17)
    teacher = PainnNet(PainnSettings(elements=elements, width=3), seed=4).requires_grad_(False)
    done = train_tied(frames, PAINN, tmp_path / "a2a", EmbeddingMatching(teacher))
    embedding = load_net(done.path).embedding.detach()
    inside = teacher.embedding @ torch.linalg.pinv(teacher.embedding) @ embedding
    assert float((inside - embedding).norm() / embedding.norm()) < 1e-5, "it lies in the span of the teacher's three channels"
    free = load_net(train_potential(frames, PAINN, tmp_path / "free").path).embedding.detach()
    assert float((teacher.embedding @ torch.linalg.pinv(teacher.embedding) @ free - free).norm() / free.norm()) > 0.1
    with pytest.raises(BadInput, match="PaiNN"):
        train_tied(frames, SMALL, tmp_path / "no", EmbeddingMatching(teacher))


@pytest.mark.skipif(not find_spec("sevenn"), reason="sevenn is not installed")
def test_the_embedding_of_sevennet_is_projected():
    net, system = load_teacher("sevennet-0").net, golden_system(golden("sevennet-0")["frames"][1])
    begun, elements = net.element_features(build_graph(system, net.cutoff)), tuple(system.numbers.unique().tolist())
    student = PainnNet(PainnSettings(elements=elements, width=6), seed=0)
    EmbeddingMatching(net).attach(student, seed=0)
    span = torch.stack([begun[system.numbers == z][0] for z in elements])
    embedding = student.embedding.detach().to(span)
    torch.testing.assert_close(span @ torch.linalg.pinv(span) @ embedding, embedding, rtol=0, atol=1e-6)
