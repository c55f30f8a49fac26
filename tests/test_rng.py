"""Counter-based draws: the published answers, and that a row depends on nothing but itself."""

import pytest
import torch

from flexframe.rng import Rng, as_rng, philox

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, answer):
    found = philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in found) == answer


DRAWS = {
    "uniform": lambda rng: rng.uniform("a", (5, 3)),
    "normal": lambda rng: rng.normal("a", (5, 3)),
    "integers": lambda rng: rng.integers("a", 1000, (5, 3)),
}


@pytest.fixture(params=list(DRAWS))
def draw(request):
    return DRAWS[request.param]


class Operators(torch.Tensor):
    """A tensor whose draws go through torch's operators, as on a GPU."""


@pytest.mark.parametrize(("rows", "width"), [(3, 1), (3, 70001), (40000, 2), (20, 5000), (0, 4)])
def test_tiles_give_what_operators_give(rows, width):
    index = torch.arange(rows) * 1_000_003 - 5
    tiled, plain = (Rng(2**63 + 5, each, -3) for each in (index, index.as_subclass(Operators)))
    for drawn, expected in (
        (tiled.integers("a", 2**31, (width,)), plain.integers("a", 2**31, (width,))),
        (tiled.uniform("a", (width,)), plain.uniform("a", (width,))),
        (tiled.normal("a", (width,)), plain.normal("a", (width,))),
    ):
        assert torch.equal(drawn, expected.as_subclass(torch.Tensor))


@pytest.mark.parametrize(("rows", "width"), [(3, 70001), (20, 5), (0, 4)])
def test_draws_of_several_purposes_are_those_of_each(rows, width):
    rng, names = Rng(7, torch.arange(rows) * 1_000_003 - 5, 9), ("a", "b", "c/d.12")
    expected = torch.stack([rng.uniform(name, (width,)) for name in names])
    for index in (rng.index, rng.index.as_subclass(Operators)):
        found = Rng(7, index, 9).uniforms(names, (width,)).as_subclass(torch.Tensor)
        assert torch.equal(found, expected)


def test_draws_write_over_nothing_that_was_drawn():
    rng = Rng(0, torch.arange(3))
    before = rng.normal("a", (5,))
    kept = before.clone()
    rng.uniform("b", (5,))
    assert torch.equal(before, kept)
    assert torch.equal(rng.index, torch.arange(3))


def test_a_row_does_not_depend_on_its_batch(draw):
    whole = draw(Rng(3, torch.arange(100), 7))
    some = draw(Rng(3, torch.tensor([42, 7, 42]), 7))
    assert torch.equal(some, whole[[42, 7, 42]])


def test_other_seeds_samples_steps_and_purposes_are_other_draws(draw):
    index = torch.arange(4)
    found = [
        draw(Rng(0, index, 0)), draw(Rng(1, index, 0)), draw(Rng(1 << 32, index, 0)), draw(Rng(0, index, 1)),
        draw(Rng(0, index + 4, 0)),
    ]  # fmt: skip
    rows = torch.cat(found).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    one, other = Rng(0, index).uniform("a", (8,)), Rng(0, index).uniform("b", (8,))
    assert not torch.isin(one, other).all()


def test_other_steps_and_rows_of_one_rng_are_those_of_a_new_one(draw):
    rng = Rng(5, torch.arange(3), 2)
    assert torch.equal(draw(rng.at(9)), draw(Rng(5, torch.arange(3), 9)))
    assert torch.equal(draw(rng.rows(torch.tensor([8]))), draw(Rng(5, torch.tensor([8]), 2)))


def test_a_shared_draw_has_one_row_whatever_the_batch(draw):
    one, other = Rng(5, torch.tensor([3, 4]), 2).shared(), Rng(5, torch.tensor([9]), 2).shared()
    assert len(draw(one)) == 1
    assert torch.equal(draw(one), draw(other))


def test_a_smaller_shape_is_the_beginning_of_a_larger_one():
    rng = Rng(0, torch.arange(3))
    assert torch.equal(rng.normal("a", (3,)), rng.normal("a", (50,))[:, :3])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5,), (2, 3), (0,)])
def test_draws_have_the_shape_asked_for(shape):
    rng = Rng(0, torch.arange(3))
    assert rng.uniform("a", shape).shape == rng.normal("a", shape).shape == rng.integers("a", 9, shape).shape
    assert rng.uniform("a", shape).shape == (3, *shape)
    assert rng.uniform("a", shape).dtype == rng.normal("a", shape).dtype == torch.float32
    assert rng.integers("a", 9, shape).dtype == torch.int64


def test_an_empty_batch_has_no_draws():
    assert Rng(0, torch.arange(0)).normal("a", (3,)).shape == (0, 3)


def test_uniforms_are_uniform_below_one():
    x = Rng(1, torch.arange(1000)).uniform("a", (400,)).double()
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 0.002
    assert abs(x.var() - 1 / 12) < 0.001
    counts = torch.histc(x.float(), 20, 0, 1)
    assert (counts / counts.mean() - 1).abs().max() < 0.03


def test_normals_are_standard_and_uncorrelated():
    x = Rng(1, torch.arange(1000)).normal("a", (400,)).double()
    assert x.isfinite().all()
    moments = [x.mean(), x.var(), x.pow(3).mean(), x.pow(4).mean()]
    for found, expected, close in zip(moments, (0, 1, 0, 3), (0.007, 0.01, 0.02, 0.06), strict=True):
        assert abs(found - expected) < close
    # neighbours within a row, and rows of neighbouring samples
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 0.01
    assert abs((x[1:] * x[:-1]).mean()) < 0.01


@pytest.mark.parametrize("high", [1, 2, 3, 10, 1000])
def test_integers_fill_their_range_evenly(high):
    x = Rng(2, torch.arange(1000)).integers("a", high, (200,))
    counts = torch.bincount(x.flatten(), minlength=high).double()
    assert len(counts) == high
    assert x.min() >= 0
    expected = x.numel() / high
    chi = ((counts - expected).square() / expected).sum()
    assert chi < high + 5 * (2 * high) ** 0.5


def test_integers_reach_up_to_two_to_the_31():
    x = Rng(2, torch.arange(100)).integers("a", 2**31, (100,))
    assert 2**31 * 0.999 < x.max() < 2**31


@pytest.mark.parametrize("high", [0, -1, 2**31 + 1])
def test_a_bound_out_of_range_is_refused(high):
    with pytest.raises(ValueError, match=rf"a bound in 1\.\.2\*\*31, not {high}"):
        Rng(0, torch.arange(1)).integers("a", high)


# --- at the border -----------------------------------------------------------------------------------------------


def test_none_is_seed_zero():
    assert torch.equal(as_rng(None, 3, CPU).normal("a"), as_rng(0, 3, CPU).normal("a"))
    assert torch.equal(as_rng(7, 3, CPU).normal("a"), Rng(7, torch.arange(3)).normal("a"))


def test_a_generator_gives_a_seed_of_its_own_each_time():
    first, again = (torch.Generator().manual_seed(1) for _ in range(2))
    one = as_rng(first, 3, CPU)
    assert one.seed == as_rng(again, 3, CPU).seed
    assert one.seed != as_rng(first, 3, CPU).seed


def test_an_rng_is_taken_as_it_is_if_its_rows_fit():
    rng = Rng(3, torch.tensor([5, 6]))
    assert as_rng(rng, 2, CPU) is rng
    with pytest.raises(ValueError, match="the rng has 2 rows, the batch 3"):
        as_rng(rng, 3, CPU)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, "a"])
@pytest.mark.usefixtures("unchecked")
def test_seeds_that_would_be_taken_for_others_are_refused(seed):
    for make in (lambda: Rng(seed, torch.arange(2)), lambda: as_rng(seed, 2, torch.device("cpu"))):
        with pytest.raises(ValueError, match="a seed is a whole number of at most 64 bits, not"):
            make()
