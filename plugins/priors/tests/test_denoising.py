"""Priors of continuous tokens: what their trunks see, how they draw, and chains against closed forms."""

import pytest
import torch

from flexframe.models.generator import Generator
from flexframe.nn.denoiser import Denoiser, left_masked
from flexframe.nn.init import redraw_zeros
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition, prefix
from flexframe_priors.denoising_configs import CausalDenoisingConfig, CausalDenoisingSampling, MARConfig, MARSampling
from flexframe_registry import ConfigError, GeneratorConfig, cards

LENGTH, DIM, CLASSES = 7, 3, 3
ROWS = torch.arange(4)
LENGTHS = torch.tensor([7, 3, 1, 5])
LABELS = ROWS % CLASSES
BOTH = ("causal-denoising", "mar")


def generator(kind, **prior):
    torch.manual_seed(3)
    raw = {"size": "tiny", "length": LENGTH, "dim": DIM, "classes": CLASSES}
    model = Generator(GeneratorConfig.read({**raw, "prior": {"type": kind, "head_width": 32, **prior}}))
    redraw_zeros(model)
    return model.eval()


@pytest.fixture(scope="module", params=BOTH)
def prior(request):
    return generator(request.param).prior


@pytest.fixture(scope="module")
def causal():
    return generator("causal-denoising").prior


@pytest.fixture(scope="module")
def mar():
    return generator("mar").prior


def condition(rows=slice(None)):
    return Condition(torch.zeros(len(LABELS[rows]), dtype=torch.bool), labels=LABELS[rows])


def tokens(lengths=LENGTHS):
    return Codes(Rng(9, ROWS).normal("tokens", (LENGTH, DIM)), prefix(lengths, LENGTH))


def settings(prior, **given):
    return prior.config.sampling(**{"steps": 6, "guidance": 3.0, **given})


def sample(prior, rows=slice(None), lengths=LENGTHS, **given):
    rng = Rng(1, ROWS[rows])
    return prior.sample(condition(rows), lengths[rows], rng=rng, sampling=settings(prior, **given)).codes


def close(one, other):
    """Equal but for rounding, which chains of random weights blow up with the values."""
    torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-5)


# --- drawing -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_row_is_its_batch_of_one(prior):
    whole = sample(prior)
    for i in ROWS.tolist():
        alone = sample(prior, slice(i, i + 1))
        close(alone[0], whole[i, : LENGTHS[i]])
    assert not torch.allclose(whole[0, :3], whole[1, :3])


@pytest.mark.slow
def test_guidance_of_1_is_none_and_more_is_some(prior):
    plain = sample(prior, guidance=1.0)
    near = sample(prior, guidance=1.0 + 1e-9, guidance_schedule="constant")
    close(near, plain)
    assert not torch.allclose(sample(prior), plain, atol=1e-3)
    free = prior.sample(None, LENGTHS, rng=Rng(1, ROWS), sampling=settings(prior, guidance=1.0)).codes
    assert not torch.allclose(free, plain, atol=1e-3)


@pytest.mark.usefixtures("worth")
def test_cached_and_uncached_draws_are_equal(causal):
    close(sample(causal, cache=False), sample(causal))


def test_a_shorter_sample_is_the_beginning_of_a_longer_one(causal):
    short = sample(causal, lengths=torch.full((4,), 4))
    close(short, sample(causal, lengths=torch.full((4,), LENGTH))[:, :4])


@pytest.mark.parametrize("passes", [1, 3, 7, 40])
def test_every_token_is_drawn_once_in_any_number_of_passes(mar, passes, monkeypatch):
    drawn = []
    own = Denoiser.sample
    monkeypatch.setattr(Denoiser, "sample", lambda self, z, *rest: drawn.append(len(z)) or own(self, z, *rest))
    found = sample(mar, passes=passes)
    assert sum(drawn) == int(LENGTHS.sum())
    assert len(drawn) <= min(passes, LENGTH)
    assert (found[prefix(LENGTHS, LENGTH)] != 0).all()


def test_masks_fall_along_a_cosine_one_at_least_each_pass():
    masked, told = torch.tensor([100, 3]), []
    for step in range(4):
        masked = left_masked(torch.tensor([100, 3]), masked, (step + 1) / 4)
        told.append(masked.tolist())
    assert told == [[92, 2], [70, 1], [38, 1], [0, 0]]


# --- what is seen ------------------------------------------------------------------------------------------------


def test_a_token_is_told_of_those_before_it_alone(causal):
    values = tokens().codes
    other = values.clone()
    other[:, 3] += 1
    with torch.no_grad():
        one, two = causal.said(values[:, :-1], LABELS), causal.said(other[:, :-1], LABELS)
    torch.testing.assert_close(one[:, :4], two[:, :4])
    assert ((one - two)[:, 4:].abs().amax((1, 2)) > 1e-4).all()


def test_masked_tokens_are_seen_by_none_and_others_by_all(mar):
    codes = tokens(torch.tensor([7, 6, 5, 5]))
    masked = torch.zeros_like(codes.keep)
    masked[:, [0, 3]] = True
    with torch.no_grad():
        one = mar.said(codes.codes, masked, codes.keep, LABELS)
        for changed, same in ((masked, True), (~codes.keep, True), (codes.keep & ~masked, False)):
            other = torch.where(changed[..., None], codes.codes + 1, codes.codes)
            two = mar.said(other, masked, codes.keep, LABELS)
            assert torch.allclose(one[masked], two[masked], atol=1e-6) == same


def test_training_masks_as_many_as_it_says(mar):
    keep = prefix(torch.tensor([7] * 300 + [1] * 100), 7)
    counts = mar.choose_masked(keep, Rng(0, torch.arange(400))).sum(1)
    assert (counts[300:] == 1).all()
    assert counts[:300].min() == 5  # of 0.7 x 7, up
    assert (counts[:300] == 7).float().mean() > 0.3


def test_losses_are_of_the_masked_tokens_and_of_many_copies(mar):
    codes = tokens()
    with torch.no_grad():
        losses = mar(codes, condition(), rng=Rng(0, ROWS))
    assert losses.keys() == {"noise", "variance"}
    assert all(loss.shape == (4,) and loss.isfinite().all() for loss in losses.values())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"type": "mar", "width": 10, "heads": 3}, "width 10 is not divisible by its 3 heads"),
        ({"type": "causal-denoising", "width": 10, "heads": 3}, "width 10 is not divisible by its 3 heads"),
        ({"type": "mar", "least_masked": 1.5}, "least_masked"),
    ],
)
def test_sizes_that_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        GeneratorConfig.read({"length": 4, "dim": 2, "prior": fields})


# --- chains against closed forms ---------------------------------------------------------------------------------

MEAN, DEVIATION = 1.5, 0.4


class Known(Denoiser):
    """A head that knows that tokens are normal, of this mean and deviation."""

    def forward(self, x, times, z):
        time = times[:, None]
        if self.config.process == "flow":
            spread = time**2 * DEVIATION**2 + (1 - time) ** 2
            data = MEAN + time * DEVIATION**2 / spread * (x - time * MEAN)
            noise = (1 - time) / spread * (x - time * MEAN)
            return data - noise
        bars = self.diffusion.bars.float()[times.long()][:, None]
        noise = (1 - bars).sqrt() * (x - bars.sqrt() * MEAN) / (bars * DEVIATION**2 + 1 - bars)
        return torch.cat([noise, torch.full_like(noise, -1.0)], -1)


@pytest.mark.parametrize(
    ("config", "sampling"),
    [
        (CausalDenoisingConfig.sized("tiny"), CausalDenoisingSampling(steps=100)),
        (MARConfig.sized("tiny"), MARSampling(steps=100)),
    ],
    ids=["flow", "diffusion"],
)
def test_a_chain_comes_to_what_the_head_knows(config, sampling):
    head, count = Known(config, 2, 8), 4000
    noise = head.draws(Rng(0, torch.arange(1)), "noise", count, sampling)[0]
    drawn = head.sample(torch.zeros(count, 8), None, 1.0, noise, sampling)
    assert drawn.mean() == pytest.approx(MEAN, abs=0.03)
    assert drawn.std() == pytest.approx(DEVIATION, abs=0.03)
    cold = head.sample(torch.zeros(count, 8), None, 1.0, noise, sampling.model_copy(update={"temperature": 0.0}))
    assert cold.std() < drawn.std()


def test_a_head_that_knows_nothing_has_the_losses_of_its_noise():
    for kind, expected in (("causal-denoising", {"velocity": 2.0}), ("mar", {"noise": 1.0})):
        config = {"causal-denoising": CausalDenoisingConfig, "mar": MARConfig}[kind].sized("tiny")
        head, rows = Denoiser(config, 4, 8), torch.arange(200)
        values = Rng(2, rows).normal("values", (5, 4))
        keep = prefix(1 + rows % 5, 5)
        padded = torch.where(keep[..., None], values, 1e3)
        with torch.no_grad():
            losses, again = (head.losses(x, torch.zeros(200, 5, 8), keep, Rng(0, rows)) for x in (values, padded))
        for name, value in expected.items():
            assert losses[name].mean() == pytest.approx(value, abs=0.1)
        for name, loss in losses.items():
            assert loss.isfinite().all()
            torch.testing.assert_close(again[name], loss)


@pytest.mark.parametrize(("card", "millions"), [("mar/b", 208), ("mar/l", 478), ("mar/h", 942)])
def test_sizes_are_the_published_ones(card, millions):
    config = cards().get(card).described
    with torch.device("meta"):
        model = Generator(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
