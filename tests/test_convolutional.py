"""Convolutions that are done in another way than they are written down, at equal outputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flexframe.nn import convolutional
from flexframe.nn.convolutional import convolved_double


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8)])
def test_a_convolution_of_doubled_cells_is_folded(size: tuple[int, int], bias: bool, monkeypatch) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, 3, padding=1, bias=bias).double(), torch.randn(2, 4, *size, dtype=torch.float64)
    wanted = conv(F.interpolate(x, scale_factor=2.0))
    monkeypatch.setattr(convolutional.F, "interpolate", lambda *a, **k: 1 / 0)
    monkeypatch.setattr(convolutional, "FOLDED", 0)
    with torch.no_grad():
        torch.testing.assert_close(convolved_double(x, conv), wanted, rtol=0, atol=1e-13)
    with pytest.raises(ZeroDivisionError):  # where gradients are asked for, as it is written
        convolved_double(x, conv)
    monkeypatch.setattr(convolutional, "FOLDED", size[0] * size[1] + 1)
    with torch.no_grad(), pytest.raises(ZeroDivisionError):
        convolved_double(x, conv)
