"""The values that travel."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from flexframe.tokens import Batch, Condition, Tokens, prefix


def tokens(lengths, slots):
    values = torch.arange(len(lengths) * slots * 2.0).reshape(len(lengths), slots, 2)
    return Tokens(values, prefix(torch.tensor(lengths), slots), values[..., :1].long())


def test_a_prefix_is_true_up_to_its_length():
    found = prefix(torch.tensor([0, 2, 3]), 3)
    assert found.tolist() == [[False] * 3, [True, True, False], [True] * 3]


def test_lengths_count_what_is_present():
    assert tokens([1, 3], 4).lengths.tolist() == [1, 3]
    assert len(tokens([1, 3], 4)) == 2


def test_truncation_makes_really_shorter_tensors():
    found = tokens([1, 3], 4).truncate(2)
    assert found.values.shape == (2, 2, 2)
    assert found.codes.shape == (2, 2, 1)
    assert found.lengths.tolist() == [1, 2]
    assert torch.equal(found.values, tokens([1, 3], 4).values[:, :2])


def test_truncation_beyond_the_length_changes_nothing():
    assert tokens([1, 3], 4).truncate(9).values.shape == (2, 4, 2)


def test_no_token_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one token, not 0"):
        tokens([1], 4).truncate(0)


def test_tokens_cannot_be_reassigned():
    with pytest.raises(FrozenInstanceError):
        tokens([1], 2).values = torch.zeros(1, 2, 2)


def test_latents_are_laid_into_a_copy():
    batch = Batch(torch.arange(2), torch.zeros(2, 3, 4, 4))
    found = batch.with_latents(torch.ones(2, 5, 2, 2))
    assert found.latents is not None
    assert batch.latents is None
    assert found.index is batch.index


# --- as a sequence of rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "lengths"),
    [
        (0, [1]),
        (-1, [4]),
        (np.int64(1), [2]),
        (torch.tensor(-1), [4]),
        (slice(1, 3), [2, 3]),
        (slice(None, None, 2), [1, 3]),
        ([3, 0], [4, 1]),
        (torch.tensor([2, 2]), [3, 3]),
        (torch.tensor([True, False, False, True]), [1, 4]),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rows_are_taken_as_a_tensors_are_and_stay_a_batch(rows, lengths):
    whole = replace(tokens([1, 2, 3, 4], 4), size=(8, 8))
    found = whole[rows]
    assert found.lengths.tolist() == lengths
    assert found.values.shape[1:] == whole.values.shape[1:]
    assert found.size == (8, 8)
    if isinstance(rows, slice | list) or torch.as_tensor(rows).ndim:
        assert torch.equal(found.values, whole.values[rows])
        assert torch.equal(found.codes, whole.codes[rows])


@pytest.mark.parametrize(
    ("rows", "words"), [(4, "row 4 of 4"), (-5, "row -5 of 4"), ((slice(None), slice(2)), "truncate")]
)
@pytest.mark.usefixtures("unchecked")
def test_rows_that_are_not_there_and_slots_are_told(rows, words):
    with pytest.raises(IndexError, match=words):
        tokens([1, 2, 3, 4], 4)[rows]


def test_tokens_are_walked_through_row_by_row():
    assert [each.lengths.tolist() for each in tokens([1, 3], 4)] == [[1], [3]]


def test_parts_of_other_lengths_are_one_batch():
    one, other = tokens([1, 2], 2), tokens([4], 4)
    found = Tokens.cat([one, other])
    assert found.lengths.tolist() == [1, 2, 4]
    assert found.values.shape == (3, 4, 2)
    assert torch.equal(found[2].values, other.values)
    assert torch.equal(found[:2].truncate(2).codes, one.codes)
    assert Tokens.cat([one[i] for i in range(2)]).lengths.tolist() == [1, 2]


def test_parts_of_images_of_other_sizes_and_none_are_not_joined():
    with pytest.raises(ValueError, match="of images of one size"):
        Tokens.cat([replace(tokens([1], 2), size=size) for size in ((8, 8), (16, 16))])
    with pytest.raises(ValueError, match="not of nothing"):
        Tokens.cat([])


def test_tokens_are_moved_whole_and_cast_by_their_values():
    given = replace(tokens([1, 3], 4), size=(8, 8))
    moved = given.to("meta")
    assert {moved.values.device.type, moved.keep.device.type, moved.codes.device.type} == {"meta"}
    assert moved.size == (8, 8)
    cast = given.to(torch.float64)
    assert (cast.values.dtype, cast.codes.dtype, cast.keep.dtype) == (torch.float64, torch.long, torch.bool)
    continuous = replace(given, codes=given.values)
    assert continuous.to(torch.float64).codes.dtype == torch.float64


@pytest.mark.parametrize(
    "given",
    [
        tokens([1, 3], 4),
        replace(tokens([300], 300), size=(8, 8)),
        replace(tokens([2], 2), codes=torch.zeros(1, 2, 8).long()),
        tokens([2], 2)[:0],
    ],
    ids=["usual", "long", "wide", "none"],
)
def test_tokens_print_two_lines(given):
    lines = repr(given).splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 160 for line in lines)
    assert lines[0].startswith(f"Tokens of {len(given)} images: ")
    assert ("8 x 8 pixels" in lines[0]) == (given.size is not None)


def test_a_condition_in_parts_is_the_condition():
    texts = ("a", None, "c", "d", "e")
    present = torch.tensor([[True, False], [True, True], [True, False], [True, True], [False, True]])
    whole = Condition(torch.arange(5) == 1, torch.arange(5), torch.rand(5, 2, 3), present, torch.rand(5, 4), texts)
    parts = whole.chunk(2)
    assert [part.texts for part in parts] == [texts[:3], texts[3:]]
    for name in ("null", "labels", "embeddings", "present", "pooled"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
