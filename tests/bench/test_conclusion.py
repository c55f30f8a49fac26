"""The sentence that the page opens with, on forged numbers: what it says, and what it leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flexframe.bench.report import verdicts
from flexframe.bench.report.conclusion import conclusion
from flexframe.bench.report.numbers import Numbers

from .test_report import forged

BASE = np.random.default_rng(0).normal(0, 3, 200)
BASE += 20 - BASE.mean()
NOISE = np.random.default_rng(1).normal(0, 1, 200)
NOISE -= NOISE.mean()


def concluded(values: Mapping[str, Mapping[int, tuple[float | None, float | None]]], better: str = "higher") -> str:
    """The conclusion on models by their bits, and how much better than 20 each is; None for one that is not decided."""
    lanes = {
        name: {k: (bits, list(BASE + (NOISE if more is None else more))) for k, (bits, more) in own.items()}
        for name, own in values.items()
    }
    numbers = Numbers(forged(lanes, better))
    return conclusion(numbers, verdicts.judge(numbers))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (  # a clear win at each length that two share, and one goes below
            {"a": {1: (16.0, -9), 4: (64.0, -4), 8: (128.0, -2)}, "b": {4: (64.0, 1), 8: (128.0, 3)}},
            "only a makes a picture of fewer than 4 tokens (11.00 at 1); b is better than a at 4 to 8 tokens "
            "(21.00 to 23.00 against 16.00 to 18.00)",
        ),
        (  # curves that cross, and a length at which they are equal
            {"a": {1: (16.0, 2), 4: (64.0, None), 16: (256.0, 3)}, "b": {1: (16.0, 0), 4: (64.0, 0), 16: (256.0, 6)}},
            "a is better than b at 1 token (22.00 against 20.00); a and b are not told apart at 4 tokens "
            "(20.00 and 20.00); b is better than a at 16 tokens (26.00 against 23.00)",
        ),
        (  # intervals of the difference that hold zero
            {"a": {4: (64.0, None)}, "b": {4: (64.0, 0)}},
            "a and b are not told apart at 4 tokens (20.00 and 20.00)",
        ),
        (
            {"a": {4: (64.0, 4)}, "b": {8: (128.0, 1)}},
            "no two models spend equal tokens or bits; a 24.00 at 4 tokens; "
            "b 21.00 at 8 tokens; a is better than b for fewer bits (64 bits an image against 128)",
        ),
        (
            {"a": {4: (64.0, 1)}, "b": {8: (128.0, 1)}},
            "no two models spend equal tokens or bits, so that nothing is decided between them; a 21.00 at 4 tokens; "
            "b 21.00 at 8 tokens",
        ),
        (
            {"a": {4: (64.0, 2)}, "b": {4: (48.0, 0)}},
            "a is better than b at 4 tokens (22.00 against 20.00, 64 against 48 bits)",
        ),
        (
            {"a": {4: (64.0, 2)}, "b": {8: (64.0, 0)}},
            "only a makes a picture of fewer than 8 tokens (22.00 at 4); "
            "a is better than b at 64 bits, 4 and 8 tokens (22.00 against 20.00)",
        ),
        (
            {"a": {4: (64.0, 2)}, "b": {4: (64.0, 0)}, "c": {4: (64.0, 1)}},
            "a is the best of 3 models at 4 tokens (22.00 against 21.00 of c)",
        ),
        (
            {"a": {4: (64.0, 2)}, "b": {4: (64.0, 0)}, "c": {4: (64.0, 2)}},
            "a and c are not told apart from each other, ahead of the rest, at 4 tokens",
        ),
        (
            {
                "a": {1: (16.0, 2), 2: (32.0, 0), 4: (64.0, 2), 8: (128.0, None), 16: (256.0, 2)},
                "b": {1: (16.0, 0), 2: (32.0, 2), 4: (64.0, 0), 8: (128.0, 0), 16: (256.0, 0)},
            },
            "models meet at 5 numbers of tokens or bits, and the best is a at 3 of them, b at 1 of them, "
            "nobody at 1, which are not decided",
        ),
    ],
)  # fmt: skip
def test_the_page_opens_with_what_the_numbers_decide(values: Any, told: str) -> None:
    assert concluded(values) == f"On these images, by M: {told}."


def test_the_conclusion_on_one_model_says_whether_tokens_help() -> None:
    assert concluded({"a": {1: (16.0, 0), 8: (128.0, 3)}}) == (
        "On these images, the M of a is 20.00 at 1 token and 23.00 at 8 tokens: more tokens help."
    )
    assert concluded({"a": {1: (16.0, 0), 8: (128.0, 3)}}, "lower").endswith("23.00 at 8 tokens: more tokens harm.")
    open_ = concluded({"a": {1: (16.0, 0), 8: (128.0, None)}})
    assert open_.endswith("and 20.00 at 8 tokens, and whether more tokens help is not decided.")
    assert "the M of a is 20.00 at 8 tokens (95 % interval 19." in concluded({"a": {8: (128.0, 0)}})


def test_the_conclusion_names_what_speaks_against_it_ceilings_and_what_cannot_be_decided() -> None:
    results = forged({"a": {4: (64.0, list(BASE + 2))}, "b": {4: (64.0, list(BASE))}, "c": {9: (None, list(BASE + 5))}})
    judged = {"n": ("Shape right", 3.0), "o": ("Hue right", 2.0), "p": ("Count right", -4.0), "q": ("Light right", 0.0)}
    for name, (label, better) in judged.items():
        about = {**results["measures"]["m"], "by": "other judge", "unit": "%", "digits": 1}
        about["label"] = f"{label}, other judge"
        results["measures"][name] = about
        for model, more in (("a", 0.0), ("b", better)):
            values = list(BASE + more)
            results["models"][model]["budgets"]["4"]["metrics"][name] = {
                "value": float(np.mean(values)),
                "protocol": "q.u",
            }
            results["per_image"][model]["4"][name] = values
    results["models"]["c"]["codec_is"] = None
    for model in "ab":
        results["models"][model]["codec_is"] = "c"
    numbers = Numbers(results)
    assert conclusion(numbers, verdicts.judge(numbers)) == (
        "On these images, by M: a is better than b at 4 tokens (22.00 against 20.00), ahead in 1 and behind in 2 of "
        "the 4 other numbers (shape and hue as the other judge reads them); c, the codec of the others, bounds them at "
        "25.00."
    )
    without = Numbers({**results, "per_image": {name: {} for name in "abc"}})
    told = conclusion(without, verdicts.judge(without))
    assert told.startswith("On these images, by M: there are no intervals of M, so that nothing is decided")
    for model in results["models"].values():
        for entry in model["budgets"].values():
            entry["metrics"] = {"m": {"value": None, "why": "no weights"}}
    nothing = Numbers({**results, "protocol": {"count": 1}})
    assert conclusion(nothing, verdicts.judge(nothing)) == (
        "Nothing could be measured of a, b and c on one image; why, stands with each number below."
    )
