"""Settings of use as options: the model says which there are."""

import pytest

from flexframe.commands.sampling import split_settings

OWN = ("--out", "-o", "--length", "--set", "--force")


@pytest.mark.parametrize(
    ("args", "kept", "settings"),
    [
        (["t", "-o", "x", "--steps", "3"], ["t", "-o", "x"], ["--steps", "3"]),
        (["--steps=3", "t", "--length", "4"], ["t", "--length", "4"], ["--steps=3"]),
        (["--shift", "-0.5", "t"], ["t"], ["--shift", "-0.5"]),
        (["--apg", "--force", "t"], ["--force", "t"], ["--apg"]),
        (["--apg", "-o", "x"], ["-o", "x"], ["--apg"]),
        (["a", "--", "--steps", "3"], ["a", "--", "--steps", "3"], []),
        (["--out=x", "--set", "sampling.steps=3"], ["--out=x", "--set", "sampling.steps=3"], []),
    ],
)
def test_long_options_that_are_not_the_commands_are_the_models(args, kept, settings):
    assert split_settings(args, OWN) == (kept, settings)
