"""Codebooks: the reference's numbers, running means, the linear map, and residuals against the library's own."""

import copy
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from vector_quantize_pytorch import ResidualVQ, SimVQ, VectorQuantize

from flexframe.rng import Rng
from flexframe_quantizers import ProductVQConfig, ResidualVQConfig, SimVQConfig, VQConfig, codebooks
from flexframe_registry import LatentSpec, Spec, catalogue


def build(config, features=16):
    torch.manual_seed(0)
    quantizer = catalogue().build(config, Spec(LatentSpec(3, 8, 8), features, config.tokens(8, features)))
    for weight in quantizer.project.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return quantizer


def call(quantizer, values, keep=None):
    keep = torch.ones(values.shape[:2], dtype=torch.bool) if keep is None else keep
    return quantizer(values, keep, rng=Rng(0, torch.arange(len(values))))


def test_entries_start_within_one_over_their_number():
    weight = build(VQConfig()).codebook.embedding.weight.detach()
    assert weight.shape == (4096, 12)
    assert 0.99 / 4096 < float(weight.abs().max()) <= 1 / 4096


def test_losses_are_means_over_present_tokens_of_each_sample():
    quantizer, values = build(VQConfig.sized("tiny")), torch.randn(3, 8, 16)
    keep = torch.arange(8) < torch.tensor([8, 5, 1])[:, None]
    losses = call(quantizer, values, keep).losses
    for row, length in enumerate((8, 5, 1)):
        alone = call(quantizer, values[row : row + 1, :length]).losses
        for name in ("commitment", "codebook"):
            torch.testing.assert_close(losses[name][row], alone[name][0])


def test_gradients_of_the_codebook_come_from_its_loss_alone():
    quantizer = build(VQConfig.sized("tiny")).train()
    out = call(quantizer, torch.randn(2, 8, 16))
    assert torch.autograd.grad(out.values.sum(), quantizer.codebook.embedding.weight, allow_unused=True)[0] is None
    grad = torch.autograd.grad(out.losses["codebook"].sum(), quantizer.codebook.embedding.weight)[0]
    assert set(grad.abs().sum(1).nonzero().flatten().tolist()) == set(out.codes.flatten().tolist())


def test_straight_through_is_the_identity_to_gradients_and_rotation_keeps_the_value():
    config = VQConfig.sized("tiny", l2_norm=False)
    for rotation in (False, True):
        quantizer = build(config.model_copy(update={"rotation_trick": rotation})).train()
        out = call(quantizer, torch.randn(2, 8, 16))
        torch.testing.assert_close(out.values, quantizer.lookup(out.codes), rtol=0, atol=1e-5)
    quantizer, values = build(config).train(), torch.randn(2, 8, 16, requires_grad=True)
    towards = torch.randn(2, 8, 8)
    (call(quantizer, values).values * towards).sum().backward()
    torch.testing.assert_close(values.grad, towards @ quantizer.project.weight)


def test_each_level_of_slots_has_a_projection_of_its_own():
    quantizer, values = build(VQConfig.sized("tiny", by_level=True, l2_norm=False)), torch.randn(2, 8, 16)
    maps = quantizer.project.maps
    projected = torch.stack([maps[i.bit_length()](values[:, i]) for i in range(8)], 1)
    torch.testing.assert_close(quantizer.project(values), projected)
    torch.testing.assert_close(quantizer.project(values[:, :3]), projected[:, :3])
    spec = replace(quantizer.spec, tokens=replace(quantizer.spec.tokens, length=3))
    cut = catalogue().build(quantizer.config, spec)
    cut.load_state_dict(cut.adapt(quantizer.state_dict(), quantizer.spec))
    torch.testing.assert_close(cut.project(values[:, :3]), projected[:, :3])


def test_running_means_are_the_librarys():
    for l2_norm in (False, True):
        quantizer = build(VQConfig.sized("tiny", ema=True, l2_norm=l2_norm, decay=0.8)).train()
        theirs = VectorQuantize(8, 64, decay=0.8, use_cosine_sim=l2_norm).train()
        theirs.load_state_dict(quantizer.codebook.means.state_dict())
        for step in range(3):
            values = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(step))
            keep = torch.arange(8) < torch.tensor([8, 3])[:, None]
            out = call(quantizer, values, keep)
            _, ids, _ = theirs(quantizer.project(values), mask=keep)
            assert torch.equal(ids[keep], out.codes[..., 0][keep])
        for name, tensor in theirs.state_dict().items():
            torch.testing.assert_close(quantizer.codebook.means.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("l2_norm", [False, True])
def test_running_means_start_as_the_librarys_and_a_copy_learns_by_itself(l2_norm):
    torch.manual_seed(3)
    own = codebooks.EmaCodebook(16, 4, l2_norm=l2_norm, commitment=1, decay=0.5, dead_code_threshold=0.5)
    torch.manual_seed(3)
    theirs = VectorQuantize(4, 16, decay=0.5, use_cosine_sim=l2_norm, threshold_ema_dead_code=0.5).train()
    assert own.means.state_dict().keys() == theirs.state_dict().keys()
    z, keep = torch.randn(2, 8, 4), torch.ones(2, 8, dtype=torch.bool)
    for step in range(2):  # the first makes the library's, which the second and the copy have already
        torch.manual_seed(4 + step)
        own.train()(z, keep)
        torch.manual_seed(4 + step)
        theirs(z)
        for name, tensor in theirs.state_dict().items():
            torch.testing.assert_close(own.means.state_dict()[name], tensor, rtol=0, atol=1e-6 if l2_norm else 0)
    average, before = copy.deepcopy(own), own.table().clone()
    average(z + 1, keep)
    assert torch.equal(own.table(), before)
    assert not torch.equal(average.table(), before)
    assert len(list(own.modules())) == 3  # the library's is no part of it


@pytest.mark.parametrize(
    "config",
    [
        VQConfig.sized("tiny", ema=True), VQConfig.sized("tiny"), ProductVQConfig(),
        VQConfig.sized("tiny").model_copy(update={"rotation_trick": True}),
    ],
)  # fmt: skip
def test_the_library_is_loaded_where_it_is_trained_with_alone(config, monkeypatch):
    for name in ("vector_quantize_pytorch", "vector_quantize_pytorch.vector_quantize_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it fails
    quantizer, values = build(config), torch.randn(2, 8, 16)
    call(quantizer.eval(), values)
    quantizer.load_state_dict(quantizer.state_dict())
    if config.ema or config.rotation_trick:
        with pytest.raises(ImportError):
            call(quantizer.train(), values)
    else:
        call(quantizer.train(), values)


def test_running_means_move_towards_the_features_and_only_in_training():
    quantizer, values = build(VQConfig.sized("tiny", ema=True, decay=0.5)), torch.randn(4, 8, 16)
    losses = [call(quantizer.train(), values).losses["commitment"].mean().item() for _ in range(10)]
    assert losses[-1] < 0.3 * losses[0]
    before = quantizer.codebook.means.codebook.clone()
    call(quantizer.eval(), values)
    assert torch.equal(before, quantizer.codebook.means.codebook)
    assert "codebook" not in call(quantizer, values).losses


def test_dead_entries_are_revived_by_present_features_alone():
    quantizer = build(VQConfig.sized("tiny", ema=True, l2_norm=False, decay=0.1, dead_code_threshold=0.5)).train()
    values, keep = torch.randn(4, 8, 16), torch.arange(8).expand(4, -1) < 4
    values[:, 4:] = 1e4
    for _ in range(3):
        call(quantizer, values, keep)
    assert float(quantizer.codebook.means.codebook.abs().max()) < 100


def test_simvq_is_the_librarys_on_whole_batches():
    quantizer = build(SimVQConfig.sized("tiny")).train()
    theirs = SimVQ(8, 64).train()
    theirs.load_state_dict(quantizer.codebook.linear.state_dict())
    values = torch.randn(2, 8, 16)
    out = call(quantizer, values)
    expected, ids, loss = theirs(quantizer.project(values))
    assert torch.equal(out.codes[..., 0], ids)
    torch.testing.assert_close(out.values, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close((out.losses["commitment"] + out.losses["codebook"]).mean(), loss)


def test_residual_vq_is_the_librarys_in_codes_and_values():
    quantizer = build(ResidualVQConfig.sized("tiny", num_quantizers=3)).eval()
    theirs = ResidualVQ(dim=8, num_quantizers=3, codebook_size=64).eval()
    for layer, codebook in zip(theirs.layers, quantizer.codebooks, strict=True):
        layer.load_state_dict(codebook.means.state_dict())
    values = torch.randn(2, 8, 16)
    out = call(quantizer, values)
    expected, ids, _ = theirs(quantizer.project(values))
    assert out.codes.shape == (2, 8, 3)
    assert torch.equal(out.codes, ids)
    torch.testing.assert_close(out.values, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs.get_output_from_indices(out.codes), out.values, rtol=0, atol=1e-6)


def test_residual_losses_add_up_over_codebooks():
    for config, names in ((ResidualVQConfig.sized("tiny"), {"commitment"}),
                          (ResidualVQConfig.sized("tiny", ema=False), {"commitment", "codebook"})):  # fmt: skip
        quantizer, values = build(config).eval(), torch.randn(2, 8, 16)
        losses, z = call(quantizer, values).losses, quantizer.project(values)
        first = quantizer.codebooks[0](z, torch.ones(2, 8, dtype=torch.bool))
        second = quantizer.codebooks[1](z - first.entries, torch.ones(2, 8, dtype=torch.bool))
        assert losses.keys() == names
        for name in names:
            torch.testing.assert_close(losses[name], first.losses[name] + second.losses[name])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("l2_norm", [False, True])
def test_product_vq_is_the_librarys_heads(l2_norm, shared):
    config = ProductVQConfig(codebooks=3, dim=12, codebook_size=32, l2_norm=l2_norm, shared=shared, ema=True)
    quantizer, values = build(config).eval(), torch.randn(2, 8, 16)
    theirs = VectorQuantize(
        12, 32, heads=3, codebook_dim=4, separate_codebook_per_head=not shared, use_cosine_sim=l2_norm
    ).eval()
    tables = torch.stack([codebook.table() for codebook in quantizer.codebooks])
    theirs.codebook = tables[0] if shared else tables
    out = call(quantizer, values)
    expected, ids, _ = theirs(quantizer.project(values))
    assert torch.equal(out.codes, ids)
    torch.testing.assert_close(out.values, expected, rtol=0, atol=1e-6)


def test_each_part_of_a_product_is_a_vq_of_its_own_and_losses_are_their_means():
    config = ProductVQConfig(codebooks=2, dim=8, codebook_size=16, l2_norm=False)
    quantizer, values = build(config).train(), torch.randn(2, 8, 16)
    out, z = call(quantizer, values), quantizer.project(values)
    losses = []
    for part, codebook in enumerate(quantizer.codebooks):
        own = z[..., 4 * part : 4 * part + 4]
        distance = (own[:, :, None] - codebook.embedding.weight).square().sum(-1)
        assert torch.equal(out.codes[..., part], distance.argmin(-1))
        losses.append(distance.min(-1).values.mean(1) / 4)
    torch.testing.assert_close(out.losses["codebook"], torch.stack(losses).mean(0))
    torch.testing.assert_close(out.losses["commitment"], 0.25 * torch.stack(losses).mean(0))


def test_parts_that_share_a_codebook_are_tokens_of_a_vq():
    config = ProductVQConfig(codebooks=2, dim=8, codebook_size=16, shared=True)
    quantizer, values = build(config).train(), torch.randn(2, 8, 16)
    keep = torch.arange(8) < torch.tensor([8, 3])[:, None]
    out = call(quantizer, values, keep)
    single = build(VQConfig(codebook_size=16, dim=4)).train()
    single.project = torch.nn.Identity()
    single.codebook.load_state_dict(quantizer.codebooks[0].state_dict())
    parts = quantizer.project(values).unflatten(-1, (2, 4)).flatten(1, 2)
    expected = call(single, parts, keep.repeat_interleave(2, 1))
    assert torch.equal(out.codes.flatten(1), expected.codes.flatten(1))
    torch.testing.assert_close(dict(out.losses), dict(expected.losses))


@pytest.mark.parametrize("l2_norm", [False, True])
def test_clustering_is_the_published_formula(l2_norm):
    quantizer = build(VQConfig(codebook_size=8, dim=4, l2_norm=l2_norm, clustering=True, decay=0.9)).train()
    table, use = quantizer.codebook.embedding.weight.detach().clone(), torch.zeros(8)
    keep = torch.arange(8) < torch.tensor([8, 3])[:, None]
    for step in range(4):
        values = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(step))
        out = call(quantizer, values, keep)
        z = quantizer.project(values)[keep].detach()
        place, entries = (F.normalize(x, dim=-1) if l2_norm else x for x in (z, table))
        distance = (place[:, None] - entries).square().sum(-1)
        assert torch.equal(out.codes[keep][:, 0], distance.argmin(1))
        use = 0.9 * use + 0.1 * distance.argmin(1).bincount(minlength=8) / len(z)
        for entry in range(8):
            far = math.exp(-float(use[entry]) * 8 * 10 / (1 - 0.9) - 1e-3)
            table[entry] = (1 - far) * table[entry] + far * z[distance[:, entry].argmin()]
        torch.testing.assert_close(quantizer.codebook.table(), table)
    call(quantizer.eval(), values)
    torch.testing.assert_close(quantizer.codebook.table(), table)


class Threads:
    """What a clustered codebook asks of `torch.distributed`, between threads."""

    def __init__(self, size):
        self.size, self.local, self.there = size, threading.local(), threading.Barrier(size)
        self.given = [None] * size

    def get_rank(self):
        return self.local.rank

    def get_world_size(self):
        return self.size

    def all_gather(self, every, mine):
        self.there.wait()
        self.given[self.local.rank] = mine.clone()
        self.there.wait()
        for own, each in zip(every, self.given, strict=True):
            own.copy_(each)

    def all_reduce(self, mine):
        every = [torch.empty_like(mine) for _ in range(self.size)]
        self.all_gather(every, mine)
        mine.copy_(sum(every))


def test_processes_cluster_as_one(monkeypatch):
    books = [build(VQConfig(codebook_size=16, dim=4, clustering=True)).train().codebook for _ in range(3)]
    values = torch.randn(4, 8, 8, 4)
    keep = torch.arange(8) < torch.tensor([1, 8, 3, 2, 8, 5, 4, 1])[:, None]

    def train(book, rows):
        for batch in values:
            book(batch[rows], keep[rows])

    def of_two(rank):
        threads.local.rank = rank
        train(books[rank], slice(rank, None, 2))

    train(books[2], slice(None))
    threads = Threads(2)
    monkeypatch.setattr(codebooks, "distributed", threads)
    monkeypatch.setattr(codebooks, "several_processes", lambda: True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(of_two, range(2)))
    for name, tensor in books[2].state_dict().items():
        torch.testing.assert_close([book.state_dict()[name] for book in books[:2]], [tensor, tensor])


def test_entries_far_from_all_features_are_moved_among_them():
    used = {}
    for clustering in (False, True):
        quantizer = build(VQConfig(codebook_size=64, dim=8, l2_norm=False, clustering=clustering)).train()
        batches = (5 + torch.randn(8, 8, 16, generator=torch.Generator().manual_seed(step)) for step in range(25))
        codes = [call(quantizer, batch).codes for batch in batches]
        used[clustering] = len(codes[-1].unique())
    assert used[False] <= 6 < 12 < used[True], used


def test_weights_go_from_one_way_of_learning_to_the_other():
    plain, clustered = (build(VQConfig.sized("tiny", clustering=clustering)).train() for clustering in (False, True))
    call(clustered, torch.randn(2, 8, 16))
    for source, target in ((clustered, plain), (plain, clustered), (clustered, clustered)):
        target.load_state_dict(target.adapt(source.state_dict(), source.spec))
        torch.testing.assert_close(target.codebook.table(), source.codebook.table())
    fresh = build(VQConfig.sized("tiny", clustering=True)).train()
    fresh.load_state_dict(fresh.adapt(plain.state_dict(), plain.spec))
    call(fresh, torch.randn(2, 8, 16))
    torch.testing.assert_close(fresh.codebook.table(), plain.codebook.table())  # no entry counts as unused yet


@pytest.mark.parametrize("l2_norm", [True, False])
def test_entropies_of_vq_are_those_of_a_softmax_over_squared_distances(l2_norm):
    settings = {"l2_norm": l2_norm, "entropy": 0.5, "entropy_temperature": 0.3, "entropy_floor": 1e-5}
    quantizer, values = build(VQConfig.sized("tiny", **settings)).train(), torch.randn(3, 8, 16)
    torch.nn.init.normal_(quantizer.codebook.embedding.weight)
    keep = torch.arange(8) < torch.tensor([8, 5, 1])[:, None]
    losses = call(quantizer, values, keep).losses
    z, table = quantizer.project(values)[keep], quantizer.codebook.embedding.weight
    if l2_norm:
        z, table = F.normalize(z, dim=-1), F.normalize(table, dim=-1)
    chance = (-torch.cdist(z, table).square() / 0.3).softmax(-1)
    mean, of_token = chance.mean(0), torch.special.entr(chance).sum(-1)
    torch.testing.assert_close(
        losses["token_entropy"], 0.5 * torch.stack([r.mean() for r in of_token.split([8, 5, 1])])
    )
    torch.testing.assert_close(losses["codebook_entropy"], 0.5 * (mean * (mean + 1e-5).log()).sum())
    assert "token_entropy" not in call(quantizer.eval(), values, keep).losses


@pytest.mark.parametrize("kind", [VQConfig, ResidualVQConfig])
def test_a_revival_that_comes_too_late_is_no_remedy(kind):
    early = "quantizer.decay=0.95 quantizer.dead_code_threshold=0.05, or quantizer=fsq"
    assert kind.sized("tiny", ema=True).remedy() == early
    assert kind.sized("tiny", ema=True, dead_code_threshold=0.02).remedy() == early  # not before step 390
    done = kind.sized("tiny", ema=True, decay=0.95, dead_code_threshold=0.05).remedy()
    assert done == "a lower run.optimizer.lr, or quantizer=fsq"
