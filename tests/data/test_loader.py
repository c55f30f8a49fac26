"""Batches: a seeded order that any step can be entered at, and transforms that go with the sample."""

import pytest
import torch

from flexframe.data.held import hold
from flexframe.data.loader import batches, order, split
from flexframe.data.share import Share
from flexframe.data.source import Sample, Source
from flexframe.data.transform import transformed
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe_registry import RunConfig, catalogue
from flexframe_registry.kinds import SourceConfig
from flexframe_registry.slots import resolve

CPU = torch.device("cpu")


class Numbered(Source):
    """Image i holds the number i everywhere."""

    def __init__(self, count):
        super().__init__(SourceConfig(type="numbered"), (2, 2))
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Sample(torch.full((3, 2, 2), index, dtype=torch.uint8), None, str(index))

    def protocol(self):
        return {}


def run(**fields):
    return RunConfig.read({"data": "digits", "batch_size": 4, "steps": 11, **fields})


MOVES = ("flip", {"type": "shift", "pixels": 1})


def built(*transforms):
    return [catalogue().build(resolve("transform", each)) for each in transforms]


def steps(config, count=10, start=0, moves=(), workers=0):
    return list(batches(Numbered(count), config, start, CPU, transforms=built(*moves), workers=workers))


def indices(config, **where):
    return torch.cat([batch.index for batch in steps(config, **where)])


# --- order -------------------------------------------------------------------------------------------------------


def test_every_epoch_is_a_permutation_of_its_own():
    found = indices(run())
    epochs = found[:40].reshape(4, 10)
    assert torch.equal(epochs.sort(1).values, torch.arange(10).expand(4, 10))
    assert len(epochs.unique(dim=0)) == 4
    for epoch in range(4):
        assert torch.equal(epochs[epoch], order(0, epoch, 10))


def test_another_seed_is_another_order():
    assert not torch.equal(indices(run(seed=1)), indices(run()))


@pytest.mark.parametrize("start", [1, 3, 10])
def test_a_later_start_is_the_tail_of_the_whole(start):
    whole, tail = steps(run(), moves=MOVES), steps(run(), moves=MOVES, start=start)
    assert len(tail) == 11 - start
    for one, other in zip(whole[start:], tail, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.images, other.images)


def test_a_batch_may_be_larger_than_the_data():
    found = indices(run(batch_size=25, steps=2))
    assert torch.equal(found.reshape(5, 10).sort(1).values, torch.arange(10).expand(5, 10))


def test_a_batch_does_not_depend_on_the_number_of_workers():
    one, other = (steps(run(steps=5), moves=MOVES, workers=w) for w in (0, 1))
    assert len(one) == len(other) == 5
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.images, b.images)


def test_an_image_goes_with_its_number_and_lies_in_zero_to_one():
    for batch in steps(run()):
        assert batch.images.shape == (4, 3, 2, 2)
        assert torch.equal(batch.images[:, 0, 0, 0], batch.index.float() / 255)


# --- transforms ------------------------------------------------------------------------------------------------


@pytest.fixture
def images():
    return torch.rand(200, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def test_nothing_is_changed_unless_asked_for(images):
    assert torch.equal(transformed(images, (), Rng(0, torch.arange(200))), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_transforms_go_with_the_sample_and_the_step(images, dtype):
    images, moves, index = (images * 255).to(dtype), built(*MOVES), torch.arange(200)
    whole = transformed(images, moves, Rng(0, index, 3))
    assert whole.dtype == dtype
    some = transformed(images[[7, 150]], moves, Rng(0, torch.tensor([7, 150]), 3))
    assert torch.equal(some, whole[[7, 150]])
    assert not torch.equal(transformed(images, moves, Rng(0, index, 4)), whole)
    turned = transformed(images, moves[::-1], Rng(0, index, 3))
    assert not torch.equal(turned, whole)  # in the order in which they stand


def test_about_half_of_the_images_are_mirrored_and_the_rest_left(images):
    found = transformed(images, built("flip"), Rng(0, torch.arange(200)))
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    left = (found == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~left)
    assert 70 < mirrored.sum() < 130


def moved(image, down, right):
    """The image read `down` and `right` further on, edges repeated."""
    rows = [min(max(y + down, 0), image.shape[1] - 1) for y in range(image.shape[1])]
    columns = [min(max(x + right, 0), image.shape[2] - 1) for x in range(image.shape[2])]
    return image[:, rows][:, :, columns]


def test_shifts_move_by_each_amount_up_to_the_most_and_repeat_edges(images):
    found = transformed(images, built({"type": "shift", "pixels": 2}), Rng(0, torch.arange(200)))
    moves = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
    seen = set()
    for before, after in zip(images, found, strict=True):
        fits = [move for move in moves if torch.equal(moved(before, *move), after)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert seen == set(moves)


def test_transforms_leave_their_input_alone(images):
    before = images.clone()
    transformed(images, built(*MOVES), Rng(0, torch.arange(200)))
    assert torch.equal(images, before)


# --- parts -------------------------------------------------------------------------------------------------------


def test_a_batch_is_split_into_equal_parts_in_order(images):
    parts = split(Batch(torch.arange(200), images), 4)
    assert [len(part) for part in parts] == [50] * 4
    assert torch.equal(torch.cat([part.images for part in parts]), images)
    assert torch.equal(torch.cat([part.index for part in parts]), torch.arange(200))


# --- held on the device ------------------------------------------------------------------------------------------


def test_a_held_data_set_gives_the_same_batches():
    config, moves = run(steps=6), built(*MOVES)
    source = catalogue().build(resolve("source", "digits"), (8, 8))
    held = hold(source, CPU)
    assert held.images.dtype == torch.uint8
    ways = [batches(source, config, 2, CPU, share=Share(1, 2), held=each, transforms=moves) for each in (None, held)]
    for loaded, kept in zip(*ways, strict=True):
        assert torch.equal(loaded.index, kept.index)
        assert torch.equal(loaded.images, kept.images)
        assert torch.equal(loaded.condition.labels, kept.condition.labels)


def test_labels_that_are_not_there_are_held_as_such():
    held = hold(Numbered(5), CPU)
    assert held.rows([3, 1])[2].tolist() == [-1, -1]
    assert next(batches(Numbered(5), run(), 0, CPU, held=held)).condition is None
