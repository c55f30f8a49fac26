"""Sign quantizers against the library's, whose dense entropies are the same numbers."""

import pytest
import torch
from vector_quantize_pytorch import LFQ

from flexframe.rng import Rng
from flexframe_quantizers import BSQConfig, LFQConfig
from flexframe_quantizers.binary import codebook_entropy, joint, token_entropy
from flexframe_registry import LatentSpec, Spec, catalogue


def build(config):
    torch.manual_seed(0)
    quantizer = catalogue().build(config, Spec(LatentSpec(3, 8, 8), 16, config.tokens(8, 16)))
    torch.nn.init.normal_(quantizer.project.weight, std=0.1)
    return quantizer.train()


@pytest.mark.parametrize(("kind", "codebooks"), [(LFQConfig, 1), (LFQConfig, 3), (BSQConfig, 1)])
def test_values_ids_and_entropies_are_the_librarys(kind, codebooks):
    config = kind(codebook_size=16, codebooks=codebooks, commitment=0.5, entropy=1, diversity=2, inv_temperature=1)
    quantizer, values = build(config), torch.randn(3, 8, 16)
    dim, spherical = 4 * codebooks, kind is BSQConfig
    theirs = LFQ(
        dim=dim, codebook_size=16, num_codebooks=codebooks, spherical=spherical, commitment_loss_weight=1.0,
        keep_num_codebooks_dim=True,
    ).train()  # fmt: skip
    theirs.project_in = theirs.project_out = torch.nn.Identity()  # its own maps, which ours are in place of
    keep = torch.arange(8).expand(3, -1) < 5
    out = quantizer(values, keep, rng=Rng(0, torch.arange(3)))
    first, lookup = out.codes[:, :5], quantizer.lookup(out.codes[:, :5])
    # cut rather than masked: under its mask the library forgets to average over tokens
    ret, parts = theirs(quantizer.project(values[:, :5]), inv_temperature=1.0, return_loss_breakdown=True)
    assert torch.equal(first, ret.indices.long())
    torch.testing.assert_close(out.values[:, :5], ret.quantized, rtol=0, atol=1e-6)
    torch.testing.assert_close(lookup, theirs.indices_to_codes(ret.indices), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.losses["token_entropy"].mean(), parts.per_sample_entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.losses["codebook_entropy"], -2 * parts.batch_entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.losses["commitment"].mean(), 0.5 * parts.commitment)


def test_the_joint_of_independent_bits_sums_to_one_and_puts_the_first_bit_first():
    chance = torch.tensor([[0.9, 0.2, 0.5]])
    table = joint(chance)
    assert table.shape == (1, 8)
    torch.testing.assert_close(table.sum(), torch.tensor(1.0))
    torch.testing.assert_close(table[0, 4], torch.tensor(0.9 * 0.8 * 0.5))


def test_entropies_of_certain_and_of_undecided_tokens():
    certain, undecided = torch.full((1, 2, 6), 80.0), torch.zeros(1, 2, 6)
    keep = torch.ones(1, 2, dtype=torch.bool)
    assert float(token_entropy(certain).max()) < 1e-6
    torch.testing.assert_close(token_entropy(undecided), torch.full((1, 2), 6 * 0.6931472))
    opposite = torch.stack([certain[0, 0], -certain[0, 0]])[None]
    for logits, nats in ((certain, 0.0), (undecided, 6 * 0.6931472), (opposite, 0.6931472)):
        torch.testing.assert_close(codebook_entropy(logits[:, :, None], keep), torch.tensor([nats]), rtol=0, atol=1e-5)


def test_eighteen_bits_cost_little():
    quantizer = build(LFQConfig(codebook_size=2**18, inv_temperature=1))
    out = quantizer(torch.randn(2, 8, 16), torch.ones(2, 8, dtype=torch.bool), rng=Rng(0, torch.arange(2)))
    assert out.losses["codebook_entropy"].isfinite()


def test_weights_of_zero_leave_no_loss():
    quantizer = build(LFQConfig(codebook_size=16, entropy=0, commitment=0))
    out = quantizer(torch.randn(2, 8, 16), torch.ones(2, 8, dtype=torch.bool), rng=Rng(0, torch.arange(2)))
    assert not out.losses


def test_bsq_tokens_lie_on_the_unit_sphere():
    quantizer = build(BSQConfig(codebook_size=256))
    values = quantizer.lookup(torch.arange(256)[None, :, None])
    torch.testing.assert_close(values.norm(dim=-1), torch.ones(1, 256))


def naive(z, codebooks, inv_temperature):
    """Entropies over codes written out, of each token and code, and of each codebook's mean distribution."""
    groups = z.unflatten(-1, (codebooks, -1))
    bits = groups.shape[-1]
    codes = torch.tensor([[1 if code >> bits - 1 - bit & 1 else -1 for bit in range(bits)] for code in range(2**bits)])
    size = 1 / z.shape[-1] ** 0.5
    distance = (groups[..., None, :] - size * codes).square().sum(-1)
    chance = (-inv_temperature * distance).softmax(-1)
    return torch.special.entr(chance).sum(-1), torch.special.entr(chance.mean((0, 1))).sum(-1), distance.argmin(-1)


def test_bsq_groups_the_bits_of_one_sphere_and_adds_up_their_entropies():
    quantizer = build(BSQConfig(codebook_size=8, codebooks=3, entropy=1, inv_temperature=3))
    values, keep = torch.randn(3, 8, 16), torch.ones(3, 8, dtype=torch.bool)
    out = quantizer(values, keep, rng=Rng(0, torch.arange(3)))
    z = torch.nn.functional.normalize(quantizer.project(values), dim=-1)
    of_codes, of_books, nearest = naive(z, 3, inv_temperature=3)
    assert torch.equal(out.codes, nearest)
    torch.testing.assert_close(out.values.norm(dim=-1), torch.ones(3, 8))
    torch.testing.assert_close(out.losses["token_entropy"], of_codes.sum(-1).mean(-1))
    torch.testing.assert_close(out.losses["codebook_entropy"], -of_books.sum())


def test_the_library_gives_each_code_of_a_token_a_sphere_of_its_own():
    theirs = LFQ(dim=9, codebook_size=8, num_codebooks=3, spherical=True)
    theirs.project_in = theirs.project_out = torch.nn.Identity()
    values = theirs(torch.randn(2, 8, 9)).quantized
    torch.testing.assert_close(values.norm(dim=-1), torch.full((2, 8), 3**0.5))  # ours: 1, as in the paper


def test_pooled_codes_of_two_codebooks_are_spread_together():
    logits = torch.full((1, 4, 2, 3), 80.0)
    logits[:, :, 1] = -80  # each codebook is certain, and they differ
    keep = torch.ones(1, 4, dtype=torch.bool)
    apart, pooled = (
        build(LFQConfig(codebook_size=8, codebooks=2, pooled=pooled)).entropies(logits, keep)[1]
        for pooled in (False, True)
    )
    torch.testing.assert_close(torch.stack([apart, pooled]), torch.tensor([0, 0.6931472]), rtol=0, atol=1e-5)
