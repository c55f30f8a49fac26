"""Best and worst images: the right ones, and the pictures that were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexframe.bench import extremes
from flexframe.bench.runner import run

TOY = {
    "measures": {"usage": {"better": None}, "psnr": {"better": "higher"}, "lpips": {"better": "lower"}},
    "per_image": {
        "a": {"2": {"psnr": [0.0] * 6}, "10": {"usage": [9.0] * 6, "psnr": [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]}},
        "b": {"4": {"lpips": [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]}},
        "c": {"4": {}},
    },
}


def test_ranks_are_at_the_most_tokens_and_follow_the_direction() -> None:
    a, b = extremes.rank(TOY, each=2)
    assert (a.model, a.budget, a.measure, a.best, a.worst) == ("a", 10, "psnr", [3, 4], [1, 2])
    assert (b.model, b.budget, b.measure, b.best, b.worst) == ("b", 4, "lpips", [1, 2], [3, 4])
    assert extremes.positions(TOY, each=2) == [1, 2, 3, 4]
    assert extremes.rank(TOY, each=50)[0].best == [3, 4, 5]


def test_pictures_made_again_are_those_that_were_measured(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    report = run(suite("psnr", show=2), [("a", tokenizer()), ("b", tokenizer("full"))], tmp_path, batch_size=7)
    further = report.images.further
    assert further is not None
    ranked = {i for r in extremes.rank(report.results) for i in (*r.best, *r.worst)}
    assert set(further.numbers) == ranked - {0, 1}
    for name, rows in further.fake.items():
        for k, pictures in rows.items():
            mse = (pictures.double() - further.real.double()).square().flatten(1).mean(1)
            values = torch.tensor(report.results["per_image"][name][str(k)]["psnr"])[list(further.numbers)]
            # measured before rounding to 8 bits
            assert torch.allclose((10 * torch.log10(255**2 / mse)).float(), values.float(), atol=0.05)


@pytest.mark.parametrize("show", [0, 40])
def test_nothing_is_made_twice_where_all_or_no_images_are_shown(
    tokenizer: Any, suite: Any, tmp_path: Path, show: int
) -> None:
    assert run(suite("psnr", show=show), [("a", tokenizer())], tmp_path).images.further is None
