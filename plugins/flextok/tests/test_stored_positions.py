"""The reference's stored tables of positions, and the null condition of a single token."""

import math

import pytest
import torch
import torch.nn.functional as F

from flexframe.tokens import Tokens, prefix
from flexframe_flextok import FlowDecoderConfig, FlowSampling
from flexframe_flextok.blocks import PatchEmbed, sincos, stored_table
from flexframe_flextok.decoder import FlowDecoder
from flexframe_registry import ConfigError, LatentSpec, Spec, TokenizerConfig, TokenSpec


def table(rows, columns, dim):
    """Cell by cell in Python's floats: numbered column by column, each number then read as one of row by row."""
    quarter = dim // 4
    omega = [10000 ** (-k / quarter) for k in range(quarter)]
    numbered = [(x, y) for x in range(columns) for y in range(rows)]
    cells = [[f(at * o) for at in cell for f in (math.sin, math.cos) for o in omega] for cell in numbered]
    return torch.tensor(cells, dtype=torch.float64).reshape(rows, columns, dim)


@pytest.mark.parametrize(("rows", "columns", "dim"), [(16, 16, 768), (4, 6, 8), (6, 4, 16), (1, 5, 64)])
def test_a_stored_table_is_the_formula(rows, columns, dim):
    torch.testing.assert_close(stored_table(rows, columns, dim).double(), table(rows, columns, dim), atol=2e-6, rtol=0)


def test_only_square_tables_are_the_coordinates_of_their_cells():
    torch.testing.assert_close(stored_table(8, 8, 32), sincos(8, 8, 32), atol=1e-6, rtol=0)
    assert (stored_table(4, 6, 32) - sincos(4, 6, 32)).abs().max() > 0.5


def test_a_table_is_cropped_or_stretched():
    whole = stored_table(4, 6, 16)
    cropped = PatchEmbed(3, 16, 2, (2, 5), stretch=False, table=(4, 6))
    assert torch.equal(cropped.positions, whole[:2, :5])
    assert torch.equal(cropped.place(4, 6, 16), whole)
    with pytest.raises(ValueError, match=r"5 x 5 patches have no positions in a table of 4 x 6; set `positions"):
        cropped.place(5, 5, 16)
    stretched = PatchEmbed(3, 16, 2, (8, 3), stretch=True, table=(4, 6))
    expected = F.interpolate(whole.permute(2, 0, 1)[None], size=(8, 3), mode="bilinear", align_corners=True)
    torch.testing.assert_close(stretched.positions, expected[0].permute(1, 2, 0))
    assert torch.equal(stretched.place(4, 6, 16), whole)


def test_a_grid_too_small_for_the_images_is_refused_when_the_config_is_read():
    def read(**trunk):
        encoder, decoder = {"type": "registers", **trunk}, {"type": "flow", **trunk}
        parts = {"encoder": encoder, "quantizer": "fsq", "masker": "pow2", "decoder": decoder}
        return TokenizerConfig.read({"size": "tiny", "image_size": 16, "length": 8, **parts})

    with pytest.raises(ConfigError, match=r"4 x 4 patches have no positions in `grid` 4 x 3; set `positions: interp"):
        read(grid=(4, 3))
    with pytest.raises(ConfigError, match="at least one row"):
        read(grid=(4, 0))
    assert read(grid=(4, 3), positions="interpolate").encoder.grid == (4, 3)
    assert read(grid=(4, 5)).decoder.grid == (4, 5)


# --- the null condition of a single token ------------------------------------------------------------------------


def decoder(single, masked=True, slots=4):
    torch.manual_seed(0)
    config = FlowDecoderConfig(width=16, depth=2, head_dim=8, patch=2, single_null=single)
    found = FlowDecoder(config, Spec(LatentSpec(3, 4, 4, None), 8, TokenSpec(slots, 6, 1, 64, masked)))
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found.eval()


def tokens(slots=4, lengths=(4, 2, 4)):
    values = torch.randn(len(lengths), slots, 6, generator=torch.Generator().manual_seed(1))
    return Tokens(values, prefix(torch.tensor(lengths), slots), torch.zeros(len(lengths), slots, 1, dtype=torch.long))


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
def test_a_single_null_token_is_one_token_only(masked):
    part, given, null = decoder(True, masked), tokens(), torch.tensor([True, False, True])
    x, times = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(2)), torch.full((3,), 0.5)
    found, _ = part.velocity(x, times, part.registers(given, null), given.keep, frozenset(), null)
    # the null rows again, from a sequence that really has one token
    alone = part.null_condition.expand(3, 1, -1)
    one, _ = part.velocity(x, times, alone, given.keep[:, :1])
    torch.testing.assert_close(found[null], one[null])
    usual, _ = part.velocity(x, times, part.registers(given, None), given.keep)
    torch.testing.assert_close(found[~null], usual[~null])
    for_each, _ = part.velocity(x, times, part.registers(given, null), given.keep)
    assert (found[null] - for_each[null]).abs().max() > 1e-3


@torch.no_grad()
def test_guidance_uses_the_single_null_token():
    part, given = decoder(True), tokens()
    noise, times = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(2)), torch.ones(3)
    null = torch.ones(3, dtype=torch.bool)
    guided, _ = part.velocity(noise, times, part.registers(given, None), given.keep)
    unguided, _ = part.velocity(noise, times, part.registers(given, null), given.keep, frozenset(), null)
    found = part.integrate(given, noise, FlowSampling(steps=1, guidance=3.0))
    torch.testing.assert_close(found, noise - (unguided + 3 * (guided - unguided)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("source", "own", "told"),
    [
        # what the weights know (cells, positions, grid), what takes them, and the table that it then has or an error
        (((4, 4), "absolute", None), ((8, 8), "absolute", None), None),
        (((4, 4), "absolute", None), ((4, 4), "interpolate", None), None),
        (((4, 4), "absolute", None), ((8, 8), "interpolate", None), (4, 4)),
        (((4, 4), "interpolate", None), ((8, 8), "interpolate", (4, 4)), (4, 4)),
        (((4, 4), "absolute", None), ((8, 8), "interpolate", (6, 6)), r"`grid` is 6 x 6.* set `grid` to \[4, 4\]"),
        (((4, 4), "absolute", (6, 6)), ((8, 8), "interpolate", None), (4, 4)),
        (((8, 8), "interpolate", (4, 4)), ((6, 6), "interpolate", None), (4, 4)),
        (((8, 8), "interpolate", (4, 4)), ((8, 8), "absolute", None), r"4 x 4, stretched to 8 x 8; set `positions: in"),
        (((4, 6), "absolute", None), ((4, 6), "interpolate", None), None),
        (((4, 6), "absolute", None), ((8, 8), "interpolate", None), "of 4 x 6, and cannot be stretched"),
        (((4, 6), "absolute", (4, 6)), ((8, 8), "interpolate", None), (4, 6)),
        (((4, 4), "absolute", (4, 6)), ((8, 8), "interpolate", None), "of 4 x 6, and cannot be stretched"),
        (((4, 4), "absolute", (4, 6)), ((4, 4), "absolute", None), (4, 6)),
    ],
)
def test_weights_bring_the_table_that_they_were_trained_with(source, own, told):
    def made(cells, positions, grid):
        latents = LatentSpec(3, 2 * cells[0], 2 * cells[1])
        config = FlowDecoderConfig(width=16, head_dim=8, patch=2, positions=positions, grid=grid)
        return config, Spec(latents, 16, TokenSpec(4, 3))

    (config, here), (given, there) = made(*own), made(*source)
    if isinstance(told, str):
        with pytest.raises(ValueError, match=told):
            config.following(given, there, here)
    else:
        assert config.following(given, there, here).grid == told
