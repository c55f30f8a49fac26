"""What a teacher sees is told from the kept tokens alone."""

import pytest
import torch
import torch.nn.functional as F

from flexframe.rng import Rng
from flexframe.tokens import Batch, Outputs, Tokens, prefix
from flexframe.train.trainee import Trainee, total
from flexframe_objectives import TokenAlignmentConfig
from flexframe_objectives.token_alignment import FEATURES, TokenAlignment
from flexframe_registry import LatentSpec, Spec, TokenSpec, TrainConfig, catalogue
from flexframe_registry.slots import resolve

SPEC = Spec(LatentSpec(3, 16, 16, (0.0, 1.0)), 8, TokenSpec(4, 3, None, 1))
SCENES = {"type": "scenes", "complexity": 1, "count": 32}


def built(**fields) -> TokenAlignment:
    torch.manual_seed(0)
    return TokenAlignment(TokenAlignmentConfig(hidden=16, **fields), SPEC)


def tokens(lengths: list[int]) -> Tokens:
    values = torch.randn(len(lengths), 4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return Tokens(values, prefix(torch.tensor(lengths), 4), values.detach())


def loss(objective: TokenAlignment, given: Tokens, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = torch.arange(len(given))
    batch = Batch(rows, features={FEATURES: wanted})
    return objective(Outputs({}, tokens=given), batch, step=0, rng=Rng(0, rows))


def test_a_sources_classifier_teaches_by_its_answers() -> None:
    objective = built(source=SCENES)
    images = torch.rand(2, 3, 64, 64)
    wanted = objective.targets(Batch(torch.arange(2), images))
    assert objective.teacher.groups == (8, 8, 8, 5, 8, 10)  # background, colour, count, light, palette, shape
    assert torch.allclose(wanted.exp().sum(1), torch.full((2,), 6.0), atol=1e-4)
    told = objective.head(tokens([4, 2]))
    pairs = zip(told.split(objective.teacher.groups, 1), wanted.split(objective.teacher.groups, 1), strict=True)
    expected = sum((b.exp() * (b - a.log_softmax(1))).sum(1) for a, b in pairs) / 6
    torch.testing.assert_close(loss(objective, tokens([4, 2]), wanted)["divergence"], expected)


def test_a_network_teaches_by_its_pooled_features() -> None:
    objective = built(teacher="test_convnext", weights="random")
    wanted = objective.targets(Batch(torch.arange(2), torch.rand(2, 3, 16, 16)))
    expected = 1 - F.cosine_similarity(objective.head(tokens([4, 2])), wanted, dim=-1)
    torch.testing.assert_close(loss(objective, tokens([4, 2]), wanted)["cosine"], expected)


def test_absent_tokens_tell_nothing() -> None:
    objective = built(source=SCENES)
    wanted = objective.targets(Batch(torch.arange(2), torch.rand(2, 3, 64, 64)))
    given = tokens([3, 1])
    loss(objective, given, wanted)["divergence"].sum().backward()
    reached = given.values.grad.abs().sum(2) > 0
    assert torch.equal(reached, given.keep)


def test_the_first_tokens_alone_are_read_where_that_is_asked_for() -> None:
    objective = built(source=SCENES, first=2)
    wanted = objective.targets(Batch(torch.arange(2), torch.rand(2, 3, 64, 64)))
    given = tokens([4, 1])
    loss(objective, given, wanted)["divergence"].sum().backward()
    reached = given.values.grad.abs().sum(2) > 0
    assert reached.tolist() == [[True, True, False, False], [True, False, False, False]]


def test_features_made_before_count_instead() -> None:
    objective = built(source=SCENES)
    images = torch.rand(2, 3, 64, 64)
    made = objective.features(Batch(torch.arange(2), images))[FEATURES]
    objective.teacher.values = None  # nobody asks it
    assert torch.equal(objective.targets(Batch(torch.arange(2), images, features={FEATURES: made})), made)


def test_it_needs_one_teacher_and_one_that_has_a_classifier() -> None:
    for fields in ({}, {"teacher": "test_convnext", "source": SCENES}):
        with pytest.raises(ValueError, match="give a `teacher`, or a `source`"):
            TokenAlignmentConfig(**fields).check(SPEC)
    with pytest.raises(ValueError, match="source 'digits' comes with no classifier that could teach"):
        built(source={"type": "digits"})


@pytest.mark.slow
def test_steps_bring_the_divergence_down_and_the_model_does_not_keep_the_head() -> None:
    model = {
        "image_size": 16, "length": 4, "codec": "identity",
        "encoder": {"type": "registers", "width": 32, "depth": 1, "head_dim": 16, "patch": 4},
        "quantizer": "fsq", "masker": "pow2",
        "decoder": {"type": "flow", "width": 64, "depth": 1, "head_dim": 32, "patch": 4},
    }  # fmt: skip
    objective = {"type": "token-alignment", "source": SCENES, "hidden": 32}
    trainee = Trainee(TrainConfig.read({"model": model, "run": {"data": SCENES, "objectives": [objective]}}))
    source = catalogue().build(resolve("source", SCENES), (16, 16))
    images = torch.stack([sample.image for sample in source.samples(range(16))]).float() / 255
    batch, told = Batch(torch.arange(16), images), []
    stepped = torch.optim.Adam([p for group in trainee.groups().values() for p in group.parameters], 3e-3)
    for step in range(40):
        losses, _ = trainee(batch, step=step, rng=Rng(0, batch.index, step))
        told.append(losses["token-alignment/divergence"].mean().item())
        stepped.zero_grad()
        total(losses).backward()
        stepped.step()
    assert told[-1] < 0.8 * told[0]
    assert "token-alignment" in trainee.groups()
    assert not [name for name in trainee.model.state_dict() if "tell" in name]
