"""The identity codec."""

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe_registry import cards

LATENT = "codec={type: identity, channels: 4, downsample: 4, range: null}"


def build(*overrides):
    torch.manual_seed(0)
    return Tokenizer(cards().get("toy/digits-tiny").train(overrides).model)


def test_images_are_their_own_latents(pictures):
    codec = build().codec
    assert codec.encode(pictures, rng=Rng(0, torch.arange(4))) is pictures
    assert codec.decode(pictures) is pictures


def test_latents_without_a_codec_are_trained_on_but_not_shown(pictures):
    model = build(LATENT, "image_size=64")
    index = torch.arange(4)
    out = model(Batch(index, latents=torch.randn(4, 4, 16, 16)), rng=Rng(0, index))
    assert out.losses["decoder/flow"].shape == (4,)
    with pytest.raises(ValueError, match="this model works on 4-channel latents and has no codec"):
        model.encode(pictures)
    tokens = model.tokens(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="gives 4-channel latents and has no codec to show them"):
        model.decode(tokens, sampling={"steps": 1})
