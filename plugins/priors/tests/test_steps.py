"""How weights lie for a draw."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flexframe_priors import steps


@pytest.mark.parametrize("rows", [1, 2])
def test_a_copy_has_the_same_values_and_matrices_of_one_row_lie_by_input(rows: int) -> None:
    layer = nn.Sequential(nn.Linear(70, 90), nn.LayerNorm(90), nn.Linear(90, 70, bias=False))
    copy = steps.laid(layer, rows, steps.WORTH)
    assert copy is not layer
    for name, own in layer.named_parameters():
        other = copy.get_parameter(name)
        assert torch.equal(own, other)
        assert other.data_ptr() != own.data_ptr()
        assert other.T.is_contiguous() if own.ndim == 2 and rows == 1 else other.is_contiguous()
    x = torch.randn(rows, 70)
    assert torch.allclose(copy(x), layer(x), atol=1e-6)


def test_modules_stay_as_they_are_where_a_copy_does_not_pay() -> None:
    layer = nn.Linear(8, 8)
    assert steps.laid(layer, 1, steps.WORTH - 1) is layer
    assert steps.laid(layer, 2, steps.WORTH // 2) is not layer
