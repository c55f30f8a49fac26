"""Features brought to others."""

import pytest
import torch

from flexframe.rng import Rng
from flexframe.tokens import Batch, Outputs
from flexframe_objectives import FeatureMSEConfig
from flexframe_objectives.features import FeatureMSE
from flexframe_registry import LatentSpec, Spec, TokenSpec

SPEC = Spec(LatentSpec(3, 8, 8), 16, TokenSpec(8, 6, 1, 64), {"grid": 5, "encoder.grid": 5, "block.0": 7})
BATCH = Batch(torch.arange(2))


def loss(told, wanted):
    outputs = Outputs({}, features={"grid": told, "encoder.grid": wanted})
    return FeatureMSE(FeatureMSEConfig(), SPEC)(outputs, BATCH, step=0, rng=Rng(0, BATCH.index))["mse"]


def test_one_is_brought_to_the_other_which_stays():
    told, wanted = (torch.full((2, 4, 4, 5), value, requires_grad=True) for value in (1.0, 3.0))
    found = loss(told, wanted)
    assert found.tolist() == [4.0, 4.0]
    found.sum().backward()
    assert told.grad.any()
    assert wanted.grad is None


def test_other_grids_and_widths_are_refused():
    with pytest.raises(ValueError, match=r"grid is 4 x 4 places, encoder\.grid 2 x 4; they must be one grid"):
        loss(torch.zeros(2, 4, 4, 5), torch.zeros(2, 2, 4, 5))
    with pytest.raises(ValueError, match=r"block\.0 is 7 wide and encoder\.grid 5; they must be equally wide"):
        FeatureMSEConfig(tap="block.0").check(SPEC)
