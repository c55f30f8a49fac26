"""One part's features brought to another's."""

from __future__ import annotations

from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs

from . import FeatureMSEConfig


class FeatureMSE(Objective):
    """See `FeatureMSEConfig`."""

    config: FeatureMSEConfig

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        """The mean over places and values of the squared difference.

        Raises:
            ValueError: the two are of different grids.
        """
        told, wanted = outputs.features[self.config.tap], outputs.features[self.config.target]
        if told.shape != wanted.shape:
            own, other = (" x ".join(map(str, each.shape[1:3])) for each in (told, wanted))
            raise ValueError(f"{self.config.tap} is {own} places, {self.config.target} {other}; they must be one grid")
        return {"mse": (told.float() - wanted.detach().float()).square().mean((1, 2, 3))}
