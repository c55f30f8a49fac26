"""What is known of FlexTok without any file: sizes, causality, densities, positions, the sampler."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from flexframe.importing import Settings
from flexframe.models.codec import CodecModel
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.ranges import Rescale
from flexframe.rng import Rng
from flexframe.store.places import locate
from flexframe.testing.checks import encoder as encoder_checks
from flexframe.testing.checks import redraw_zeros
from flexframe.tokens import Batch, Tokens, prefix
from flexframe_flextok import FlowDecoderConfig, FlowSampling
from flexframe_flextok.blocks import LayerNorm, PatchEmbed, sincos
from flexframe_flextok.decoder import FlowDecoder, TimeEmbed, log_shares
from flexframe_flextok.flow import Guidance, draw_times, integrate, mode_times
from flexframe_flextok.reading import read_flextok
from flexframe_registry import (
    CodecModelConfig,
    ConfigError,
    LatentSpec,
    Spec,
    TokenizerConfig,
    TokenSpec,
    cards,
    catalogue,
)

MIDDLE = 32036  # levels 8 8 8 5 5 5: (4, 4, 4, 2, 2, 2), and 4 + 4*8 + 4*64 + 2*512 + 2*2560 + 2*12800


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


# --- the published sizes -----------------------------------------------------------------------------------------


def on_meta(name, codec=None):
    """A card's model without data."""
    raw = cards().get(f"flextok/{name}").model.model_dump(mode="json")
    config = TokenizerConfig.read(raw | ({"codec": codec} if codec else {}))
    with torch.device("meta"):
        return Tokenizer(config)


LATENTS = {"type": "identity", "channels": 16, "downsample": 8, "range": None}
SIZES = {
    "d12-d12": (85_181_184, 4_614, 172_251_712),
    "d18-d18": (287_024_256, 6_918, 578_292_544),
    "d18-d28": (287_024_256, 6_918, 2_169_276_992),
}
TRUNKS = {
    "d12-d12": (84_934_656, 84_934_656, 86_226_432),
    "d18-d18": (286_654_464, 286_654_464, 289_559_808),
    "d18-d28": (286_654_464, 1_078_884_352, 1_086_012_928),
}
TOTALS = {"d12-d12": 341_651_737, "d18-d18": 949_734_553, "d18-d28": 2_540_882_841}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_of_the_published_sizes(name):
    model = on_meta(name, LATENTS)
    assert (count(model.encoder), count(model.quantizer), count(model.decoder)) == SIZES[name]
    assert count(model.masker) == 0


@pytest.mark.parametrize("name", TRUNKS)
def test_parameters_of_the_published_trunks(name):
    model = on_meta(name, LATENTS)
    encoder, decoder = model.encoder, model.decoder
    modulation = count(decoder.head.modulation, *(block.modulation for block in decoder.blocks))
    trunk = count(*(part for block in decoder.blocks for part in (block.attn, block.mlp)))
    assert (count(encoder.blocks), trunk, modulation) == TRUNKS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", TOTALS)
def test_published_totals_are_ours_and_two_stored_position_tables(name):
    model = on_meta(name)
    assert count(model.codec) == 83_821_011
    tables = 256 * model.encoder.config.width + 256 * model.decoder.config.width
    assert count(model) + tables == TOTALS[name]


# of c channels: as Stable Diffusion's of 4, and 5 c^2 + 13829 c more or less in the four layers around the latents
VAES = {"vae-c4": (4, 83_653_863), "vae-c8": (8, 83_709_419), "vae-c16": (16, 83_821_011)}


@pytest.mark.slow
@pytest.mark.parametrize("name", VAES)
def test_parameters_of_the_published_vaes(name):
    channels, total = VAES[name]
    with torch.device("meta"):
        model = CodecModel(cards().get(f"flextok/{name}").described)
    assert count(model) == total
    assert len(model.state_dict()) == 248
    assert model.config.latents == LatentSpec(channels, 32, 32, None)


def published_shapes(width, depth, hidden):
    """Names and shapes of the tensors of a published checkpoint of two equal sides, but the VAE's."""
    encoder, decoder, side = "encoder.module_dict", "decoder.module_dict", 16
    shapes = {
        f"{encoder}.enc_patch_emb.patch_proj.weight": (width, 64),
        f"{encoder}.enc_patch_emb.patch_proj.bias": (width,),
        f"{encoder}.enc_posemb_module.posembs": (1, width, side, side),
        f"{encoder}.enc_register_module.registers": (256, width),
        f"{encoder}.enc_to_latents.proj.weight": (6, width),
        f"{encoder}.enc_to_latents.proj.bias": (6,),
        f"{decoder}.dec_from_latents.proj.weight": (width, 6),
        f"{decoder}.dec_from_latents.proj.bias": (width,),
        f"{decoder}.dec_registers_posemb_module.posembs": (1, 1, width, 256),
        f"{decoder}.dec_nested_dropout.dropout_mask_token": (width,),
        f"{decoder}.dec_latent_dropout.nullcond": (width,),
        f"{decoder}.dec_noise_patch_emb.patch_proj.weight": (width, 64),
        f"{decoder}.dec_noise_patch_emb.patch_proj.bias": (width,),
        f"{decoder}.dec_patches_posemb_module.posembs": (1, width, side, side),
        f"{decoder}.dec_time_embedder.mlp.0.weight": (width, 256),
        f"{decoder}.dec_time_embedder.mlp.0.bias": (width,),
        f"{decoder}.dec_time_embedder.mlp.2.weight": (width, width),
        f"{decoder}.dec_time_embedder.mlp.2.bias": (width,),
        f"{decoder}.dec_to_patches.adaLN_modulation.1.weight": (2 * width, width),
        f"{decoder}.dec_to_patches.adaLN_modulation.1.bias": (2 * width,),
        f"{decoder}.dec_to_patches.proj.weight": (64, width),
        f"{decoder}.dec_to_patches.proj.bias": (64,),
    }
    for i in range(depth):
        for trunk in (f"{encoder}.enc_transformer.blocks.{i}", f"{decoder}.dec_transformer.blocks.{i}"):
            shapes |= {f"{trunk}.attn.{name}.weight": (width, width) for name in ("wq", "wk", "wv", "proj")}
            shapes |= {f"{trunk}.mlp.{name}.weight": (hidden, width) for name in ("fc1", "fc3")}
            shapes[f"{trunk}.mlp.fc2.weight"] = (width, hidden)
        shapes[f"{trunk}.adaLN_modulation.1.weight"] = (12 * width, width)
        shapes[f"{trunk}.adaLN_modulation.1.bias"] = (12 * width,)
    return shapes


MODULES = {
    "encoder": {
        "patches": "enc_patch_emb", "places": "enc_posemb_module", "learned": "enc_register_module",
        "trunk": "enc_transformer", "head": "enc_to_latents",
    },
    "decoder": {
        "project": "dec_from_latents", "order": "dec_registers_posemb_module", "shorten": "dec_nested_dropout",
        "null": "dec_latent_dropout", "patches": "dec_noise_patch_emb", "places": "dec_patches_posemb_module",
        "clock": "dec_time_embedder", "trunk": "dec_transformer", "head": "dec_to_patches",
    },
}  # fmt: skip
"""Modules of the tests' own configs, and their published names."""


@pytest.mark.parametrize(
    ("name", "width", "depth", "hidden"), [("d12-d12", 768, 12, 2048), ("d18-d18", 1152, 18, 3072)]
)
def test_names_and_shapes_of_the_published_tensors(maker, name, width, depth, hidden):
    sizes = {"width": (width, width), "depth": (depth, depth), "head_dim": 64, "levels": (8, 8, 8, 5, 5, 5)}
    shape = maker.Shape(**sizes, length=256, grid=(16, 16), channels=16, draw="pow2", max_timestep=1000.0)
    config = maker.config_of(shape)
    for side, names in MODULES.items():
        modules = config[side]["module_dict"]
        config[side]["module_dict"] = {names.get(key, key): module for key, module in modules.items()}
    reading = read_flextok(Settings(config))
    expected = published_shapes(width, depth, hidden)
    assert {*reading.tensors.values(), *reading.tables} == expected.keys()
    ours = {key: tuple(value.shape) for key, value in on_meta(name, LATENTS).state_dict().items()}
    assert ours.keys() == reading.tensors.keys()
    ours["decoder.positions"] = (1, 1, width, 256)  # the file has it the other way round
    assert {theirs: ours[key] for key, theirs in reading.tensors.items()} == {
        theirs: expected[theirs] for theirs in reading.tensors.values()
    }


PUBLISHED = {
    "d12-d12": "flextok_d12_d12_in1k",
    "d18-d18": "flextok_d18_d18_in1k",
    "d18-d28": "flextok_d18_d28_in1k",
    "d18-d28-dfn": "flextok_d18_d28_dfn",
    "vae-c4": "flextok_vae_c4",
    "vae-c8": "flextok_vae_c8",
    "vae-c16": "flextok_vae_c16",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_has_a_card_under_its_name_on_the_hub(name):
    place = locate(f"EPFL-VILAB/{PUBLISHED[name]}")
    assert place.card is not None
    assert place.id == f"card:flextok/{name}"
    file = place.card.file
    assert "unverified" in file.summary
    assert "non-commercial" in file.licence
    assert file.preprocessing.resize == "torchvision-bilinear"
    assert not file.verified
    assert all("origin" in metric for metric in file.metrics.values())
    if "encoder" in file.model:
        scale = 15.0 if name == "d12-d12" else 7.5
        assert file.sampling == {"steps": 25, "guidance": scale, "apg": True}
        assert place.card.model.length == 256
        assert place.card.model.spec.tokens.codebook_size == 64_000


def test_cards_resolve():
    names = [name for name in cards().names() if name.startswith("flextok/")]
    assert {"flextok/digits-tiny", *(f"flextok/{name}" for name in PUBLISHED)} <= set(names)
    for name in names:
        card = cards().get(name)
        if "encoder" not in card.file.model:
            assert isinstance(card.described, CodecModelConfig)
            continue
        assert TokenizerConfig.read(card.model.model_dump(mode="json")) == card.model
        settings = card.model.decoder.sampling.read(card.file.sampling)
        assert card.model.decoder.type != "flow" or settings.steps >= 1
        assert card.model.budgets[-1] == card.model.length
        if card.file.run is not None:
            assert card.run.steps >= 1


# --- the encoder -------------------------------------------------------------------------------------------------


def tokenizer(redrawn=True, **model):
    torch.manual_seed(0)
    parts = {"encoder": "registers", "quantizer": "fsq", "masker": "pow2", "decoder": "flow", **model}
    found = Tokenizer(TokenizerConfig.read({"size": "tiny", "image_size": 16, "length": 8, **parts}))
    if redrawn:
        redraw_zeros(found)
        # else all features are nearly one vector, and every code the middle one
        torch.nn.init.normal_(found.quantizer.project.weight, std=0.2)
        torch.nn.init.normal_(found.encoder.registers)
    return found.eval()


def pictures(batch=4, height=16, width=16):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_zero_initialised_head_gives_the_middle_code():
    codes = tokenizer(redrawn=False).encode(pictures()).codes
    assert codes.shape == (4, 8, 1)
    assert codes.unique().tolist() == [MIDDLE]


@torch.no_grad()
@pytest.mark.parametrize("i", [0, 3, 7])
def test_a_register_knows_of_earlier_ones_only(i):
    encoder = tokenizer().encoder
    keep = torch.ones(4, 8, dtype=torch.bool)
    before = encoder(pictures(), keep)
    encoder.registers[i] += torch.randn(64)  # a constant would vanish in the norms
    changed = (encoder(pictures(), keep) - before).abs().amax((0, 2))
    assert not changed[:i].any()
    assert (changed[i:] > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("i", [0, 7])
def test_without_causality_registers_know_of_all(i):
    encoder = tokenizer(encoder={"type": "registers", "causal": False}).encoder
    keep = torch.ones(4, 8, dtype=torch.bool)
    before = encoder(pictures(), keep)
    encoder.registers[i] += torch.randn(64)
    assert ((encoder(pictures(), keep) - before).abs().amax((0, 2)) > 1e-3).all()


@pytest.mark.parametrize("check", encoder_checks.CHECKS)
def test_without_causality_the_contract_holds(check):
    component = catalogue().get("encoder", "registers")
    check(component, {"causal": False})


def test_causality_is_no_weight_and_the_default():
    causal, mutual = tokenizer(), tokenizer(encoder={"type": "registers", "causal": False})
    assert causal.config.encoder.causal
    assert {name: value.shape for name, value in causal.state_dict().items()} == {
        name: value.shape for name, value in mutual.state_dict().items()
    }
    short, whole = (mutual.encode(pictures(), lengths=k).codes for k in (3, 8))
    assert torch.equal(short, whole[:, :3])
    assert not torch.equal(whole, causal.encode(pictures()).codes)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_patches_do_not_read_registers(causal):
    encoder = tokenizer(encoder={"type": "registers", "causal": causal}).encoder
    seen = []
    hook = encoder.blocks[-1].register_forward_hook(lambda _module, _inputs, out: seen.append(out[:, :16]))
    for _ in range(2):
        encoder(pictures(), torch.ones(4, 8, dtype=torch.bool))
        encoder.registers += torch.randn(8, 64)
    hook.remove()
    assert torch.equal(*seen)


def test_codes_do_not_depend_on_the_batch():
    model = tokenizer()
    together = model.encode(pictures()).codes
    assert len(together.unique()) > 8
    for i in range(4):
        assert torch.equal(model.encode(pictures()[i : i + 1]).codes, together[i : i + 1])
    assert torch.equal(model.encode(pictures(), lengths=3).codes, together[:, :3])


def test_absent_registers_are_not_computed():
    model = tokenizer()
    sizes = []
    hook = model.encoder.blocks[0].register_forward_hook(lambda _module, _inputs, out: sizes.append(out.shape[1]))
    model.encode(pictures(), lengths=3)
    hook.remove()
    assert sizes == [16 + 3]


# --- positions, time, norms --------------------------------------------------------------------------------------


def table(height, width, dim):
    """Channel by channel in Python's floats: rows first, each half sines then cosines."""
    quarter = dim // 4
    omega = [10000 ** (-k / quarter) for k in range(quarter)]
    waves = (math.sin, math.cos)
    rows = [[[f(y * o) for f in waves for o in omega] for _ in range(width)] for y in range(height)]
    columns = [[[f(x * o) for f in waves for o in omega] for x in range(width)] for _ in range(height)]
    return torch.cat([torch.tensor(rows, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64)], -1)


@pytest.mark.parametrize(("height", "width", "dim"), [(16, 16, 768), (4, 6, 8), (1, 5, 64)])
def test_positions_are_the_formulas(height, width, dim):
    found = sincos(height, width, dim)
    torch.testing.assert_close(found.double(), table(height, width, dim), atol=1e-7, rtol=0)
    assert found[0, 0].reshape(2, 2, -1).tolist() == [[[0.0] * (dim // 4), [1.0] * (dim // 4)]] * 2


def test_stretched_positions_are_interpolated_with_corners_aligned():
    grid = table(4, 4, 16).float().permute(2, 0, 1)[None]
    expected = F.interpolate(grid, size=(6, 3), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    found = sincos(6, 3, 16, within=(4, 4))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(found[corner], table(4, 4, 16).float()[corner], atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("stretch", [True, False])
def test_a_patch_is_its_pixels_rows_first_then_columns_then_channels(stretch):
    embed = PatchEmbed(3, 16, 2, (2, 2), stretch=stretch)
    latents = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    where = sincos(2, 4, 16, (2, 2) if stretch else None)
    pixels = [latents[0, c, 2 + p, 4 + q] for p in range(2) for q in range(2) for c in range(3)]
    expected = embed.proj(torch.stack(pixels)) + where[1, 2]
    torch.testing.assert_close(embed(latents)[0, 1 * 4 + 2], expected)
    with pytest.raises(ValueError, match="do not divide into patches of 2"):
        embed(latents[..., :3, :])


@pytest.mark.parametrize("most", [1.0, 1000.0])
def test_time_frequencies(most):
    time = TimeEmbed(8, most)
    expected = torch.tensor([1000 / most * 256 ** (-k / 128) for k in range(128)], dtype=torch.float64)
    torch.testing.assert_close(time.frequencies.double(), expected, rtol=1e-6, atol=0)
    assert time.frequencies[0] == 1000 / most
    assert time.frequencies[-1] == pytest.approx(1000 / most / 256 ** (127 / 128), rel=1e-6)
    angle = 0.5 * expected
    found = time.sinusoid(torch.tensor([0.5]))[0]
    torch.testing.assert_close(found.double(), torch.cat([angle.cos(), angle.sin()]), atol=5e-5, rtol=0)


def test_norms_are_computed_in_fp32():
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(LayerNorm()(x), F.layer_norm(x.float(), (64,), eps=1e-5).bfloat16())
    assert not list(LayerNorm().parameters())


# --- training of the decoder -------------------------------------------------------------------------------------


def small(bounds=None, masked=True, redrawn=False, **fields):
    """A decoder of one block over one patch, for many rows."""
    torch.manual_seed(0)
    config = FlowDecoderConfig(**{"width": 16, "depth": 1, "head_dim": 16, "patch": 4, **fields})
    decoder = FlowDecoder(config, Spec(LatentSpec(3, 4, 4, bounds), 8, TokenSpec(2, 6, 1, 64, masked)))
    if redrawn:
        redraw_zeros(decoder)
    return decoder


def some_tokens(batch, slots=2, lengths=None):
    values = torch.randn(batch, slots, 6, generator=torch.Generator().manual_seed(1))
    keep = prefix(torch.tensor(lengths or [slots] * batch), slots)
    return Tokens(values, keep, torch.zeros(batch, slots, 1, dtype=torch.long))


def rng(batch, seed=0):
    return Rng(seed, torch.arange(batch))


@torch.no_grad()
def test_zero_initialised_decoder_has_no_velocity_and_the_loss_of_none():
    rows = 2048
    decoder = small()
    data = 0.5 * torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    out = decoder(some_tokens(rows), Batch(torch.arange(rows), latents=data), taps=frozenset(), rng=rng(rows))
    noise = rng(rows).normal("decoder/noise", (3, 4, 4))
    torch.testing.assert_close(out.losses["flow"], (noise - data).square().mean((1, 2, 3)))
    assert out.losses["flow"].mean() == pytest.approx(1 + 0.5**2, rel=0.02)  # E|noise|^2 + E|data|^2
    registers = decoder.registers(some_tokens(rows), None)
    velocity, _ = decoder.velocity(data, torch.full((rows,), 0.3), registers, some_tokens(rows).keep)
    assert not velocity.any()


@torch.no_grad()
def test_the_target_is_noise_less_data_at_a_point_between_them():
    rows, decoder = 8, small(redrawn=True, null_dropout=0.0)
    tokens, data = some_tokens(rows), torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    out = decoder(tokens, Batch(torch.arange(rows), latents=data), taps=frozenset(), rng=rng(rows))
    noise, times = rng(rows).normal("decoder/noise", (3, 4, 4)), draw_times("mode", 0.25, rng(rows))
    between = torch.stack([t * e + (1 - t) * x for t, e, x in zip(times, noise, data, strict=True)])
    velocity, _ = decoder.velocity(between, times, decoder.registers(tokens, None), tokens.keep)
    torch.testing.assert_close(out.losses["flow"], (velocity - (noise - data)).square().mean((1, 2, 3)))


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_share_of_samples_that_train_the_null_condition(share, monkeypatch):
    rows, seen = 4096, []
    decoder = small(null_dropout=share).train()
    original = decoder.registers
    monkeypatch.setattr(decoder, "registers", lambda *args: seen.append(original(*args)) or seen[-1])
    tokens, data = some_tokens(rows, lengths=[1, 2] * (rows // 2)), torch.zeros(rows, 3, 4, 4)
    decoder(tokens, Batch(torch.arange(rows), latents=data), taps=frozenset(), rng=rng(rows))
    null = (seen[0] == decoder.null_condition).all(-1)
    assert torch.equal(null.any(1), null.all(1))  # all slots of a row, the masked ones too
    assert null.all(1).double().mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / rows))
    assert decoder.config.unused() == (() if share else ("null_condition",))


def density(times, bins=10):
    return torch.histc(times.double(), bins, 0, 1) * bins / len(times)


def test_mode_sampling():
    even = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    found = density(mode_times(even, 0.25))
    torch.testing.assert_close(found, found.flip(0), atol=1e-4, rtol=0)
    assert found[0] == pytest.approx(0.83, abs=0.005)
    assert found[4] == pytest.approx(1.155, abs=0.005)
    torch.testing.assert_close(density(mode_times(even, 0.0)), torch.ones(10, dtype=torch.float64), atol=1e-4, rtol=0)
    times = mode_times(even, 0.25)
    assert (times.diff() < 0).all()  # each time from one draw, 1 first
    for u, t in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        assert mode_times(torch.tensor([u], dtype=torch.float64), 0.25).item() == pytest.approx(t, abs=1e-12)
    drawn = draw_times("mode", 0.25, rng(100_000))
    torch.testing.assert_close(density(drawn), found, atol=0.05, rtol=0)


def test_logit_normal_sampling():
    times = draw_times("logit-normal", 0.25, rng(100_000)).double()
    assert times.min() > 0
    assert times.max() < 1
    assert times.mean() == pytest.approx(0.5, abs=0.003)
    assert times.var() == pytest.approx(0.04338, abs=0.0008)  # of a logit-normal(0, 1), by quadrature
    logits = torch.logit(times)
    assert logits.mean() == pytest.approx(0, abs=0.015)
    assert logits.std() == pytest.approx(1, abs=0.01)


# --- sampling ----------------------------------------------------------------------------------------------------


def test_euler_visits_one_down_to_a_step_and_never_zero():
    visited = []
    noise, data = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)

    def velocity(x, t):
        visited.append(t)
        return noise - data

    torch.testing.assert_close(integrate(velocity, noise, FlowSampling(steps=5)), data)
    assert visited == [1.0, 0.8, 0.6, 0.4, 0.2]


SOLVERS = {"euler": 1, "ab2": 2, "dpmpp-2m": 2, "heun": 2, "midpoint": 2}
"""Orders of convergence."""


@pytest.mark.parametrize(
    ("solver", "order", "schedule"),
    [
        *((solver, order, {}) for solver, order in SOLVERS.items()),
        ("ab2", 2, {"schedule": "shift", "shift": 1.5}),
        ("ab2", 2, {"schedule": "power", "power": 1.3}),
    ],
)
def test_solvers_converge_at_their_order(solver, order, schedule):
    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)

    def error(steps):
        sampling = FlowSampling(steps=steps, solver=solver, **schedule)
        found = integrate(lambda x, t: (2 * t * x).float(), start.float(), sampling)
        return abs(float(found) - math.exp(-1))  # dx/dt = 2 t x from t=1, x=1 is exp(t^2 - 1)

    rate = math.log2(error(16) / error(32))
    assert rate == pytest.approx(order, abs=0.35)


def test_multistep_solvers_follow_their_papers():
    """Three steps by hand, in float64, of Adams-Bashforth and of the data form of DPM-Solver++(2M)."""

    def velocity(x, t):
        return x.sin() + t * x

    x = torch.tensor([0.3, -1.2]).double()
    for schedule in ({}, {"schedule": "shift", "shift": 2.0}):
        t = [0.0, *FlowSampling(steps=4, **schedule).knots()][1:]
        adams, slopes = [x], []
        for i in range(4):
            slopes.append(velocity(adams[i], t[i]))
            step, ratio = t[i] - t[i + 1], (t[i] - t[i + 1]) / (t[i - 1] - t[i]) if i else 0.0
            adams.append(adams[i] - step * ((1 + ratio / 2) * slopes[i] - ratio / 2 * slopes[i - 1]))
        rate = [math.log((1 - each) / each) for each in t[1:-1]]  # lambda of t[1], t[2], t[3]
        solver, data = [x], []
        for i in range(4):
            data.append(solver[i] - t[i] * velocity(solver[i], t[i]))
            mixed = data[i]
            if i == 2:  # lambda is infinite at t = 1 and t = 0
                half = (rate[2] - rate[1]) / (2 * (rate[1] - rate[0]))
                mixed = (1 + half) * data[2] - half * data[1]
            solver.append(t[i + 1] / t[i] * solver[i] + (1 - t[i + 1] / t[i]) * mixed)
        for name, expected in (("ab2", adams), ("dpmpp-2m", solver)):
            found = integrate(velocity, x.view(1, 1, 1, 2).float(), FlowSampling(steps=4, solver=name, **schedule))
            torch.testing.assert_close(found.flatten().double(), expected[-1], atol=1e-6, rtol=0)


def test_schedules_space_steps_as_they_say():
    assert FlowSampling(steps=4).knots() == [1, 0.75, 0.5, 0.25, 0]
    assert FlowSampling(steps=2, schedule="shift").knots() == pytest.approx([1, 0.75, 0])  # 3 / 2 over 1 + 2 / 2
    assert FlowSampling(steps=4, schedule="power").knots() == pytest.approx([1, 0.5625, 0.25, 0.0625, 0])
    for schedule in ("shift", "power"):
        assert FlowSampling(steps=5, schedule=schedule, **{schedule: 1}).knots() == pytest.approx(
            FlowSampling(steps=5).knots()
        )


@pytest.mark.parametrize("schedule", ["uniform", "shift", "power"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_evaluate_where_they_say(solver, schedule):
    asked = []

    def velocity(x, t):
        asked.append(t)
        return x

    sampling = FlowSampling(steps=3, solver=solver, schedule=schedule, guidance=2.0)
    integrate(velocity, torch.ones(1, 1, 1, 1), sampling)
    assert asked == pytest.approx(sampling.times())
    assert min(asked) > 0
    assert sum(count for _, count in sampling.by_step()) == len(asked)


def passes(decoder, monkeypatch, **settings):
    """Rows and time of each pass of the network."""
    seen = []
    original = decoder.velocity
    monkeypatch.setattr(
        decoder, "velocity", lambda x, t, *rest: seen.append((len(x), t[0].item())) or original(x, t, *rest)
    )
    with torch.no_grad():
        decoder.integrate(some_tokens(3), torch.randn(3, 3, 4, 4), FlowSampling(**settings))
    monkeypatch.undo()
    return seen


def test_null_passes_are_made_where_they_count(monkeypatch):
    decoder = small()
    assert passes(decoder, monkeypatch, steps=4) == [(3, 1.0), (3, 0.75), (3, 0.5), (3, 0.25)]
    assert [n for n, _ in passes(decoder, monkeypatch, steps=4, guidance=3.0)] == [6] * 4
    interval = ((0.5, 1.0), (0.75, 4.0))
    assert [n for n, _ in passes(decoder, monkeypatch, steps=4, guidance=interval)] == [6, 6, 3, 3]
    assert [n for n, _ in passes(decoder, monkeypatch, steps=2, guidance=((1.0, 1.0), (0.5, 2.0)))] == [3, 6]


@torch.no_grad()
def test_guidance_is_between_the_two_predictions():
    decoder = small(redrawn=True)
    tokens, noise = some_tokens(3), torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def predict(null):
        return decoder.velocity(noise, torch.ones(3), decoder.registers(tokens, null), tokens.keep)[0]

    conditional, null = predict(None), predict(torch.ones(3, dtype=torch.bool))
    assert not torch.allclose(conditional, null)
    for scale in (0.0, 1.0, 3.0):
        found = decoder.integrate(tokens, noise, FlowSampling(steps=1, guidance=scale))
        torch.testing.assert_close(found, noise - (null + scale * (conditional - null)))


def euler(flow, x, steps):
    for i in range(steps):
        x = x - flow.velocity(x, torch.full((len(x),), 1 - i / steps), torch.full((len(x),), 1 / steps)) / steps
    return x


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 2.0, ((0.0, 1.0), (0.5, 1.0), (0.5, 3.0))], ids=str)
@pytest.mark.parametrize("strides", [False, True])
def test_a_flow_is_what_decoding_integrates(guidance, strides):
    decoder = small(redrawn=True, strides=strides)
    tokens, noise = some_tokens(3), torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sampling = FlowSampling(steps=4, guidance=guidance)
    found = decoder.integrate(tokens, noise, sampling)
    if not (strides and isinstance(guidance, tuple)):  # where a schedule says 1, decoding makes no null rows and tells
        torch.testing.assert_close(euler(decoder.flow(tokens, sampling), noise, 4), found, atol=1e-5, rtol=1e-4)
    if guidance == 1:
        assert torch.equal(euler(decoder.flow(tokens), noise, 4), found)


@torch.no_grad()
def test_strides_begin_without_effect_and_tell_apart_numbers_of_steps():
    tokens, x = some_tokens(3), torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    plain, told = small(redrawn=True), small(strides=True)
    told.load_state_dict(plain.state_dict(), strict=False)
    for settings in (FlowSampling(steps=2), FlowSampling(steps=2, guidance=2.0, solver="heun")):
        assert torch.equal(told.integrate(tokens, x, settings), plain.integrate(tokens, x, settings))
    torch.nn.init.normal_(told.stride.weight)
    assert torch.equal(
        told.integrate(tokens, x, FlowSampling(guidance=2.0)), plain.integrate(tokens, x, FlowSampling(guidance=2.0))
    )
    velocity, times = told.flow(tokens).velocity, torch.ones(3)
    assert not torch.allclose(velocity(x, times, times), velocity(x, times, times / 2))


def long_decoder(length=64):
    """Two blocks, sharp attention, as many tokens as a few registers can stand for."""
    torch.manual_seed(0)
    config = FlowDecoderConfig(width=32, depth=2, head_dim=16, patch=2)
    decoder = FlowDecoder(config, Spec(LatentSpec(3, 8, 8, None), 8, TokenSpec(length, 6, 1, 64, True)))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


def long_tokens(slots, lengths, length=64):
    values = torch.randn(len(lengths), length, 6, generator=torch.Generator().manual_seed(1))
    keep = prefix(torch.tensor(lengths), slots)
    return Tokens(values[:, :slots], keep, torch.zeros(len(lengths), slots, 1, dtype=torch.long))


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(1, 1, 1), (2, 7, 4), (59, 3, 40), (60, 60, 60), (63, 1, 2)])
def test_a_few_registers_stand_for_all_absent_ones(lengths, monkeypatch):
    decoder, given, whole = long_decoder(), long_tokens(max(lengths), lengths), long_tokens(64, lengths)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    times, settings = torch.full((3,), 0.4), FlowSampling(steps=2, guidance=3.0)

    def velocities(tokens):
        null = torch.tensor([True, False, False])
        mixed, _ = decoder.velocity(x, times, decoder.registers(tokens, null), tokens.keep, frozenset(), null)
        return mixed, decoder.integrate(tokens, x, settings)

    expected = velocities(whole)
    assert decoder.registers(whole, None).shape[1] == 64
    assert decoder.registers(given, None).shape[1] == min(64, max(lengths) + 4)
    for a, b in zip(velocities(given), expected, strict=True):
        torch.testing.assert_close(a, b, atol=5e-4, rtol=1e-4)
    if max(lengths) < 60:  # and not for as many as they are: their weight is what makes them equal
        monkeypatch.setattr("flexframe_flextok.decoder.log_shares", lambda count: (0.0,) * 4)
        assert (velocities(given)[0] - expected[0]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("length", [64, 3])
@pytest.mark.parametrize("given", [1, 3, 40, 64])
def test_null_rows_apart_are_those_of_one_batch(length, given, monkeypatch):
    decoder, lengths = long_decoder(length), (min(given, length), 1, 1)
    tokens = long_tokens(max(lengths), lengths, length)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    conditional = decoder.registers(tokens, None)
    together, apart = decoder._together(tokens, conditional), decoder._apart(tokens, conditional)
    for t in (1.0, 0.3):
        times = torch.full((3,), t)
        for a, b in zip(together(x, times), apart(x, times), strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)
    rows = []  # of each evaluation
    velocity = decoder.velocity
    monkeypatch.setattr(decoder, "velocity", lambda x, *args: rows.append(len(x)) or velocity(x, *args))
    decoder.integrate(tokens, x, FlowSampling(steps=1, guidance=3.0))
    assert rows == ([3, 3] if given >= 8 and length == 64 else [6])


@torch.no_grad()
@pytest.mark.parametrize("fields", [{"single_null": True}, {"masked": False}], ids=str)
def test_null_rows_that_see_other_registers_stay_in_the_batch(fields):
    decoder = small(redrawn=True, **fields)
    assert not decoder._few(torch.zeros(1, 100, 16), torch.zeros(1, 3, 4, 4))


def test_shares_of_the_registers_that_stand_for_others():
    for count in range(5, 2048):
        shares = torch.tensor(log_shares(count))
        assert torch.equal(shares.bfloat16().float(), shares), "autocast rounds the weights of attention"
        assert shares.double().exp().sum().item() == pytest.approx(count, rel=1e-6)


@torch.no_grad()
def test_a_few_registers_stand_for_all_absent_ones_in_bf16():
    decoder, lengths = long_decoder(), (3, 1, 2)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found = {}
    for slots in (3, 64):
        tokens = long_tokens(slots, lengths)
        exact = decoder.velocity(x, torch.full((3,), 0.4), decoder.registers(tokens, None), tokens.keep)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = decoder.velocity(x, torch.full((3,), 0.4), decoder.registers(tokens, None), tokens.keep)[0]
        found[slots] = (rounded.float() - exact).abs().mean()
    assert found[3] < 1.5 * found[64]  # no further from fp32 than with every register


def test_guidance_schedules():
    ramp = FlowSampling(guidance=((0.8, 5.0), (0.2, 1.0)))  # in any order
    assert [ramp.scale(t) for t in (0.0, 0.2, 0.5, 0.8, 1.0)] == pytest.approx([1, 1, 3, 5, 5])
    step = FlowSampling(guidance=((0.0, 1.0), (0.5, 1.0), (0.5, 3.0), (1.0, 3.0)))
    assert [step.scale(t) for t in (0.25, 0.5, 0.51, 1.0)] == pytest.approx([1, 1, 3, 3])
    assert FlowSampling(guidance=((0.5, 2.0),)).scale(0.9) == 2
    assert FlowSampling(guidance=7.5).scale(0.3) == 7.5
    assert FlowSampling.read({"guidance": [[0, 1], [1, 3]]}).scale(0.5) == 2  # as YAML has it


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"guidance": ()},
        {"guidance": ((0.0,),)},
        {"guidance": "strong"},
        {"guidance": float("nan")},
        {"apg_threshold": 0.0},
        {"momentum": 0.5},
        {"schedule": "cosine"},
        {"schedule": "shift", "shift": 0.0},
        {"shift": 2.0},
        {"schedule": "shift", "power": 3.0},
    ],
    ids=str,
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        FlowSampling.read(settings)
    with pytest.raises(ValidationError):
        FlowSampling(**settings)


def test_apg_of_equal_predictions_is_that_prediction():
    conditional = torch.randn(2, 3, 4, 4)
    guidance = Guidance(FlowSampling(apg=True))
    for _ in range(2):
        assert torch.equal(guidance(conditional, conditional, 7.5), conditional)
    zero = torch.zeros(2, 3, 4, 4)
    assert torch.equal(Guidance(FlowSampling(apg=True))(zero, zero, 7.5), zero)


def test_apg_keeps_the_direction_orthogonal_and_bounded():
    draw = torch.Generator().manual_seed(0)
    conditional, null = (torch.randn(2, 3, 4, 4, generator=draw) for _ in range(2))
    moved = Guidance(FlowSampling(apg=True))(conditional, null, 3.0) - conditional
    assert (moved * conditional).sum((1, 2, 3)).abs().max() < 1e-4
    assert moved.flatten(1).norm(dim=1).max() <= (3.0 - 1) * 2.5 + 1e-4
    # all of it, unlimited and without memory, is plain guidance
    plain = FlowSampling(apg=True, apg_eta=1.0, apg_momentum=0.0, apg_threshold=1e9)
    torch.testing.assert_close(Guidance(plain)(conditional, null, 3.0), null + 3 * (conditional - null))


def test_on_step_is_told_every_step_and_moves_no_number():
    model, told = tokenizer(), []
    tokens = model.encode(pictures(2))
    plain = model.decode(tokens, rng=0, sampling={"steps": 3})
    watched = model.decode(tokens, rng=0, sampling={"steps": 3}, on_step=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(plain, watched)


def test_functions_are_no_settings_and_the_error_says_the_new_way():
    model = tokenizer()
    tokens = model.encode(pictures(1))
    with pytest.raises(ConfigError, match=r"^sampling\.on_step: is no setting; .* decode\(tokens, on_step=\.\.\.\)$"):
        model.decode(tokens, sampling={"on_step": print})
    with pytest.raises(ConfigError, match=r"guidance=\[\(t, f\(t\)\) for t in FlowSampling\(steps=25\)\.times\(\)\]"):
        model.decode(tokens, sampling={"guidance": lambda t: 1 + t})


@torch.no_grad()
@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
def test_any_function_of_time_is_its_values_at_the_times_of_the_steps(solver):
    settings = FlowSampling(steps=7, solver=solver)
    knots = [(t, math.exp(t) * 3) for t in settings.times()]
    schedule = FlowSampling(steps=7, solver=solver, guidance=knots)
    assert [schedule.scale(t) for t in settings.times()] == [math.exp(t) * 3 for t in settings.times()]


# --- sizes and ranges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["absolute", "interpolate"])
def test_other_sizes(positions):
    parts = {
        "encoder": {"type": "registers", "positions": positions},
        "decoder": {"type": "flow", "positions": positions},
    }
    model = tokenizer(**parts)
    tokens = model.encode(pictures(2, 24, 16))
    assert tokens.codes.shape == (2, 8, 1)
    wide = model.decode(tokens, size=(8, 20), rng=0, sampling={"steps": 2, "guidance": 2.0})
    assert wide.shape == (2, 3, 8, 20)
    assert wide.isfinite().all()
    usual = model.decode(tokens, rng=0, sampling={"steps": 2})  # of the size that they are tokens of
    assert torch.equal(usual, model.decode(tokens, size=(24, 16), rng=0, sampling={"steps": 2}))
    with pytest.raises(ValueError, match="patches of 4"):
        model.decode(tokens, size=(18, 16))


@torch.no_grad()
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0), (-3.0, 5.0)])
def test_bounded_latents_are_rescaled_and_unbounded_left_alone(bounds):
    latents = LatentSpec(3, 4, 4, bounds)
    rescale, x = Rescale(latents, (-1.0, 1.0)), torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(rescale.inverse(rescale(x)), x)
    low, high = bounds or (-1.0, 1.0)
    torch.testing.assert_close(rescale(torch.tensor([low, high])), torch.tensor([-1.0, 1.0]))
    # a decoder without velocity returns its noise, in the codec's range
    noise = rng(2).normal("decoder/sample", (3, 4, 4))
    found = small(bounds).decode(
        some_tokens(2), condition=None, size=(4, 4), rng=rng(2), sampling=FlowSampling(steps=2)
    )
    torch.testing.assert_close(found, low + (noise + 1) / 2 * (high - low))


def test_what_cannot_be_built_is_refused():
    for encoder, words in (
        ({"type": "registers", "patch": 3}, "do not divide into patches of 3"),
        ({"type": "registers", "width": 48}, "width 48 must divide by head_dim 32"),
    ):
        with pytest.raises(ConfigError, match=words):
            tokenizer(encoder=encoder)
