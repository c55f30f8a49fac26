"""What a model and a run get that name nothing: every token kept, and the plain losses, against numbers by hand."""

import pytest
import torch

from flexframe.rng import Rng
from flexframe.tokens import Batch, Outputs
from flexframe_registry import LatentSpec, Spec, TokenizerConfig, TokenSpec, catalogue
from flexframe_standard import FullConfig, L1Config, MSEConfig

SPEC = Spec(LatentSpec(3, 2, 4), 24, TokenSpec(8, 6))
RNG = Rng(0, torch.arange(2))


def test_full_keeps_every_token():
    assert FullConfig().budgets(12) == (12,)
    kept = catalogue().build(FullConfig(), SPEC).draw(3, 8, rng=Rng(0, torch.arange(3)))
    assert kept.slots == 8
    assert kept.keep.shape == (3, 8)
    assert kept.keep.all()
    assert TokenizerConfig.model_fields["masker"].default == "full"


@pytest.mark.parametrize(("config", "expected"), [(MSEConfig(), [0.25, 4.0]), (L1Config(), [0.5, 2.0])])
def test_losses_are_a_value_a_sample(config, expected):
    target = torch.zeros(2, 3, 2, 4)
    off = torch.tensor([0.5, -2.0])[:, None, None, None].expand_as(target)
    loss = catalogue().build(config, SPEC)
    given = loss(Outputs({}, reconstruction=off), Batch(torch.arange(2), latents=target), step=0, rng=RNG)
    assert list(given) == [config.type]
    assert given[config.type].tolist() == expected


def test_a_loss_without_a_reconstruction_says_what_it_needs():
    batch = Batch(torch.arange(2), latents=torch.zeros(2, 3, 2, 4))
    with pytest.raises(ValueError, match="needs a decoder that reconstructs"):
        catalogue().build(MSEConfig(), SPEC)(Outputs({}), batch, step=0, rng=RNG)


@pytest.mark.parametrize(("kind", "name"), [("masker", "full"), ("objective", "mse"), ("objective", "l1")])
def test_they_ship_with_flexframe(kind, name):
    assert catalogue().get(kind, name).provider.startswith("flexframe ")
