"""Configs of real parts and all cards that ship; how configs are read is tested on toys, in tests/registry."""

import math

import pytest

from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import (
    ConfigError,
    GeneratorConfig,
    LatentSpec,
    Spec,
    TokenizerConfig,
    TokenSpec,
    cards,
    catalogue,
)
from flexframe_registry.cards import read_training

CARD = "flextok/digits-tiny"
CARDS = [name for name in cards().names() if not name.startswith("toy/")]
MODEL = {
    "size": "tiny", "image_size": 16, "length": 8,
    "encoder": "registers", "quantizer": "fsq", "masker": "pow2", "decoder": "flow",
}  # fmt: skip


def read(**changes):
    return TokenizerConfig.read({**MODEL, **changes})


def names(kind):
    return [c.name for c in catalogue() if c.kind == kind and not c.provider.startswith("flexframe-toy ")]


@pytest.mark.parametrize("decoder", sorted({*names("decoder")} - {"cells"}))  # which takes tokens of one width alone
@pytest.mark.parametrize("quantizer", names("quantizer"))
def test_a_swap_in_a_tiny_card_stays_tiny(quantizer, decoder):
    found = cards().get(CARD).train([f"quantizer={quantizer}", f"decoder={decoder}", "length=16"]).model  # 4 x 4 cells
    for kind, name in (("quantizer", quantizer), ("decoder", decoder)):
        assert getattr(found, kind) == catalogue().get(kind, name).config.sized("tiny")


def test_sizes_fill_the_fields_that_are_not_given():
    found = read(decoder={"type": "flow", "depth": 5}).decoder
    assert (found.width, found.depth, found.patch) == (64, 5, 4)
    base = TokenizerConfig.read({**MODEL, "size": "base"}).decoder
    assert (base.width, base.depth) == (768, 12)


@pytest.mark.parametrize("card", CARDS)
def test_every_card_is_a_model_and_trains_if_it_says_how(card):
    found = cards().get(card)
    model = found.described
    if isinstance(model, TokenizerConfig):
        assert model.spec.tokens.length == model.length
        assert model.decoder.sampling.read(found.file.sampling)
    if isinstance(model, GeneratorConfig):
        codes = cards().get(model.tokenizer).model.spec.tokens
        assert model.length <= codes.length
        assert model.codebook_size == codes.codebook_size
        if codes.codebook_size is None:
            assert model.dim == codes.dim
        else:
            assert model.codebooks == codes.codebooks
        assert model.prior.sampling.read(found.file.sampling)
    if found.file.run is not None:
        assert found.train().model == model


@pytest.mark.parametrize("card", CARDS)
def test_a_model_survives_json(card):
    config = cards().get(card).described
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert type(config).read(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", CARDS)
def test_every_cards_config_can_be_shown(command, name):
    assert command("show", name, "--config").code == 0


def test_widths_follow_from_the_config():
    taps = {f"block.{i}": 64 for i in range(3)}
    square, wide = LatentSpec(3, 16, 16, (0.0, 1.0), True), LatentSpec(3, 16, 32, (0.0, 1.0), True)
    assert read().spec == Spec(square, 64, TokenSpec(8, 6, 1, 64_000, True), taps, (16, 16))
    vit = read(encoder="latent-tokens", quantizer="vq", masker="full", decoder="vit", image_size=[16, 32])
    assert vit.spec == Spec(wide, 64, TokenSpec(8, 8, 1, 64, False), taps, (16, 32))
    assert (vit.spec.images.height, vit.spec.images.width) == (16, 32)


@pytest.mark.parametrize(
    ("masker", "budgets"),
    [
        ("full", (8,)),
        ("pow2", (1, 2, 4, 8)),
        ("uniform-pow2", (1, 2, 4, 8)),
        ("uniform", (1, 2, 3, 4, 5, 6, 7, 8)),
        ("tail-drop", (1, 2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_budgets_are_the_lengths_that_training_makes_usable(masker, budgets):
    assert read(masker=masker).budgets == budgets


def test_bits_count_every_codebook():
    assert read().bits_per_token == math.log2(64_000)
    residual = read(quantizer="residual-vq")
    assert residual.spec.tokens.codebooks > 1
    assert residual.bits_per_token == residual.spec.tokens.codebooks * math.log2(residual.spec.tokens.codebook_size)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("encoder.patch=5", "encoder: latents of 16 x 16 do not divide into patches of 5; change `patch`"),
        ("length=6", "masker: masker 'pow2' needs a length that is a power of two, not 6"),
        ("quantizer=vqq", "quantizer: no quantizer named 'vqq'. Did you mean 'vq'?"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_right_word(override, words):
    with pytest.raises(ConfigError) as error:
        cards().get(CARD).train([override])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tokenizer", "told"),
    [
        ({"tokenizer": "grid/scenes-64"}, "'gpt' models integer codes, and tokens of 'grid/scenes-64' are continuous"),
        (
            {"tokenizer": "titok/bl-64-vae", "length": 8, "codebook_size": 16},
            r"'titok/bl-64-vae' has continuous tokens \(quantizer 'kl'\), and prior 'gpt' models integer codes",
        ),
    ],
)
def test_no_prior_of_integer_codes_is_of_continuous_tokens(tokenizer, told):
    model = {"classes": 10, "prior": {"type": "gpt", "width": 16, "depth": 1, "heads": 2}, **tokenizer}
    with pytest.raises(ConfigError, match=told):
        read_training({"model": model, "run": {"data": "digits", "steps": 4}})


@pytest.mark.parametrize("name", ["full", "tail-drop"])
def test_a_drawn_decoders_settings_are_no_other_decoders(name, pictures):
    vit = Tokenizer(read(decoder="vit", masker=name)).eval()
    settings = read().decoder.sampling(steps=3)
    with pytest.raises(ValueError, match="settings of use are SamplingConfig, not FlowSampling; give those"):
        vit.decode(vit.encode(pictures), sampling=settings)


@pytest.mark.parametrize("quantizer", ["kl", "residual-vq", "none"])
def test_codes_have_their_quantizers_width(quantizer, pictures):
    model = Tokenizer(read(quantizer=quantizer)).eval()
    spec, tokens = model.spec.tokens, model.encode(pictures)
    assert tokens.codes.shape == (4, 8, spec.dim if spec.codebook_size is None else spec.codebooks)
    assert model.tokens(tokens.codes).values.equal(tokens.values)
