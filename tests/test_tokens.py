"""The values that travel."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from flexframe.tokens import Batch, Tokens, prefix


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
