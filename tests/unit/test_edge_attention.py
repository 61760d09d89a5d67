"""Compiled triangular attention against the einsum form, forward and backward, and its lists of triangles against loops."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from cpu_program import attention_on_cpu
from mdistill.graph import build_graph, concatenate
from mdistill.kernels import cuda, edge_attention, edge_attention_gpu
from mdistill.kernels.build import NoKernel, compiler
from mdistill.kernels.edge_attention import Triples, common_neighbours
from mdistill.nets import edge_transformer
from mdistill.nets.edge_transformer import _Attend, attend, attend_plain, tokens_of
from systems import SYSTEMS, random_box

compiled = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
CASES = [((1,), 16), ((2, 5), 16), ((17,), 16), ((3, 1, 8), 5)]


def einsum_form(sides: Tensor, bias: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """o_ij = Σ_l softmax_l(q_il·k_lj/√d + g_il + g_lj) v_il ∘ w_lj, one complete graph at a time."""
    parts, start = [], 0
    for n in sizes:
        q, k, v, w = sides[start : start + n * n].view(n, n, 4, *sides.shape[2:]).unbind(2)
        g = bias[start : start + n * n].view(n, n)
        score = torch.einsum("ilhd,ljhd->ijlh", q, k) / sqrt(sides.shape[3]) + (g.unsqueeze(1) + g.T.unsqueeze(0)).unsqueeze(3)
        out = torch.einsum("ijlh,ilhd,ljhd->ijhd", score.softmax(2), v, w)
        parts.append(out.reshape(n * n, *sides.shape[2:]))
        start += n * n
    return torch.cat(parts)


def case(sizes: tuple[int, ...], width: int, *, heads: int = 3, listed: bool = False):
    random = torch.Generator().manual_seed(sum(sizes))
    tokens = sum(n * n for n in sizes)
    sides = torch.randn((tokens, 4, heads, width), generator=random, dtype=torch.float64)
    bias = -5.0 * torch.rand(tokens, generator=random, dtype=torch.float64)
    triples = Triples(tokens=tokens, sizes=np.array(sizes))
    if listed:
        token, pairs = triples.listed()
        order = np.argsort(token, kind="stable")
        first = np.concatenate([[0], np.bincount(token, minlength=tokens).cumsum()])
        triples = Triples(tokens=tokens, first=first, pairs=np.ascontiguousarray(pairs[order], dtype=np.int32))
    return sides, bias, torch.randn((tokens, heads, width), generator=random, dtype=torch.float64), triples


@compiled
@pytest.mark.parametrize("listed", [False, True], ids=["complete", "listed"])
@pytest.mark.parametrize(("sizes", "width"), CASES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_kernel_and_its_gradients_are_those_of_the_einsum_form(sizes, width, dtype, allowed, listed) -> None:
    sides, bias, down, triples = case(sizes, width, listed=listed)
    right = [part.clone().requires_grad_() for part in (sides, bias)]
    expected = einsum_form(*right, sizes)
    inputs = [part.to(dtype).requires_grad_() for part in (sides, bias)]
    found = _Attend.apply(*inputs, triples)
    pairs = zip(
        (found, *torch.autograd.grad(found, inputs, down.to(dtype))),
        (expected, *torch.autograd.grad(expected, right, down)),
        strict=True,
    )
    for mine, oracle in pairs:
        assert float((mine.double() - oracle).abs().max()) <= allowed * max(float(oracle.abs().max()), 1.0)


@compiled
@pytest.mark.parametrize("listed", [False, True], ids=["complete", "listed"])
@pytest.mark.parametrize(("sizes", "width"), CASES)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_kernel_of_a_gpu_is_the_einsum_form_here_on_a_cpu(monkeypatch, *, sizes, width, dtype, allowed, listed) -> None:
    real = "float" if dtype == torch.float32 else "double"
    gpu = edge_attention_gpu.GpuAttention(attention_on_cpu(width, real))
    monkeypatch.setattr(edge_transformer, "attention_kernel", lambda sides: gpu)
    test_the_kernel_and_its_gradients_are_those_of_the_einsum_form(sizes, width, dtype, allowed, listed)


@compiled
def test_walks_with_sides_exchanged_are_noticed(monkeypatch) -> None:
    gpu = edge_attention_gpu.GpuAttention(attention_on_cpu(16, "double"))
    sides, bias, down, triples = case((5,), 16)
    held = edge_attention_gpu.walks(triples, "cpu")
    held["first"], held["second"] = held["second"], held["first"]
    right = edge_attention.EdgeAttention(3, 16, "float64")
    found = [kernel.attend_back(triples, (sides, bias), kernel.attend(triples, sides, bias), down)[0] for kernel in (gpu, right)]
    assert not torch.allclose(*found)


def test_the_kernel_of_a_gpu_compiles_without_one() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    for real in ("float", "double"):
        try:
            binary = cuda.compiled(edge_attention_gpu.CUDA, (), {"width": 16, "real": real}, "sm_90")
        except NoKernel as error:
            if "NVRTC is absent" in str(error):
                pytest.skip("no NVRTC here")
            raise
        assert binary


@pytest.mark.parametrize(("sizes", "width"), CASES)
def test_the_plain_form_is_the_einsum_form(sizes, width) -> None:
    sides, bias, _, triples = case(sizes, width)
    assert float((attend_plain(sides, bias, triples) - einsum_form(sides, bias, sizes)).abs().max()) < 1e-12


@compiled
@pytest.mark.planted
def test_the_oracle_notices_triangles_the_wrong_way_round() -> None:
    sides, bias, _, triples = case((5,), 16)
    turned = sides.view(5, 5, 4, 3, 16).transpose(0, 1).reshape(sides.shape)
    assert float((_Attend.apply(turned, bias, triples) - einsum_form(sides, bias, (5,))).abs().max()) > 0.1


@compiled
def test_threads_change_no_bit() -> None:
    sides, bias, down, triples = case((11, 4), 16, heads=5)
    answers = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            inputs = [sides.clone().requires_grad_(), bias.clone().requires_grad_()]
            found = attend(*inputs, triples)
            answers.append([found.detach(), *torch.autograd.grad(found, inputs, down)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))


@compiled
def test_a_gradient_can_be_differentiated_where_queries_depend_on_envelopes() -> None:
    sides, bias, _, triples = case((3, 2), 16, heads=2)
    weights = 0.4 * torch.randn((32, 128), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def twice(form):
        start, envelope = sides[:, 0].clone().requires_grad_(), bias.clone().requires_grad_()
        x = start.flatten(1)
        for _ in range(2):
            x = torch.tanh(form((x @ weights).view(-1, 4, 2, 16), envelope, triples).flatten(1))
        first = torch.autograd.grad(x.square().sum(), (start, envelope), create_graph=True)
        second = torch.autograd.grad(sum((part * part).sum() for part in first), (start, envelope))
        return [*first, *second]

    for mine, oracle in zip(twice(_Attend.apply), twice(attend_plain), strict=True):
        assert float((mine - oracle).abs().max()) <= 1e-10 * float(oracle.abs().max())


@pytest.mark.parametrize("name", ["box", "cell shorter than the cutoff", "slab", "fcc primitive", "isolated atom"])
@pytest.mark.parametrize(("part", "table"), [(2**21, 2**24), (100, 2**24), (100, 0)])
def test_lists_hold_every_triangle_once(name, part, table, monkeypatch) -> None:
    """In one part or in many, tokens found in a table or by bisection."""
    monkeypatch.setattr(edge_attention, "_PART", part)
    monkeypatch.setattr(edge_attention, "_TABLE", table)
    graph = build_graph(SYSTEMS[name](), 5.0)
    atoms = list(range(graph.system.n_atoms))
    tokens = [(int(i), int(j), *map(int, s)) for i, j, s in zip(graph.receiver, graph.sender, graph.shift, strict=True)]
    tokens += [(i, i, 0, 0, 0) for i in atoms]
    rows = np.array(tokens)
    triples = common_neighbours(rows[:, 0], rows[:, 1], rows[:, 2:].astype(float))
    token, pairs = triples.listed()
    found = {(int(e), int(a), int(b)) for e, (a, b) in zip(token, pairs, strict=True)}
    where, expected = {t: k for k, t in enumerate(tokens)}, set()
    for (i, k, *s), (j, m, *u) in ((a, b) for a in tokens for b in tokens if a[1] == b[0]):
        whole = (i, m, *(x + y for x, y in zip(s, u, strict=True)))
        if whole in where:
            expected.add((where[whole], where[i, k, *s], where[j, m, *u]))
    assert found == expected and len(token) == len(found) == triples.count


def test_complete_graphs_are_numbered_row_by_row() -> None:
    """The same tokens and triangles with and without a list."""
    batch = concatenate([random_box(seed, atoms=n, periodic=False) for seed, n in enumerate((3, 4))])
    graph = build_graph(batch, 30.0)
    tokens = tokens_of(graph, 2, 8, 1)
    assert tokens.triples.sizes is not None and tokens.triples.sizes.tolist() == [3, 4, 1, 1]
    expected = [(i, j) for group in ((0, 1, 2), (3, 4, 5, 6), (7,), (8,)) for i in group for j in group]
    assert list(zip(tokens.receiver.tolist(), tokens.sender.tolist(), strict=True)) == expected
    token, pairs = tokens.triples.listed()
    a, b = pairs.T
    assert bool((tokens.receiver[a] == tokens.receiver[token]).all() & (tokens.sender[b] == tokens.sender[token]).all())
    assert bool((tokens.sender[a] == tokens.receiver[b]).all()) and len(token) == 27 + 64 + 2
