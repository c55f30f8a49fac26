"""The composition: images to tokens and back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.tokens import Batch
from flexframe_registry import ConfigError, cards

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def build(*overrides):
    torch.manual_seed(0)
    return Tokenizer(cards().get("toy/digits-tiny").train(overrides).model).eval()


# --- images to tokens --------------------------------------------------------------------------------------------


def test_the_test_model_uses_many_codes(tiny, pictures):
    assert len(tiny.encode(pictures).codes.unique()) > 16


@pytest.mark.parametrize("lengths", [3, [3, 3, 3, 3], torch.tensor(3), torch.tensor([3, 3, 3, 3])])
def test_lengths_are_one_number_or_one_each(tiny, pictures, lengths):
    tokens = tiny.encode(pictures, lengths=lengths)
    assert tokens.codes.shape == (4, 3, 1)
    assert tokens.values.shape == (4, 3, 3)
    assert tokens.lengths.tolist() == [3] * 4


def test_unequal_lengths_are_padded_to_the_longest(tiny, pictures):
    tokens = tiny.encode(pictures, lengths=[1, 5, 2, 3])
    assert tokens.codes.shape == (4, 5, 1)
    assert tokens.lengths.tolist() == [1, 5, 2, 3]


def test_all_tokens_are_kept_unless_told_otherwise(tiny, pictures):
    assert tiny.encode(pictures).lengths.tolist() == [8] * 4


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (0, r"lengths span 0\.\.0; they must lie in 1\.\.8"),
        (9, r"9\.\.9; they must lie in 1\.\.8"),
        ([1, 2, 3, 12], r"span 1\.\.12"),
        ([1, 2], "one for each of 4 rows"),
        (2.5, "one whole number"),
        ("4", "one whole number, or one for each of 4 rows, not '4'"),
        ([None, 1, 1, 1], "one whole number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_lengths_that_cannot_be_are_refused(tiny, pictures, lengths, words):
    with pytest.raises(ValueError, match=words):
        tiny.encode(pictures, lengths=lengths)


@pytest.mark.parametrize("length", range(1, 9))
def test_encoding_at_a_length_is_encoding_and_truncating(tiny, pictures, length):
    short, whole = tiny.encode(pictures, lengths=length), tiny.encode(pictures).truncate(length)
    assert torch.equal(short.codes, whole.codes)
    assert torch.equal(short.values, whole.values)


def test_an_image_has_the_same_tokens_in_any_batch(tiny, pictures):
    whole = tiny.encode(pictures)
    for i in range(4):
        assert torch.equal(tiny.encode(pictures[i : i + 1]).codes, whole.codes[i : i + 1])


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 16, 16),
        torch.zeros(2, 1, 16, 16),
        torch.zeros(2, 16, 16, 3),
    ],
    ids=["bytes", "one", "grey", "channels-last"],
)
@pytest.mark.usefixtures("unchecked")
def test_images_of_another_type_or_shape_are_refused(tiny, images):
    for use in (tiny.encode, lambda x: tiny.prepare(Batch(torch.arange(len(x)), x), rng=Rng(0, torch.arange(len(x))))):
        with pytest.raises(ValueError, match="images are floats of shape b 3 h w in") as error:
            use(images)
        assert str(tuple(images.shape)) in str(error.value)
        assert str(images.dtype) in str(error.value)


# --- codes to tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 8])
def test_codes_become_the_tokens_that_they_came_from(tiny, pictures, length):
    tokens = tiny.encode(pictures, lengths=length)
    for codes in (tokens.codes, tokens.codes[..., 0]):
        again = tiny.tokens(codes)
        assert torch.equal(again.values, tokens.values)
        assert torch.equal(again.codes, tokens.codes)
        assert torch.equal(again.keep, tokens.keep)


def test_codes_of_unequal_lengths_are_kept_as_told(tiny, pictures):
    tokens = tiny.encode(pictures, lengths=[1, 5, 2, 3])
    again = tiny.tokens(tokens.codes, lengths=tokens.lengths)
    assert torch.equal(again.keep, tokens.keep)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint16, torch.uint8, np.int64])
def test_ids_of_any_whole_type_are_taken(tiny, kind):
    ids = torch.tensor([[7, 11]])
    given = ids.to(kind) if isinstance(kind, torch.dtype) else ids.numpy().astype(kind)
    assert torch.equal(tiny.tokens(given).values, tiny.tokens(ids).values)


@pytest.mark.parametrize("codes", [torch.ones(1, 2), torch.ones(1, 2).bool(), np.ones((1, 2)), [[1, 2]]])
@pytest.mark.usefixtures("unchecked")
def test_codes_that_are_no_ids_are_told(tiny, codes):
    with pytest.raises(ValueError, match="whole numbers of shape b k 1, not"):
        tiny.tokens(codes)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_tokens_and_no_size_is_told(tiny, pictures):
    tokens = tiny.encode(pictures)
    for given in (tokens.codes, tokens.codes.numpy(), tokens.codes.tolist()):
        with pytest.raises(ValueError, match=r"are Tokens, as `encode` gives, not \w+; `tokens\(codes\)`"):
            tiny.decode(given)
    for size in (16, (16,), (0, 16)):
        with pytest.raises(ValueError, match="a size is height and width in pixels"):
            tiny.decode(tokens, size=size)


def test_token_values_of_any_floating_type_are_decoded(tiny, pictures):
    tokens = tiny.encode(pictures)
    rounded = tokens.to(torch.bfloat16)
    assert torch.equal(tiny.decode(rounded), tiny.decode(rounded.to(torch.float32)))


def test_ids_out_of_range_are_refused(tiny):
    with pytest.raises(ValueError, match=r"token ids span -1\.\.5; this model's codes are 0\.\.511"):
        tiny.tokens(torch.tensor([[-1, 5]]))
    with pytest.raises(ValueError, match=r"0\.\.512"):
        tiny.tokens(torch.tensor([[0, 512]]))


@pytest.mark.parametrize("shape", [(2, 9), (2, 0), (2, 4, 2), (2, 4, 1, 1), (2,)])
@pytest.mark.usefixtures("unchecked")
def test_codes_of_another_shape_are_refused(tiny, shape):
    with pytest.raises(ValueError, match=r"this model's are b k 1 with k in 1\.\.8"):
        tiny.tokens(torch.zeros(shape, dtype=torch.long))


def test_several_codebooks_and_none_have_codes_of_their_own_width(pictures):
    several, continuous = build("quantizer.split=true"), build("quantizer=toy-values")
    books = several.spec.tokens.codebooks
    assert several.encode(pictures).codes.shape == (4, 8, books)
    with pytest.raises(ValueError, match=f"this model's are b k {books}"):
        several.tokens(torch.zeros(4, 8, dtype=torch.long))
    tokens = continuous.encode(pictures)
    assert torch.equal(continuous.tokens(tokens.codes).values, tokens.values)


# --- tokens to images --------------------------------------------------------------------------------------------


def test_decoding_is_reproducible_by_its_seed(tiny, pictures):
    tokens = tiny.encode(pictures)
    assert torch.equal(tiny.decode(tokens, rng=3), tiny.decode(tokens, rng=3))
    assert torch.equal(tiny.decode(tokens), tiny.decode(tokens, rng=0))
    assert not torch.allclose(tiny.decode(tokens, rng=3), tiny.decode(tokens, rng=4))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert torch.equal(*(tiny.decode(tokens, rng=generator) for generator in generators))


def test_an_image_is_decoded_the_same_in_any_batch(tiny, pictures):
    tokens, rng = tiny.encode(pictures, lengths=[1, 8, 2, 5]), Rng(3, torch.arange(4))
    whole = tiny.decode(tokens, rng=rng, sampling={"steps": 3, "guidance": 2.0})
    for i in range(4):
        alone = tiny.tokens(tokens.codes[i : i + 1], lengths=tokens.lengths[i : i + 1])
        found = tiny.decode(alone, rng=rng.rows(torch.tensor([i])), sampling={"steps": 3, "guidance": 2.0})
        torch.testing.assert_close(found, whole[i : i + 1], **CLOSE)


def test_images_lie_in_zero_to_one(tiny, pictures):
    found = tiny.decode(tiny.encode(pictures), sampling={"guidance": 50.0})
    assert found.shape == pictures.shape
    assert found.min() == 0  # guidance this strong leaves the range, so the clamp is at work
    assert found.max() <= 1


def test_gradients_reach_the_images_that_require_them(tiny, pictures):
    given = pictures.clone().requires_grad_()
    tokens = tiny.encode(given)
    assert torch.equal(tokens.values, tiny.encode(pictures).values)  # to the bit
    (gradient,) = torch.autograd.grad(tokens.values.square().sum(), given)
    assert gradient.any(dim=(1, 2, 3)).all()
    (gradient,) = torch.autograd.grad(tiny.features(given).square().sum(), given)
    assert gradient.any(dim=(1, 2, 3)).all()
    with torch.no_grad():
        assert not tiny.encode(given).values.requires_grad


def test_gradients_reach_the_tokens_that_require_them(tiny, pictures):
    tokens = tiny.encode(pictures)
    given = replace(tokens, values=tokens.values.clone().requires_grad_())
    found = tiny.decode(given, rng=0)
    assert torch.equal(found.detach(), tiny.decode(tokens, rng=0))
    (gradient,) = torch.autograd.grad(found.square().sum(), given.values)
    assert gradient.any(dim=(1, 2)).all()
    with torch.no_grad():
        assert not tiny.decode(given, rng=0).requires_grad


def test_a_quantizer_without_a_gradient_in_evaluation_is_told(tiny, pictures, monkeypatch):
    original = tiny.quantizer.forward
    monkeypatch.setattr(
        tiny.quantizer,
        "forward",
        lambda *args, **kw: replace(q := original(*args, **kw), values=q.values.detach()),
    )
    with pytest.raises(ValueError, match=r"quantizer 'toy' gives no gradient in evaluation; take one of `features"):
        tiny.encode(pictures.clone().requires_grad_())


# --- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, "numpy"], ids=str)
def test_images_of_any_floating_type_are_taken(tiny, pictures, kind):
    given = pictures.numpy() if kind == "numpy" else pictures.to(kind)
    kept = torch.as_tensor(given).float()
    assert torch.equal(tiny.encode(given).codes, tiny.encode(kept).codes)
    assert torch.equal(tiny.features(given), tiny.features(kept))


@pytest.mark.usefixtures("unchecked")
def test_pictures_are_told_how_they_become_images(tiny):
    for given in (Image.new("RGB", (16, 16)), [Image.new("RGB", (16, 16))]):
        with pytest.raises(ValueError, match=r"floats of shape b 3 h w in \[0, 1\], not (Image|list); flexframe\.data"):
            tiny.encode(given)
    with pytest.raises(ValueError, match=r"not torch\.uint8 of shape"):
        tiny.encode(np.zeros((1, 3, 16, 16), np.uint8))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("overrides", [(), ("codec=toy",), ("quantizer=toy-values", "decoder=toy-plain")], ids=str)
def test_a_model_below_float32_encodes_and_decodes(pictures, kind, overrides):
    whole = build(*overrides)
    model = build(*overrides).to(kind)
    assert (whole.precision, model.precision) == ("float32", str(kind).removeprefix("torch."))
    tokens = model.encode(pictures)
    assert torch.equal(model.tokens(tokens.codes).values, tokens.values)
    assert model.features(pictures).dtype == torch.float32
    exact = whole.tokens(tokens.codes)
    found = model.decode(tokens, rng=0, sampling={"steps": 2} if not overrides else None)
    expected = whole.decode(exact, rng=0, sampling={"steps": 2} if not overrides else None)
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.02
    assert torch.equal(model.encode(pictures.to(kind)).codes, model.encode(pictures.to(kind).float()).codes)


def test_a_precision_that_cannot_be_used_is_told(pictures):
    model = build().double()
    for use in (lambda: model.encode(pictures), lambda: model.precision):
        with pytest.raises(ValueError, match=r"has weights in float64; bring it to one: model\.float\(\)"):
            use()
    model = build().bfloat16()
    model.decoder.half()
    with pytest.raises(ValueError, match="has weights in bfloat16, float16"):
        model.encode(pictures)


def test_an_autocast_is_a_precision(tiny):
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny.precision == "bfloat16"


# --- sizes, files ----------------------------------------------------------------------------------------------------


def test_tokens_are_decoded_to_the_size_that_they_came_from(tiny, pictures):
    tokens = tiny.encode(torch.nn.functional.interpolate(pictures, (24, 16)))
    assert tokens.size == (24, 16)
    assert tiny.decode(tokens).shape == (4, 3, 24, 16)
    assert tiny.decode(tokens[:2].truncate(3)).shape == (2, 3, 24, 16)
    assert tiny.decode(tokens, size=(16, 16)).shape == (4, 3, 16, 16)
    assert tiny.decode(tiny.tokens(tokens.codes)).shape == (4, 3, 16, 16)
    assert tiny.decode(tiny.tokens(tokens.codes, size=(24, 16))).shape == (4, 3, 24, 16)


@pytest.mark.parametrize("place", ["model.safetensors", "mine", Path("deep/mine")], ids=str)
def test_a_model_saves_itself(tiny, pictures, place, tmp_path):
    tiny.save(tmp_path / place)
    found = load(tmp_path / place)
    assert found.config == tiny.config
    assert found.sampling == tiny.sampling
    assert torch.equal(found.encode(pictures).values, tiny.encode(pictures).values)


def test_a_model_below_float32_is_saved_as_what_it_was_rounded_to(pictures, tmp_path):
    model = build().bfloat16()
    model.save(tmp_path)
    assert torch.equal(load(tmp_path).encode(pictures).codes, model.float().encode(pictures).codes)


def test_encoding_and_decoding_leave_no_graph(pictures):
    model = build()
    assert not model.decode(model.encode(pictures), sampling={"steps": 1}).requires_grad


def test_settings_are_laid_on_the_models_own(tiny, pictures):
    tokens = tiny.encode(pictures)
    own = tiny.sampling
    assert own.steps == 2
    found = tiny.decode(tokens, sampling={"guidance": 3.0})
    assert torch.equal(found, tiny.decode(tokens, sampling={"steps": 2, "guidance": 3.0}))
    assert not torch.allclose(found, tiny.decode(tokens, sampling={"steps": 5, "guidance": 3.0}))
    assert tiny.sampling is own


def test_settings_as_an_object_stand_for_themselves(tiny, pictures):
    tokens = tiny.encode(pictures)
    kind = tiny.config.decoder.sampling
    assert torch.equal(tiny.decode(tokens, sampling=kind(steps=3)), tiny.decode(tokens, sampling={"steps": 3}))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_setting_is_refused_with_the_nearest_name(tiny, pictures):
    tokens = tiny.encode(pictures)
    with pytest.raises(ConfigError, match=r"sampling\.guidence: there is no such setting\. Did you mean 'guidance'"):
        tiny.decode(tokens, sampling={"guidence": 3.0})
    with pytest.raises(ConfigError, match=r"sampling: is 'steps', and settings are a mapping"):
        tiny.decode(tokens, sampling="steps")
    with pytest.raises(ConfigError, match=r"sampling\.stepps.*'steps'"):
        Tokenizer(tiny.config, {"stepps": 3})


def test_settings_of_another_decoder_are_refused(tiny, pictures):
    drawn = tiny.config.decoder.sampling
    plain = build("decoder=toy-plain")
    with pytest.raises(ValueError, match="settings of use are SamplingConfig, not ToySampling; give those"):
        plain.decode(plain.encode(pictures), sampling=drawn(steps=3))
    with pytest.raises(ConfigError, match=r"sampling\.steps: there is no such setting"):
        plain.decode(plain.encode(pictures), sampling={"steps": 3})


def test_every_absent_token_changes_the_image(tiny, pictures):
    whole = tiny.encode(pictures)
    found = [tiny.decode(whole.truncate(k)) for k in (1, 4, 8)]
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])


# --- training ----------------------------------------------------------------------------------------------------


def test_a_batch_is_prepared_once(tiny, pictures):
    rng = Rng(0, torch.arange(4))
    batch = tiny.prepare(Batch(torch.arange(4), pictures), rng=rng)
    assert torch.equal(batch.latents, pictures)
    own = Batch(torch.arange(4), pictures, latents=1 - pictures)
    assert tiny.prepare(own, rng=rng) is own


def test_a_batch_with_neither_images_nor_latents_is_refused(tiny):
    with pytest.raises(ValueError, match="holds neither"):
        tiny.prepare(Batch(torch.arange(4)), rng=Rng(0, torch.arange(4)))


def test_losses_are_named_by_their_part_and_counted_by_sample(tiny, pictures):
    out = tiny(Batch(torch.arange(4), pictures), taps=frozenset({"block.0"}), rng=Rng(0, torch.arange(4)))
    assert set(out.losses) == {"decoder/flow"}
    assert out.losses["decoder/flow"].shape == (4,)
    assert set(out.features) == {"block.0"}
    assert out.codes.codes.shape == (4, 8, 1)


def test_a_samples_loss_does_not_depend_on_its_batch(tiny, pictures):
    index = torch.tensor([10, 20, 30, 40])
    whole = tiny(Batch(index, pictures), rng=Rng(0, index, 5)).losses["decoder/flow"]
    one = tiny(Batch(index[2:3], pictures[2:3]), rng=Rng(0, index[2:3], 5)).losses["decoder/flow"]
    torch.testing.assert_close(one, whole[2:3], **CLOSE)


def test_the_codec_stays_frozen_in_training():
    model = build("codec=toy")
    model.train()
    assert model.encoder.training
    assert not model.codec.training
    assert not any(p.requires_grad for p in model.codec.parameters())


@pytest.mark.parametrize("change", [lambda x: 2 * x - 1, lambda x: 255 * x, lambda x: x / x.new_zeros(())])
def test_images_of_another_range_are_refused(tiny, change):
    height, width = tiny.config.image_size
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    tiny.encode(1.1 * images - 0.05)  # as resizing overshoots
    with pytest.raises(ValueError, match=r"images are in \[0, 1\], and these span .*x / 255"):
        tiny.encode(change(images))


def test_a_decoder_without_on_step_is_called_without_it(tiny, pictures, monkeypatch):
    tokens, original = tiny.encode(pictures), tiny.decoder.decode
    expected = tiny.decode(tokens)

    def decode(tokens, *, condition, size, rng, sampling):
        return original(tokens, condition=condition, size=size, rng=rng, sampling=sampling)

    monkeypatch.setattr(tiny.decoder, "decode", decode)
    assert torch.equal(tiny.decode(tokens, on_step=print), expected)


# --- encoders of images ------------------------------------------------------------------------------------------


@pytest.fixture
def reading(monkeypatch):
    """A tokenizer whose encoder reads images, and whose codec would give nothing of them."""
    model = build()
    monkeypatch.setattr(type(model.config.encoder), "reads", "images")
    monkeypatch.setattr(model.codec, "encode", lambda images, rng: torch.zeros_like(images))
    return model


def test_an_encoder_reads_the_images_where_its_config_says_so(tiny, reading, pictures):
    tokens = reading.encode(pictures)
    assert len(tokens.codes.unique()) > 16
    assert torch.equal(tokens.values, build().encode(pictures).values)
    batch = Batch(torch.arange(4), pictures)
    prepared = reading.prepare(batch, rng=Rng(0, batch.index))
    assert torch.equal(reading.read(prepared), pictures)
    assert not prepared.latents.any()  # which the decoder is trained on
    out = reading(batch, rng=Rng(0, batch.index))
    assert len(out.codes.codes.unique()) > 4


@pytest.mark.usefixtures("unchecked")
def test_an_encoder_of_images_is_told_where_there_are_none(reading):
    batch = Batch(torch.arange(4), latents=torch.zeros(4, 3, 16, 16))
    with pytest.raises(ValueError, match="encoder 'toy' reads images, and this batch holds none; train on images"):
        reading(batch, rng=Rng(0, batch.index))


def test_an_encoder_draws_in_training_alone(monkeypatch, pictures):
    model, given = build(), []

    def taught(latents, keep, *, rng):
        given.append(rng)
        return model.encoder(latents, keep)

    monkeypatch.setattr(model.encoder, "taught", taught)
    batch, rng = Batch(torch.arange(4), pictures), Rng(7, torch.arange(4))
    model(batch, rng=rng)
    model.encode(pictures)
    assert given == [rng]


def test_an_encoder_shows_features_to_objectives(monkeypatch, pictures):
    """A tap of the encoder goes by `encoder.` and its name, in what a run may ask for and in what it is given."""
    monkeypatch.setattr(type(build().config.encoder), "taps", lambda self: {"coarse": 5})
    model = build()

    def tapped(latents, keep, *, taps, rng):
        return model.encoder(latents, keep), {name: latents.mean((2, 3))[:, None, None] for name in taps}

    monkeypatch.setattr(model.encoder, "tapped", tapped)
    batch, rng = Batch(torch.arange(4), pictures), Rng(7, torch.arange(4))
    assert model.spec.taps["encoder.coarse"] == 5
    assert model(batch, taps=frozenset({"encoder.coarse"}), rng=rng).features.keys() == {"encoder.coarse"}
    assert not model(batch, rng=rng).features


def test_a_tap_that_an_encoder_lacks_is_refused(pictures):
    model, batch = build(), Batch(torch.arange(4), pictures)
    with pytest.raises(ValueError, match=r"encoder 'toy' has no tap coarse; it has: none"):
        model(batch, taps=frozenset({"encoder.coarse"}), rng=Rng(0, batch.index))


def test_the_size_of_images_is_among_the_widths():
    images = build().spec.images
    assert (images.channels, images.height, images.width, images.range) == (3, 16, 16, (0.0, 1.0))
