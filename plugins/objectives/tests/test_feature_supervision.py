"""Supervision of features: its definition, whose features teach, and what is refused."""

import pytest
import torch
import torch.nn.functional as F

from flexframe.rng import Rng
from flexframe.tokens import Batch, Outputs
from flexframe_objectives import FeatureSupervisionConfig
from flexframe_objectives.feature_supervision import FeatureSupervision
from flexframe_registry import LatentSpec, Spec, TokenSpec

SPEC = Spec(LatentSpec(3, 32, 32, images=True), 24, TokenSpec(8, 6, 1, 64), {"encoder.coarsest": 20, "semantic": 12})
ROWS = torch.arange(3)


def build(**fields):
    torch.manual_seed(0)
    config = FeatureSupervisionConfig.sized("tiny", **fields)
    config.check(SPEC)
    return FeatureSupervision(config, SPEC)


def drawn(*shape, seed=0):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))


def losses(objective, **batch):
    tapped = {"encoder.coarsest": drawn(4, 1, 20), "semantic": drawn(4, 4, 12, seed=1)}
    return objective(Outputs({}, features=tapped), Batch(ROWS, **batch), step=0, rng=Rng(0, ROWS)), tapped


def test_a_cosine_within_the_margin_is_good_enough():
    objective = build(teacher=None, dim=5, margin=0.9)
    taught = {"supervision_whole": drawn(5, seed=2), "supervision_cells": drawn(4, 4, 5, seed=3)}
    found, tapped = losses(objective, features=taught)
    whole = objective.whole(tapped["encoder.coarsest"].mean((1, 2)))
    expected = F.relu(0.1 - F.cosine_similarity(whole, taught["supervision_whole"]))
    torch.testing.assert_close(found["whole"], expected)
    cosines = F.cosine_similarity(objective.cells(tapped["semantic"]), taught["supervision_cells"], dim=-1)
    torch.testing.assert_close(found["cells"], F.relu(0.1 - cosines).mean((1, 2)))
    assert 0 < int((cosines > 0.1).sum()) < cosines.numel()
    assert {name: tuple(p.shape) for name, p in objective.named_parameters()} == {
        "whole.weight": (5, 20),
        "cells.weight": (5, 12),
    }


def test_the_teachers_class_token_and_patches_teach_and_may_be_computed_before():
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    objective = build(grid=4)
    whole, cells = objective.teacher.seen(images, (4, 4))
    assert not torch.allclose(whole, cells[:, 0, 0])
    made = objective.features(Batch(ROWS, images))
    assert torch.equal(made["supervision_whole"], whole)
    assert torch.equal(made["supervision_cells"], cells)
    assert made.keys() == objective.config.precomputes().keys()
    for name, value in losses(objective, images=images)[0].items():
        assert torch.equal(value, losses(objective, features=made)[0][name])


@pytest.mark.parametrize(("fields", "name"), [({"cells": None, "grid": 4}, "whole"), ({"whole": None}, "cells")])
def test_one_of_the_two_alone(fields, name):
    objective = build(**fields)
    assert losses(objective, images=torch.rand(3, 3, 32, 32))[0].keys() == {name}
    assert len(list(objective.parameters())) == len(objective.config.needs()) == 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"teacher": None}, "give a `teacher`, or the `dim` of features"),
        ({"whole": None, "cells": None}, "supervises nothing: name the features `whole`, or `cells`"),
        ({"cells": None}, "give the `grid` of the teacher's patches"),
    ],
)
def test_what_cannot_be_is_told(fields, text):
    with pytest.raises(ValueError, match=text):
        build(**fields)


def test_targets_that_are_nowhere_are_told():
    with pytest.raises(ValueError, match="looks at images, and this batch holds none"):
        losses(build())
    with pytest.raises(ValueError, match=r"no targets: name its `teacher`, or put features in batch\.features\["):
        losses(build(teacher=None, dim=5))
    with pytest.raises(ValueError, match="need a `grid`"):
        build().features(Batch(ROWS))
