"""Settings of use as a command line has them."""

from typing import Literal

import pytest
from pydantic import Field

from flexframe_registry import ConfigError, SamplingConfig
from flexframe_registry.options import read_settings, settings_of


class Drawing(SamplingConfig):
    steps: int = Field(8, ge=1)
    """Steps, all
    of one length."""
    top_k: int | None = Field(None, ge=1)
    solver: Literal["euler", "heun"] = "euler"
    guidance: float | tuple[tuple[float, float], ...] = 1.0
    momentum: float = 0.5
    cache: bool = True


def test_every_setting_says_its_form_its_default_and_its_docstring():
    forms = {each.option: (each.form, each.default) for each in settings_of(Drawing)}
    assert forms == {
        "--steps": ("N", "8"), "--top-k": ("N", "None"), "--solver": ("euler|heun", "euler"),
        "--guidance": ("VALUE", "1.0"), "--momentum": ("X", "0.5"), "--cache": ("true|false", "True"),
    }  # fmt: skip
    assert settings_of(Drawing)[0].help == "Steps, all of one length."
    assert settings_of(SamplingConfig) == ()


@pytest.mark.parametrize(
    ("arguments", "assignments", "given"),
    [
        ((), (), {}),
        (("--steps", "3", "--top-k=5"), (), {"steps": 3, "top_k": 5}),
        (("--momentum", "-0.5", "--solver", "heun"), (), {"momentum": -0.5, "solver": "heun"}),
        (("--cache", "--steps", "3"), (), {"cache": True, "steps": 3}),
        (("--cache", "false", "--steps", "3"), (), {"cache": False, "steps": 3}),
        (("--no-cache",), (), {"cache": False}),
        (("--guidance", "[[0, 1], [1, 5]]"), (), {"guidance": [[0, 1], [1, 5]]}),
        (("--steps", "3"), ("sampling.momentum=1e-4",), {"steps": 3, "momentum": 1e-4}),
        ((), ("sampling.top_k=null",), {"top_k": None}),
    ],
)
def test_what_is_given_is_read_and_nothing_else_is_there(arguments, assignments, given):
    assert read_settings(Drawing, arguments, assignments) == given


@pytest.mark.parametrize(
    ("arguments", "assignments", "told"),
    [
        (("--step", "3"), (), r"^--step: there is no such setting\. Did you mean '--steps'\? Known: --steps, --top-k"),
        (("--steps",), (), "^--steps: needs a value: --steps N$"),
        (("--steps", "--cache"), (), "^--steps: needs a value: --steps N$"),
        (("--steps", "0"), (), r"^--steps: .*greater than or equal to 1 \(found 0\)$"),
        (("--steps", "3", "--steps", "4"), (), "^--steps: is given twice$"),
        (("--no-steps",), (), "^--no-steps: there is no such setting"),
        (("--no-cache", "--cache"), (), "^--cache: is given twice$"),
        (("--steps", "3"), ("sampling.steps=4",), r"^sampling\.steps: and --steps both say so; give one of the two$"),
        ((), ("sampling.stepz=4",), r"^sampling\.stepz: there is no such setting\. Did you mean 'steps'"),
        ((), ("steps=4",), r"^steps=4: is not of the form sampling\.key=value$"),
        ((), ("sampling.steps=many",), r"^sampling\.steps: .*valid integer.* \(found 'many'\)$"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_that_were_typed(arguments, assignments, told):
    with pytest.raises(ConfigError, match=told):
        read_settings(Drawing, arguments, assignments)


def test_a_deterministic_model_takes_no_settings():
    with pytest.raises(ConfigError, match=r"^--steps: there is no such setting\.$"):
        read_settings(SamplingConfig, ("--steps", "3"))
