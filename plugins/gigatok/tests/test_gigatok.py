"""Known answers: sizes, where queries begin, what is made of the encoder's grid, other sizes, swaps."""

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train.trainee import Trainee
from flexframe_registry import ConfigError, TokenizerConfig, cards

SIZES = {
    "s-s": (129_252_619, 512, 136),
    "s-b": (218_236_939, 768, 232),
    "b-l": (597_510_923, 1024, 622),
    "b-l-dino": (597_510_923, 1024, 622),
    "xl-xxl": (2_842_052_875, 1536, 2_894),
}
"""Parameters without the projection that distillation trains, width of the decoder, and millions with it: the README's
136M, 232M, 622M and 2.9B."""


def build(*overrides):
    torch.manual_seed(0)
    return Tokenizer(cards().get("gigatok/digits-tiny").train(overrides).model).eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def batch():
    return Batch(torch.arange(3), torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_parameters_of_the_published_sizes(name):
    counted, width, published = SIZES[name]
    with torch.device("meta"):
        model = Tokenizer(cards().get(f"gigatok/{name}").described)
    assert sum(parameter.numel() for parameter in model.parameters()) == counted
    projection = (width + 1) * 4 * width + (4 * width + 1) * 4 * width + (4 * width + 1) * 768
    assert round((counted + projection) / 1e6) == published


def test_queries_begin_as_the_means_of_regions(model):
    encoder = model.encoder
    memory = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cells, found = memory[0].unflatten(0, (8, 8)), encoder.queries(memory, 8)[0]
        regions = [cells, cells, cells[:, :4], cells[:, 4:], cells[:4, :4], cells[:4, 4:], cells[4:, :4], cells[4:, 4:]]
        means = torch.stack([region.mean((0, 1)) for region in regions])
        torch.testing.assert_close(found, encoder.start(means))


def test_the_direct_picture_is_the_convolutions_alone(model, batch):
    prepared, rng = model.prepare(batch, rng=Rng(0, batch.index)), Rng(0, batch.index)
    out = model(prepared, taps=frozenset({"direct", "encoder.grid", "grid"}), rng=rng)
    grid = out.features["encoder.grid"].movedim(-1, 1)
    torch.testing.assert_close(out.features["direct"], model.decoder.picture(grid))
    torch.testing.assert_close(out.reconstruction, model.decoder.picture(out.features["grid"].movedim(-1, 1)))


def test_each_loss_teaches_what_it_is_to_teach(batch):
    config = cards().get("gigatok/digits-tiny").train(["run.objectives=[{type: mse, of: direct}]"])
    trainee = Trainee(config)
    losses = trainee(batch, step=0, rng=Rng(0, batch.index))[0]
    losses["mse/mse"].mean().backward()
    taught = {name.rsplit(".", 2)[0] for name, p in trainee.model.named_parameters() if p.grad is not None}
    assert all(name.startswith(("encoder.conv", "decoder.conv")) for name in taught)


@pytest.mark.parametrize("overrides", [("image_size=32",), ("length=4",), ("image_size=16x32", "length=16")])
def test_weights_go_to_another_size(model, overrides):
    here = build(*overrides)
    for name in ("encoder", "decoder"):
        part, state = getattr(here, name), getattr(model, name).state_dict()
        adapted = part.adapt(state, model.spec)
        own = part.state_dict()
        wrong = [key for key in own if adapted[key].shape != own[key].shape]
        assert wrong == ([] if here.spec.tokens.length <= 8 else [{"encoder": "positions", "decoder": "places"}[name]])


def test_a_size_that_it_was_not_made_for_is_refused(model):
    with pytest.raises(ValueError, match=r"reads latents of shape \(3, 16, 16\), not \(3, 32, 32\); resize them"):
        model.encode(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("parts", [{"encoder": "latent-tokens"}, {"decoder": "vit", "masker": "uniform"}])
def test_parts_of_other_families_stand_in_their_places(batch, parts):
    raw = {"size": "tiny", "image_size": 16, "length": 8, "encoder": "q-former", "decoder": "q-former"}
    model = Tokenizer(TokenizerConfig.read({**raw, "quantizer": "fsq", **parts}))
    assert model(batch, rng=Rng(0, batch.index)).reconstruction.shape == batch.images.shape


def test_a_direct_picture_needs_an_encoder_with_a_grid():
    with pytest.raises(ConfigError, match=r"which the decoder makes of encoder\.grid, 16 wide"):
        cards().get("gigatok/digits-tiny").train(["encoder=latent-tokens", "run.objectives=[{type: mse, of: direct}]"])
