"""What the loop trains: a tokenizer and the run's objectives."""

from dataclasses import replace

import pytest
import torch

from flexframe.data.loader import split
from flexframe.rng import Rng
from flexframe.testing.checks import redraw_zeros
from flexframe.tokens import Batch
from flexframe.train.trainee import Trainee, total
from flexframe_registry import ConfigError, cards


def build(*overrides):
    torch.manual_seed(0)
    found = Trainee(cards().get("toy/digits-tiny").train(overrides))
    redraw_zeros(found)
    return found


@pytest.fixture
def batch():
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batch(torch.arange(100, 108), images)


def losses(trainee, batch, step=3):
    return trainee(batch, step=step, rng=Rng(0, batch.index, step))[0]


@pytest.mark.parametrize(
    "overrides",
    [(), ("decoder=toy-plain", "masker=full"), ("decoder=toy-plain", "quantizer=toy-values")],
    ids=["drawn", "plain", "continuous"],
)
def test_accumulated_parts_have_the_gradients_of_one_batch(batch, overrides):
    gradients = []
    for parts in (1, 4):
        trainee = build(*overrides)
        for part in split(batch, parts):
            (total(losses(trainee, part)) / parts).backward()
        gradients.append({name: p.grad for name, p in trainee.named_parameters() if p.grad is not None})
    assert any(gradient.any() for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


def test_the_total_is_the_sum_of_the_means():
    found = total({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor(5.0)})
    assert found == 7
    assert found.shape == ()


def test_objectives_are_weighted_and_start_when_told(batch):
    trainee = build(
        "decoder=toy-plain", "run.objectives=[{type: mse, weight: 3}, {type: l1, start: 5}, {type: l1, start: 9}]"
    )
    plain = build("decoder=toy-plain", "run.objectives=[mse]")
    early, late = losses(trainee, batch, 4), losses(trainee, batch, 5)
    mse = {name for name in early if name.startswith("mse/")}
    assert {name.split("/")[0] for name in early} == {"mse"}
    assert {name.split("/")[0] for name in late} == {"mse", "l1.1"}  # there are two
    for name in mse:
        torch.testing.assert_close(early[name], 3 * losses(plain, batch, 4)[name])


def test_a_decoder_without_an_objective_has_nothing_to_train_on(batch):
    trainee = build("decoder=toy-plain", "run.objectives=[]")
    with pytest.raises(ValueError, match="nothing to train on"):
        losses(trainee, batch)


def test_only_the_model_is_in_the_models_state():
    trainee = build("decoder=toy-plain", "run.objectives=[mse, l1]")
    assert len(trainee.objectives) == 2
    assert not [name for name in trainee.model.state_dict() if "objective" in name]


def test_kept_latents_are_the_codecs_and_are_encoded_once(batch, monkeypatch):
    kept, fresh = build("run.feed.keep_latents=true"), build()
    encoded = []
    encode = kept.model.codec.encode

    def counted(images, *, rng):
        encoded.extend(rng.index.tolist())
        return encode(images, rng=rng)

    monkeypatch.setattr(kept.model.codec, "encode", counted)
    order = torch.tensor([5, 0, 3, 6, 1, 1, 7, 2])
    mixed = Batch(batch.index[order], batch.images[order])
    for given in (split(batch, 2)[0], mixed):
        for name, loss in losses(fresh, given).items():
            assert torch.equal(losses(kept, given)[name], loss)
    assert encoded == [100, 101, 102, 103, 105, 106, 107]


def test_kept_latents_of_a_codec_that_draws_do_not_depend_on_when_an_image_was_met(batch, monkeypatch):
    found = []
    for step in (0, 7):  # as in a run that was resumed, or in another process
        kept = build("run.feed.keep_latents=true")
        seen = []

        def drawn(images, *, rng, seen=seen):
            seen.append(rng.normal("codec/posterior"))
            return images

        monkeypatch.setattr(kept.model.codec, "encode", drawn)
        losses(kept, batch, step)
        found.append(torch.cat(seen))
    assert torch.equal(*found)


def test_kept_latents_and_pictures_that_move_are_refused():
    with pytest.raises(ConfigError, match=r"^run\.transforms: feed .images. keeps one latent .*leave out .shift."):
        build("run.feed.keep_latents=true", "run.transforms={type: shift, pixels: 1}")


def shortcut(monkeypatch, shown):
    """The toy's parts as if the encoder showed features, and the decoder made pictures of some that are 5 wide."""
    parts = cards().get("toy/digits-tiny").train(()).model
    encoder, decoder = type(parts.encoder), type(parts.decoder)
    provided = decoder.provides
    monkeypatch.setattr(encoder, "taps", lambda self: shown)
    monkeypatch.setattr(decoder, "shortcuts", lambda self, spec: {"direct": ("coarse", (1, 1, 5))})
    monkeypatch.setattr(decoder, "provides", lambda self: provided(self) | {"direct"})


def test_a_decoder_makes_pictures_of_the_encoder_s_features_where_an_objective_asks(batch, monkeypatch):
    shortcut(monkeypatch, {"coarse": 5})
    trainee = build("run.objectives=[{type: mse, of: direct, start: 2, until: 4}]")
    model, asked = trainee.model, []
    run = type(model.decoder).forward

    def tapped(latents, keep, *, taps, rng):
        asked.append(taps)
        return model.encoder(latents, keep), {name: latents.mean((2, 3))[:, None, None] for name in taps}

    def decode(tokens, batch, *, taps, rng):
        features = {name: batch.latents + batch.features["encoder.coarse"].mean() for name in taps}
        out = run(model.decoder, tokens, batch, taps=frozenset(), rng=rng)
        return replace(out, features=features)

    monkeypatch.setattr(model.encoder, "tapped", tapped)
    monkeypatch.setattr(model.decoder, "forward", decode)
    found = [losses(trainee, batch, step).get("mse/mse") for step in (1, 2, 3, 4)]
    assert [each is None for each in found] == [True, False, False, True]
    torch.testing.assert_close(found[1], batch.images.mean().square().expand(8))
    assert asked == [frozenset(), *[frozenset({"coarse"})] * 2, frozenset()]


@pytest.mark.parametrize(
    ("shown", "why"),
    [({"coarse": 7}, "encoder 'toy' gives features 7 wide"), ({}, "encoder 'toy' has no such features")],
)
def test_pictures_of_features_that_the_encoder_lacks_are_refused(monkeypatch, shown, why):
    shortcut(monkeypatch, shown)
    with pytest.raises(ConfigError, match="counts from step 3 until step 3, so never; raise `until`"):
        build("run.objectives=[{type: mse, of: direct, start: 3, until: 3}]")
    with pytest.raises(ConfigError, match=f"needs direct, which the decoder makes of encoder.coarse, 5 wide; {why}"):
        build("run.objectives=[{type: mse, of: direct}]")
