"""The contract kit finds what breaks a contract: one flaw a part, and the check that must see it."""

from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
import torch
from flexframe_toy import ToyConditionerConfig
from flexframe_toy.parts import ToyConditioner
from torch import nn

from flexframe.bench.metric import Measure, Metric, Tally
from flexframe.data.source import Sample, Source
from flexframe.data.transform import Transform
from flexframe.nn.priors import class_ids, gumbel
from flexframe.parts import Encoder, LengthMasker, LikelihoodPrior, Objective, Quantizer
from flexframe.testing import checks, iter_checks, parametrize_contracts
from flexframe.testing.tables import TableRng
from flexframe.tokens import Batch, Codes, Kept, Quantized, prefix
from flexframe.train.feeds.base import Feed
from flexframe.train.optim import Optimizer
from flexframe_registry import (
    Component,
    EncoderConfig,
    FeedConfig,
    MaskerConfig,
    MetricConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PriorConfig,
    QuantizerConfig,
    SourceConfig,
    TargetSpec,
    TokenSpec,
    TransformConfig,
    catalogue,
)
from flexframe_registry.kinds import KINDS


class SignConfig(QuantizerConfig):
    """Signs of a projection."""

    type: Literal["sign"] = "sign"

    def tokens(self, length, features):
        return TokenSpec(length, 1, 1, 2)


class Sign(Quantizer):
    """Sound: a linear map to one number, straight through its sign."""

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.project = nn.Linear(spec.features, 1)

    def forward(self, values, keep, *, rng):
        x = self.project(values)
        codes = self.code(x, keep)
        hard = self.lookup(codes)
        return Quantized(x + (hard - x).detach() if self.training else hard, codes, self.losses(x, keep))

    def code(self, x, keep):
        return (x > 0).long()

    def losses(self, x, keep):
        return {}

    def lookup(self, codes):
        return codes * 2.0 - 1


class BatchSign(Sign):
    def code(self, x, keep):
        return (x.flatten().argsort().argsort() % 2).view_as(x)  # its rank in the batch


class GreedySign(Sign):
    def losses(self, x, keep):
        return {"size": x.square().mean((1, 2))}


class OutOfRange(Sign):
    def code(self, x, keep):
        return 2 * (x > 0).long()


class DrawingSign(Sign):
    def losses(self, x, keep):
        return {"noise": torch.rand(len(x))}


class LeakingSign(Sign):
    def losses(self, x, keep):
        return {"size": 1e-12 * x.square().mean((1, 2))}


class DeadSign(Sign):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.dead = nn.Parameter(torch.ones(3))


class BlockedSign(Sign):
    def forward(self, values, keep, *, rng):
        return super().forward(values.detach(), keep, rng=rng)


def component(config, part):
    return Component(config, f"{__name__}:{part.__name__}")


def run(check, config, part, monkeypatch):
    """The check on a part; importlib mode gives this module no name to import it by."""
    monkeypatch.setattr(Component, "load", lambda self: part)
    check(component(config, part), {})


QUANTIZER = checks.of("quantizer")[2:]


@pytest.mark.parametrize("check", QUANTIZER, ids=lambda check: check.__name__)
def test_a_sound_quantizer_passes(check, monkeypatch):
    run(check, SignConfig, Sign, monkeypatch)


@pytest.mark.parametrize(
    ("part", "check", "words"),
    [
        (BatchSign, checks.check_quantizer_rows, "not equal"),
        (GreedySign, checks.check_quantizer_absent_slots, "not close"),
        (DrawingSign, checks.check_quantizer_absent_slots, "training drew from torch's global generator"),
        (LeakingSign, checks.check_quantizer_absent_slots, "absent slots move losses or present values"),
        (
            OutOfRange,
            checks.check_quantizer_codes,
            r"(?s)^not so: .*; quantized = .*\nasked: .*\nlook",
        ),
        (DeadSign, checks.check_quantizer_gradients, "no gradient reaches .'dead'.; declare it in `unused`"),
        (BlockedSign, checks.check_quantizer_gradients, "no gradient reaches the encoder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_flawed_quantizer_is_caught(part, check, words, monkeypatch):
    with pytest.raises(AssertionError, match=words):
        run(check, SignConfig, part, monkeypatch)


class HalfConfig(MaskerConfig):
    """The first half."""

    type: Literal["half"] = "half"

    def budgets(self, length):
        return (length // 2, length)


class Tail(LengthMasker):
    def draw(self, batch, length, *, rng):
        return Kept(length, ~prefix(torch.full((batch,), length // 2), length))


class Unlisted(LengthMasker):
    def draw(self, batch, length, *, rng):
        return Kept(length, prefix(torch.full((batch,), 3), length))


class Careless(LengthMasker):
    def draw(self, batch, length, *, rng):
        return Kept(length, prefix(length // 2 * (1 + torch.randint(2, (batch,))), length))


class Half(LengthMasker):
    def draw(self, batch, length, *, rng):
        return Kept(length, prefix(length // 2 * (1 + rng.integers("half", 2)), length))


def test_a_sound_masker_passes(monkeypatch):
    run(checks.check_masker_draws, HalfConfig, Half, monkeypatch)


@pytest.mark.parametrize(
    ("part", "words"), [(Tail, "not a prefix"), (Unlisted, "budgets do not list"), (Careless, "unequal draws")]
)
def test_a_flawed_masker_is_caught(part, words, monkeypatch):
    with pytest.raises(AssertionError, match=words):
        run(checks.check_masker_draws, HalfConfig, part, monkeypatch)


class MeanConfig(EncoderConfig):
    """A map of the mean image."""

    type: Literal["mean"] = "mean"

    def features(self):
        return 5


class Mean(Encoder):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.slots = nn.Parameter(torch.randn(spec.tokens.length, 5))
        self.project = nn.Linear(spec.latents.channels, 5)

    def forward(self, latents, keep):
        return self.project(latents.mean((2, 3)))[:, None] + self.slots[: keep.shape[1]]


class Nosy(Mean):
    def forward(self, latents, keep):
        return super().forward(latents, keep) + keep.sum(1)[:, None, None]


class Mixing(Mean):
    def forward(self, latents, keep):
        return super().forward(latents - latents.mean(0), keep)


@pytest.mark.parametrize("check", checks.of("encoder")[2:], ids=lambda check: check.__name__)
def test_a_sound_encoder_passes(check, monkeypatch):
    run(check, MeanConfig, Mean, monkeypatch)


class CountingConfig(MeanConfig):
    def prefixes(self):
        return False


class Swayed(Nosy):
    """Its features hang on how many the others keep."""

    def forward(self, latents, keep):
        return super().forward(latents, keep) + keep.sum()


def test_an_encoder_that_says_so_may_count_its_own_row(monkeypatch):
    run(checks.check_encoder_absent_slots, CountingConfig, Nosy, monkeypatch)
    with pytest.raises(AssertionError):
        run(checks.check_encoder_absent_slots, CountingConfig, Swayed, monkeypatch)


class Silent(Mean):
    """Takes whatever tap it is asked for, and shows none."""

    def tapped(self, latents, keep, *, taps, rng):
        return self(latents, keep), {}


class Noisy(Mean):
    def taught(self, latents, keep, *, rng):
        return self(latents, keep) + torch.randn(len(latents), 1, 1)


@pytest.mark.parametrize(
    ("part", "check"),
    [
        (Nosy, checks.check_encoder_absent_slots),
        (Mixing, checks.check_encoder_shape_and_rows),
        (Noisy, checks.check_encoder_draws),
        (Silent, checks.check_encoder_taps),
    ],
)
def test_a_flawed_encoder_is_caught(part, check, monkeypatch):
    with pytest.raises(AssertionError):
        run(check, MeanConfig, part, monkeypatch)


class DarknessConfig(MetricConfig):
    """How dark images are."""

    type: Literal["darkness"] = "darkness"


@dataclass
class Seen(Tally):
    """Sound: each image's mean."""

    seen: list[float] = field(default_factory=list)

    def update(self, batch):
        values = 1 - batch.exact.mean((1, 2, 3))
        self.seen += values.tolist()
        return {"darkness": values}

    def join(self, state):
        self.seen += state["seen"]

    def compute(self):
        return {"darkness": sum(self.seen) / len(self.seen)}


class Darkness(Metric):
    """Sound: the mean of each image's mean."""

    tally = Seen

    def measures(self):
        return [Measure("darkness", "Darkness")]


def darkness(name, changed, **fields):
    """The metric with another tally."""
    return type(name, (Darkness,), {"tally": changed, **fields})


class Untouchable(Seen):
    def update(self, batch):
        raise AssertionError("asked all the same")

    compute = update


class Absent(Darkness):
    """Sound: says that it has no numbers, and is asked for none."""

    tally = Untouchable

    def unavailable(self, spec):
        return "there is no lamp; bring one"


class Twice(Darkness):
    def measures(self):
        return 2 * super().measures()


class Opaque(Darkness):
    def protocol(self):
        return {"source": self.source}


class Rambling(Darkness):
    def unavailable(self, spec):
        return "there is no lamp.\nBring one."


class MisnamedTally(Seen):
    def compute(self):
        return {"dark": super().compute()["darkness"]}


class StrangerTally(Seen):
    def update(self, batch):
        return {"dark": super().update(batch)["darkness"]}


class SummedTally(Seen):
    def update(self, batch):
        return {"darkness": super().update(batch)["darkness"].sum()}


class PaintingTally(Seen):
    def update(self, batch):
        batch.exact[:, :, 0] = 0
        return super().update(batch)


class CrowdedTally(Seen):
    def __post_init__(self):
        self.seen = self.metric.common


class ForgetfulTally(CrowdedTally):
    def __post_init__(self):
        super().__post_init__()
        self.seen.clear()


class AmnesicTally(Seen):
    def restore(self, state):
        super().restore({"seen": state["seen"][:-1]})


class DeafTally(Seen):
    def join(self, state):
        pass


class StrayTally(Seen):
    def update(self, batch):
        self.last = batch
        return super().update(batch)


class AveragingTally(Seen):
    def update(self, batch):
        values = super().update(batch)["darkness"]
        self.seen[-len(values) :] = [float(values.max())]  # one a batch
        return {"darkness": values}


class RelativeTally(Seen):
    def update(self, batch):
        values = super().update(batch)["darkness"]
        return {"darkness": values - values.mean()}


Misnamed = darkness("Misnamed", MisnamedTally)
Stranger = darkness("Stranger", StrangerTally)
Summed = darkness("Summed", SummedTally)
Painting = darkness("Painting", PaintingTally)
Crowded = darkness("Crowded", CrowdedTally, common=[])  # of all tallies
Forgetful = darkness("Forgetful", ForgetfulTally, common=[])
Amnesic = darkness("Amnesic", AmnesicTally)
Deaf = darkness("Deaf", DeafTally)
Stray = darkness("Stray", StrayTally)
Averaging = darkness("Averaging", AveragingTally)
Relative = darkness("Relative", RelativeTally)


@pytest.mark.parametrize("check", checks.of("metric")[2:], ids=lambda check: check.__name__)
@pytest.mark.parametrize("part", [Darkness, Absent], ids=lambda part: part.__name__)
def test_a_sound_metric_passes(part, check, monkeypatch):
    run(check, DarknessConfig, part, monkeypatch)


@pytest.mark.parametrize(
    ("part", "check", "words"),
    [
        (Twice, checks.check_metric_measures, "a name of their own each"),
        (Misnamed, checks.check_metric_numbers, r"`compute` gives \['dark'\]"),
        (Stranger, checks.check_metric_numbers, "values of 'dark', which is no measure"),
        (Summed, checks.check_metric_numbers, r"'darkness' has shape \(\); a value an image"),
        (Painting, checks.check_metric_numbers, "wrote into the batch's exact"),
        (Rambling, checks.check_metric_numbers, "one sentence"),
        (Crowded, checks.check_metric_tallies, "its state must be its own"),
        (Forgetful, checks.check_metric_tallies, "its state must be its own"),
        (Amnesic, checks.check_metric_resumes, "make all that `update` changes fields"),
        (Deaf, checks.check_metric_joins, "say in `join` how their fields go together"),
        (Averaging, checks.check_metric_batches, "not close"),
        (Relative, checks.check_metric_batches, "not close"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_flawed_metric_is_caught(part, check, words, monkeypatch):
    with pytest.raises(AssertionError, match=words):
        run(check, DarknessConfig, part, monkeypatch)


def test_a_tally_with_an_attribute_that_is_no_field_is_told(monkeypatch):
    with pytest.raises(TypeError, match="StrayTally has last, which an interrupted run would lose; declare it"):
        run(checks.check_metric_resumes, DarknessConfig, Stray, monkeypatch)


def test_a_metrics_protocol_is_plain_data(monkeypatch):
    with pytest.raises(TypeError, match="not JSON serializable"):
        run(checks.check_metric_numbers, DarknessConfig, Opaque, monkeypatch)


def test_a_config_without_docstrings_is_caught():
    class BareConfig(MaskerConfig):
        type: Literal["bare"] = "bare"
        most: int = 3

    with pytest.raises(AssertionError, match=r"fields without a docstring: \['most'\]"):
        checks.check_config_round_trips(Component(BareConfig, "nowhere:Bare"), {})


def test_a_plugin_that_is_not_installed_is_told():
    with pytest.raises(LookupError, match=r"'flexframe-tyo' provides no components here\. Installed: .*-toy"):
        parametrize_contracts("flexframe-tyo")


# --- priors ------------------------------------------------------------------------------------------------------


class UnigramConfig(PriorConfig):
    """A code's chance by class and slot."""

    type: Literal["unigram"] = "unigram"


class Unigram(LikelihoodPrior):
    """Sound: tokens are independent of each other."""

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.table = nn.Parameter(torch.zeros((spec.classes or 0) + 1, spec.length, spec.codebook_size))

    def scores(self, condition, batch, slots):
        return self.table[class_ids(condition, self.spec.classes, batch, self.table.device)][:, :slots].log_softmax(-1)

    def log_prob(self, codes, condition):
        ids = codes.codes.masked_fill(~codes.keep[..., None], 0)
        found = self.scores(condition, *codes.keep.shape).gather(-1, ids)[..., 0]
        return found.masked_fill(~codes.keep, 0)

    def forward(self, codes, condition, *, rng):
        return {"codes": -self.log_prob(codes, condition).sum(1) / codes.keep.sum(1)}

    def draw(self, scores, rng):
        return (scores + gumbel(rng.uniform("unigram", scores.shape[1:]))).argmax(-1)

    def sample(self, condition, lengths, *, rng, sampling, on_token=None):
        keep = prefix(lengths, int(lengths.max()))
        ids = self.draw(self.scores(condition, *keep.shape), rng)
        if on_token is not None:
            on_token(1)
        return Codes(ids[..., None], keep)


class LonelyUnigram(Unigram):
    def draw(self, scores, rng):
        return torch.distributions.Categorical(logits=scores).sample()  # of the global state


class BatchUnigram(Unigram):
    def draw(self, scores, rng):
        return (super().draw(scores, rng) + len(scores)) % scores.shape[-1]


class BeyondUnigram(Unigram):
    def draw(self, scores, rng):
        return super().draw(scores, rng) + scores.shape[-1] // 2


class GreedyUnigram(Unigram):
    def forward(self, codes, condition, *, rng):
        ids = codes.codes[..., 0]
        return {"codes": super().forward(codes, condition, rng=rng)["codes"] + ids.float().mean(1)}


class ClasslessUnigram(Unigram):
    def scores(self, condition, batch, slots):
        return super().scores(None, batch, slots)


class UnnormedUnigram(Unigram):
    def log_prob(self, codes, condition):
        return super().log_prob(codes, condition) * 1.1


class SilentUnigram(Unigram):
    def sample(self, condition, lengths, *, rng, sampling, on_token=None):
        return super().sample(condition, lengths, rng=rng, sampling=sampling)


class DroppingUnigram(Unigram):
    def forward(self, codes, condition, *, rng):
        losses = super().forward(codes, condition, rng=rng)
        return {name: nn.functional.dropout(loss, 0.1, self.training) for name, loss in losses.items()}


PRIOR = checks.of("prior")[2:]


@pytest.mark.parametrize("check", PRIOR, ids=lambda check: check.__name__)
def test_a_sound_prior_passes(check, monkeypatch):
    run(check, UnigramConfig, Unigram, monkeypatch)


@pytest.mark.parametrize(
    ("flawed", "check", "told"),
    [
        (LonelyUnigram, checks.check_prior_samples, "equal seeds gave unequal codes"),
        (BatchUnigram, checks.check_prior_samples, "a row's draws depend on its batch"),
        (BeyondUnigram, checks.check_prior_samples, "a code is out of range"),
        (SilentUnigram, checks.check_prior_samples, "progress is not told"),
        (GreedyUnigram, checks.check_prior_losses, "not close"),
        (ClasslessUnigram, checks.check_prior_losses, "the class does not matter"),
        (DroppingUnigram, checks.check_prior_losses, "training drew from torch's global generator"),
        (UnnormedUnigram, checks.check_prior_likelihood, "not close"),
    ],
)
def test_a_flawed_prior_fails(flawed, check, told, monkeypatch):
    with pytest.raises(AssertionError, match=told):
        run(check, UnigramConfig, flawed, monkeypatch)


# --- conditioners ------------------------------------------------------------------------------------------------


class PaddedConditioner(ToyConditioner):
    """A text's vectors move with the longest of its batch."""

    def forward(self, texts):
        text = super().forward(texts)
        return replace(text, embeddings=text.embeddings + text.present.shape[1])


class DeafConditioner(ToyConditioner):
    def forward(self, texts):
        return super().forward(["a star"] * len(texts))


class EmptyConditioner(ToyConditioner):
    def forward(self, texts):
        text = super().forward(texts)
        return replace(text, present=text.present & torch.tensor([[bool(each)] for each in texts]))


@pytest.mark.parametrize(
    ("flawed", "told"),
    [
        (PaddedConditioner, "not close"),
        (DeafConditioner, "the text does not matter"),
        (EmptyConditioner, "has no vector at all"),
    ],
)
def test_a_flawed_conditioner_fails(flawed, told, monkeypatch):
    with pytest.raises(AssertionError, match=told):
        run(checks.check_conditioner_texts, ToyConditionerConfig, flawed, monkeypatch)


def test_every_component_of_a_distribution_is_checked():
    names = [name for name, _ in iter_checks("flexframe-toy")]
    assert "masker-toy-masker-draws" in names
    assert {name.split("-")[0] for name in names} == {c.kind for c in catalogue() if "toy" in c.provider}
    assert len(names) == len(set(names))


def test_a_table_stands_in_for_the_draws_that_it_names():
    rng = TableRng({"a": torch.tensor([[1.0], [2.0]])}, 2)
    assert rng.normal("a", (1,)).tolist() == [[1.0], [2.0]]
    assert rng.uniform("b").shape == (2,)
    with pytest.raises(ValueError, match="table 'a' has shape"):
        rng.uniform("a", (2,))


def test_every_kind_has_checks_of_its_own():
    assert set(checks.CHECKS) == set(KINDS)
    assert all(checks.CHECKS.values())


def test_a_check_is_found_by_its_name():
    assert checks.check_masker_draws in checks.of("masker")
    with pytest.raises(AttributeError, match="has no attribute 'check_nothing'"):
        _ = checks.check_nothing


class AskingConfig(ObjectiveConfig):
    """Squared distance of logits' mean to what was computed before."""

    type: Literal["asking"] = "asking"

    def needs(self):
        return frozenset({"logits"})

    def targets(self, grid, classes):
        return {"means": TargetSpec(grid)}


class Asking(Objective):
    def forward(self, outputs, batch, *, step, rng):
        return {"distance": (outputs.logits.square().mean(1) - batch.features["means"]).square().mean((1, 2))}


class Deaf(Asking):
    def forward(self, outputs, batch, *, step, rng):
        return {"distance": batch.features["means"].mean((1, 2)) + 0 * outputs.logits.sum()}


def test_targets_are_made_up_for_an_objective_that_names_them(monkeypatch):
    run(checks.check_objective, AskingConfig, Asking, monkeypatch)
    with pytest.raises(AssertionError, match="needs 'logits', but no gradient reaches it"):
        run(checks.check_objective, AskingConfig, Deaf, monkeypatch)
    monkeypatch.setattr(AskingConfig, "targets", ObjectiveConfig.targets)
    with pytest.raises(KeyError, match="means"):
        run(checks.check_objective, AskingConfig, Asking, monkeypatch)


class DarkenConfig(TransformConfig):
    """Darker images."""

    type: Literal["darken"] = "darken"


class Darken(Transform):
    """Sound: each image by a draw of its own."""

    def __call__(self, images, *, rng):
        factor = rng.uniform("darken")[:, None, None, None]
        return (images * factor).to(images.dtype)


class DarkenAlike(Darken):
    def __call__(self, images, *, rng):
        return (images * rng.uniform("darken")[0]).to(images.dtype)


class DarkenInPlace(Darken):
    def __call__(self, images, *, rng):
        images[:] = super().__call__(images, rng=rng)
        return images


class DarkenNothing(Darken):
    def __call__(self, images, *, rng):
        return images.clone()


def test_a_sound_transform_passes_and_flawed_ones_do_not(monkeypatch):
    run(checks.check_transform, DarkenConfig, Darken, monkeypatch)
    for part, words in (
        (DarkenAlike, "depend on its batch"), (DarkenInPlace, "wrote into"), (DarkenNothing, "no image is ever changed")
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=words):
            run(checks.check_transform, DarkenConfig, part, monkeypatch)


class PlainConfig(OptimizerConfig):
    """Gradient descent."""

    type: Literal["plain"] = "plain"


class Plain(Optimizer):
    """Sound: torch's."""

    def create(self, groups, *, fused):
        return torch.optim.SGD([group.entry() for group in groups], lr=self.config.lr, momentum=0.9)


class Mute(Plain):
    def create(self, groups, *, fused):
        return torch.optim.SGD([{"params": group.parameters} for group in groups], lr=self.config.lr)


class Uphill(Plain):
    def create(self, groups, *, fused):
        return torch.optim.SGD([group.entry() for group in groups], lr=self.config.lr, maximize=True)


class Forgetting(torch.optim.SGD):
    def load_state_dict(self, state_dict):
        pass


class Amnesiac(Plain):
    def create(self, groups, *, fused):
        return Forgetting([group.entry() for group in groups], lr=self.config.lr, momentum=0.9)


def test_a_sound_optimizer_passes_and_flawed_ones_do_not(monkeypatch):
    run(checks.check_optimizer, PlainConfig, Plain, monkeypatch)
    for part, words in ((Uphill, "the loss does not fall"), (Amnesiac, "not close")):
        with pytest.raises(AssertionError, match=words):
            run(checks.check_optimizer, PlainConfig, part, monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        run(checks.check_optimizer, PlainConfig, Mute, monkeypatch)


class RowsConfig(FeedConfig):
    """The images 0 to 3 at every step."""

    type: Literal["rows"] = "rows"


class Rows(Feed):
    """Sound: row i of a step is image i, and a colour by the step."""

    first = 0

    def __len__(self):
        return 4

    def rows(self, step):
        return [0, 1, 2, 3]

    def batches(self, start):
        for step in range(start, self.training.run.steps):
            yield Batch(torch.tensor(self.rows(step)), torch.full((4, 3, 8, 16), float(step - start * self.first)))


class Late(Rows):
    first = 1


def test_a_sound_feed_passes_and_a_flawed_one_does_not(monkeypatch):
    run(checks.check_feed_batches, RowsConfig, Rows, monkeypatch)
    with pytest.raises(AssertionError, match="images of a step depend on when it is entered"):
        run(checks.check_feed_batches, RowsConfig, Late, monkeypatch)


# --- values, losses and sources --------------------------------------------------------------------------------------


def test_values_at_a_bound_are_clamped_and_a_few_are_chance():
    checks.materials.assert_not_clamped(torch.tensor([0.0, 1.0, -1.0, 0.5]), "latents")
    with pytest.raises(AssertionError, match="3 of 4 latents are exactly 1: they are clamped, and only the tokenizer"):
        checks.materials.assert_not_clamped(torch.tensor([1.0, 1.0, 1.0, 0.5]), "latents")


def test_a_loss_of_the_batch_is_no_value_a_sample():
    checks.materials.a_value_a_sample({"loss": torch.zeros(4)})
    with pytest.raises(AssertionError, match=r"loss 'loss' has shape \(\), not \(4,\): a value a sample"):
        checks.materials.a_value_a_sample({"loss": torch.zeros(())})


@pytest.mark.parametrize(
    ("ids", "protocol", "words"),
    [("ab", {"made": 1}, None), ("aa", {"made": 1}, "several images have the id 'a'"), ("ab", {}, "protocol is empty")],
)
def test_a_flawed_source_is_caught(ids, protocol, words, monkeypatch):
    class Two(Source):
        def __len__(self):
            return len(ids)

        def __getitem__(self, index):
            return Sample(torch.zeros(3, *self.size, dtype=torch.uint8), None, ids[range(len(ids))[index]])

        def protocol(self):
            return protocol

    class TwoConfig(SourceConfig):
        """Two images."""

        type: Literal["two"] = "two"

    if words is None:
        run(checks.check_source, TwoConfig, Two, monkeypatch)
    else:
        with pytest.raises(AssertionError, match=words):
            run(checks.check_source, TwoConfig, Two, monkeypatch)
