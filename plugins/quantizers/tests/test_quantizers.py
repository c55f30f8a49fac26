"""What every quantizer promises, whatever it does inside."""

import math

import pytest
import torch

from flexframe.models.profile import fake_tensors
from flexframe.rng import Rng
from flexframe_quantizers import (
    BSQConfig,
    FSQConfig,
    GumbelConfig,
    IBQConfig,
    KLConfig,
    LFQConfig,
    ProductVQConfig,
    ResidualFSQConfig,
    ResidualVQConfig,
    SimVQConfig,
    SoftVQConfig,
    UnquantizedConfig,
    VQConfig,
)
from flexframe_registry import ConfigError, LatentSpec, Spec, catalogue

LENGTH, FEATURES = 8, 16
TINY = {
    config.type: config
    for config in (
        FSQConfig.sized("tiny"), VQConfig.sized("tiny"), LFQConfig.sized("tiny"), BSQConfig.sized("tiny"),
        SimVQConfig.sized("tiny"), ResidualVQConfig.sized("tiny"), ResidualFSQConfig.sized("tiny"),
        KLConfig.sized("tiny"), UnquantizedConfig.sized("tiny"), ProductVQConfig.sized("tiny"),
        IBQConfig.sized("tiny"), SoftVQConfig.sized("tiny"), GumbelConfig.sized("tiny"),
    )
}  # fmt: skip
VARIANTS = TINY | {
    "vq ema": VQConfig.sized("tiny", ema=True, dead_code_threshold=0.5),
    "vq ema euclidean": VQConfig.sized("tiny", ema=True, l2_norm=False),
    "vq euclidean": VQConfig.sized("tiny", l2_norm=False),
    "vq rotation": VQConfig.sized("tiny", rotation_trick=True),
    "vq by level": VQConfig.sized("tiny", by_level=True),
    "product-vq by level": ProductVQConfig.sized("tiny", by_level=True),
    "vq clustering": VQConfig.sized("tiny", clustering=True),
    "product-vq grouped": ProductVQConfig.sized("tiny", shared=True, rotation_trick=True),
    "product-vq ema": ProductVQConfig.sized("tiny", ema=True, codebooks=4),
    "product-vq grouped ema": ProductVQConfig.sized("tiny", ema=True, shared=True, l2_norm=False),
    "product-vq clustering": ProductVQConfig.sized("tiny", clustering=True, l2_norm=False),
    "softvq euclidean": SoftVQConfig.sized("tiny", l2_norm=False),
    "gumbel soft": GumbelConfig.sized("tiny", hard=False, anneal_steps=9),
    "simvq straight": SimVQConfig.sized("tiny", rotation_trick=False),
    "residual-vq learned": ResidualVQConfig.sized("tiny", ema=False),
    "fsq noisy": FSQConfig(drop_quant_p=0.5, corrupt_tokens_p=0.9, apply_corrupt_tokens_p=1),
    "lfq of three": LFQConfig.sized("tiny", codebook_size=8, codebooks=3),
    "lfq pooled": LFQConfig.sized("tiny", codebook_size=8, codebooks=2, pooled=True),
    "bsq of two": BSQConfig.sized("tiny", codebook_size=16, codebooks=2),
    "kl fixed": KLConfig(dim=4, fixed_logvar=0.0),
    "kl sampled": KLConfig(dim=4, sample=True),
    "none projected": UnquantizedConfig(dim=4),
}
EVERY = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


def build(config, features=FEATURES):
    torch.manual_seed(0)
    spec = Spec(LatentSpec(3, 8, 8), features, config.tokens(LENGTH, features))
    quantizer = catalogue().build(config, spec)
    for name, parameter in quantizer.named_parameters():  # FSQ's zero head would make every test of it trivial
        if "project" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return quantizer


def features(batch=4, slots=LENGTH, seed=1):
    return torch.randn(batch, slots, FEATURES, generator=torch.Generator().manual_seed(seed))


def rng(batch=4, step=0):
    return Rng(3, torch.arange(batch), step)


def present(batch=4, slots=LENGTH):
    return torch.arange(slots) < torch.tensor([slots, slots // 2, 1, 3])[:batch, None]


def test_all_of_them_are_tested():
    own = {each.name for each in catalogue() if each.target.startswith("flexframe_quantizers.")}
    assert set(TINY) == own


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_shapes_are_those_of_the_spec(config, training):
    quantizer = build(config).train(training)
    spec = quantizer.spec.tokens
    out = quantizer(features(), present(), rng=rng())
    width = spec.dim if spec.codebook_size is None else spec.codebooks
    assert out.values.shape == (4, LENGTH, spec.dim)
    assert out.codes.shape == (4, LENGTH, width)
    if spec.codebook_size is not None:
        assert out.codes.dtype == torch.int64
        assert 0 <= out.codes.min() <= out.codes.max() < spec.codebook_size
    scalars = {name for name, loss in out.losses.items() if loss.ndim == 0}
    assert scalars <= {"codebook_entropy"}
    assert all(loss.shape == (4,) for name, loss in out.losses.items() if name not in scalars)


@EVERY
def test_in_evaluation_values_are_exactly_the_lookup_of_codes(config):
    quantizer = build(config).eval()
    out = quantizer(features(), present(), rng=rng())
    assert torch.equal(out.values, quantizer.lookup(out.codes))


@EVERY
def test_evaluation_leaves_state_and_global_randomness_alone(config):
    quantizer = build(config).eval()
    before, state = {k: v.clone() for k, v in quantizer.state_dict().items()}, torch.get_rng_state()
    first = quantizer(features(), present(), rng=rng())
    second = quantizer(features(), present(), rng=rng())
    assert torch.equal(first.values, second.values)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in quantizer.state_dict().items())


@EVERY
def test_a_row_depends_on_no_other_row_and_a_token_on_no_other_slot(config):
    quantizer = build(config).eval()
    values, keep = features(), present()
    together = quantizer(values, keep, rng=rng())
    for row in range(4):
        alone = quantizer(values[row : row + 1], keep[row : row + 1], rng=rng().rows(torch.tensor([row])))
        torch.testing.assert_close(alone.values, together.values[row : row + 1], rtol=0, atol=1e-5)
        if not alone.codes.is_floating_point():
            assert torch.equal(alone.codes, together.codes[row : row + 1])
    other = values.clone()
    other[:, 3] = 9.0
    changed = quantizer(other, keep, rng=rng())
    rest = [slot for slot in range(LENGTH) if slot != 3]
    torch.testing.assert_close(changed.values[:, rest], together.values[:, rest], rtol=0, atol=1e-5)


def trained(config, values, keep):
    """Losses of a training step, its gradients, and the state after it; values of absent tokens lead nowhere."""
    quantizer = build(config).train()
    out = quantizer(values.clone().requires_grad_(), keep, rng=rng())
    total = torch.where(keep[..., None], out.values, 0).square().sum() + sum(loss.sum() for loss in out.losses.values())
    total.backward()
    grads = {name: p.grad for name, p in quantizer.named_parameters()}
    return dict(out.losses), grads, quantizer.state_dict()


@EVERY
def test_absent_slots_change_no_loss_no_gradient_and_no_statistic(config):
    values, keep = features(), present()
    garbage = torch.where(keep[..., None], values, 1e3 * features(seed=7))
    for one, two in zip(trained(config, values, keep), trained(config, garbage, keep), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6, msg=name)


@EVERY
def test_slots_that_are_cut_off_count_as_slots_that_are_absent(config):
    values, keep = features(), torch.arange(LENGTH).expand(4, -1) < 3
    if config.type == "vq" and config.ema and config.dead_code_threshold:
        pytest.skip("revival draws from the global state, which differs after other shapes")
    long, short = trained(config, values, keep), trained(config, values[:, :3], keep[:, :3])
    for one, two in zip(long, short, strict=True):
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5, msg=name)


@EVERY
def test_gradients_reach_the_features_and_every_parameter(config):
    quantizer, values = build(config).train(), features().requires_grad_()
    out = quantizer(values, torch.ones(4, LENGTH, dtype=torch.bool), rng=rng())
    (out.values * torch.randn(out.values.shape)).sum().backward(retain_graph=True)
    assert values.grad is not None
    assert values.grad.abs().sum() > 0
    if out.losses:
        sum(loss.sum() for loss in out.losses.values()).backward()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@EVERY
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_losses_and_gradients_are_finite(config, scale):
    torch.manual_seed(0)
    spec = Spec(LatentSpec(3, 8, 8), FEATURES, config.tokens(LENGTH, FEATURES))
    quantizer = catalogue().build(config, spec).train()  # as initialised: with zero features, zero everywhere
    values = (features() * scale).requires_grad_()
    out = quantizer(values, present(), rng=rng())
    (out.values.sum() + sum(loss.sum() for loss in out.losses.values())).backward()
    assert all(loss.isfinite().all() for loss in out.losses.values())
    assert out.values.isfinite().all()
    assert values.grad.isfinite().all()


@EVERY
def test_the_state_dict_makes_another_quantizer_the_same(config):
    first = build(config).train()
    first(features(), present(), rng=rng())
    torch.manual_seed(5)
    second = catalogue().build(config, first.spec)
    second.load_state_dict(first.state_dict())
    one, two = (q.eval()(features(seed=2), present(), rng=rng()) for q in (first, second))
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.values, two.values)


@EVERY
def test_autocast_changes_the_projection_only(config):
    quantizer = build(config).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(features(), present(), rng=rng())
        values = quantizer.eval()(features(), present(), rng=rng()).values
    assert out.values.dtype == values.dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in out.losses.values())
    if "ema" in type(config).model_fields:
        fields = torch.cat([buffer.flatten().float() for buffer in quantizer.buffers()] or [torch.zeros(1)])
        assert fields.isfinite().all()


@EVERY
def test_a_training_step_never_waits_for_the_device(config):
    if getattr(config, "dead_code_threshold", 0):
        pytest.skip("revival counts the dead entries, as its setting says")
    quantizer, mode = build(config).train(), fake_tensors()
    fake = {
        name: mode.from_tensor(tensor.detach())
        for name, tensor in [*quantizer.named_parameters(), *quantizer.named_buffers()]
    }
    rows = Rng(3, mode.from_tensor(torch.arange(4)))
    with mode:  # holds shapes and no numbers: to read one is an error
        given = mode.from_tensor(features()), mode.from_tensor(present())
        torch.func.functional_call(quantizer, fake, given, {"rng": rows})


@EVERY
def test_bits_of_a_token_follow_from_the_config(config):
    spec = config.tokens(LENGTH, FEATURES)
    codebooks = getattr(config, "num_quantizers", getattr(config, "codebooks", 1))
    assert (spec.length, spec.codebooks) == (LENGTH, codebooks)
    if spec.codebook_size is not None:
        assert math.log2(spec.codebook_size) > 1


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        (FSQConfig, {"levels": (8, 1)}, "3 or more"),
        (FSQConfig, {"levels": (8, 2)}, "'lfq' and 'bsq'"),
        (FSQConfig, {"levels": ()}, "at least one"),
        (FSQConfig, {"levels": (4096, 4096, 3)}, "2**24"),
        (FSQConfig, {"min_corrupt_tokens_p": 0.5}, "above corrupt_tokens_p"),
        (FSQConfig, {"drop_quant_p": 1.5}, "less than or equal to 1"),
        (ResidualFSQConfig, {"levels": (1,)}, "2 or more"),
        (LFQConfig, {"codebook_size": 1000}, "power of two"),
        (BSQConfig, {"codebook_size": 2**30}, "power of two"),
        (BSQConfig, {"codebook_size": 2}, "4 or more"),
        (LFQConfig, {"codebooks": 0}, "greater than or equal to 1"),
        (VQConfig, {"dim": 1}, "+1 or -1"),
        (VQConfig, {"dead_code_threshold": 1}, "ema: true"),
        (ResidualVQConfig, {"dead_code_threshold": 1, "ema": False}, "ema: true"),
        (VQConfig, {"codebook_size": 1}, "greater than or equal to 2"),
        (VQConfig, {"clustering": True, "ema": True}, "leave out one"),
        (ProductVQConfig, {"dim": 20}, "20 does not divide into 8"),
        (ProductVQConfig, {"dim": 8, "codebooks": 8}, "+1 or -1"),
        (SoftVQConfig, {"dim": 1}, "+1 or -1"),
        (SoftVQConfig, {"tau": 0}, "greater than 0"),
        (GumbelConfig, {"temperature": 0}, "greater than 0"),
        (IBQConfig, {"codebook_size": 1}, "greater than or equal to 2"),
        (KLConfig, {"dim": 0}, "greater than or equal to 1"),
    ],
)
def test_a_config_without_sense_is_refused_in_one_sentence(config, fields, words):
    with pytest.raises(ConfigError) as caught:
        config.read(fields)
    assert len(caught.value.problems) == 1
    assert words in str(caught.value)


@EVERY
def test_evaluation_gives_looked_up_values_with_a_gradient(config):
    quantizer, given = build(config).eval(), features().requires_grad_()
    keep = torch.ones(4, LENGTH, dtype=torch.bool)
    quantized = quantizer(given, keep, rng=Rng(0, torch.arange(4)))
    assert torch.equal(quantized.values, quantizer.lookup(quantized.codes))
    (gradient,) = torch.autograd.grad(quantized.values.square().sum(), given)
    assert gradient.isfinite().all()
    assert gradient.any()


LEARNING = {name: TINY.get(name) or VARIANTS[name] for name in (
    "product-vq", "product-vq grouped", "product-vq clustering", "ibq", "softvq", "gumbel", "gumbel soft",
    "vq clustering", "lfq of three", "lfq pooled", "bsq of two",
)}  # fmt: skip


@pytest.mark.parametrize("config", LEARNING.values(), ids=LEARNING.keys())
def test_it_learns_with_a_linear_decoder_and_its_codes_are_used(config):
    torch.manual_seed(0)
    quantizer = catalogue().build(config, Spec(LatentSpec(3, 8, 8), FEATURES, config.tokens(LENGTH, FEATURES))).train()
    decoder, draws = torch.nn.Linear(quantizer.spec.tokens.dim, FEATURES), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([*quantizer.parameters(), *decoder.parameters()], 2e-2)
    basis = torch.randn(3, FEATURES, generator=draws)
    keep = torch.ones(16, LENGTH, dtype=torch.bool)
    for step in range(60):
        values = torch.randn(16, LENGTH, 3, generator=draws) @ basis
        out = quantizer(values, keep, rng=rng(16, step))
        loss = (decoder(out.values) - values).square().mean() + sum(each.mean() for each in out.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values = torch.randn(16, LENGTH, 3, generator=draws) @ basis
    out = quantizer.eval()(values, keep, rng=rng(16))
    error = float((decoder(out.values).detach() - values).square().mean() / values.square().mean())
    assert error < 0.5
    books = () if out.codes.is_floating_point() else out.codes.flatten(0, 1).unbind(-1)
    assert all(len(book.unique()) > min(6, quantizer.spec.tokens.codebook_size // 2) for book in books)
