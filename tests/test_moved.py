"""Old places of what has moved: every name is found, and its new place is told; a plugin of before works."""

from __future__ import annotations

import importlib
import json
import re

import pytest

PLACES = {
    "flexframe.contracts": (
        "Allocator AttributeClassifier Batch Codec Codes Condition Decoder Encoder Importer Kept LengthMasker "
        "LikelihoodPrior Losses Measure Metric Objective Outputs Part Prior Quantized Quantizer Reconstructions Rng "
        "Sample Scratch Source Spec TokenizerConfig Tokens prefix"
    ),
    "flexframe.loading": (
        "FORMAT Model Place about_import assemble build fetch find header_of imported load load_file locate "
        "override preprocessing read save undrawn"
    ),
    "flexframe.store.modelfile": "FORMAT MAX_CONFIG header_of read save",
    "flexframe.generator": "CodecModel Generator",
    "flexframe.tokenizer": "Lengths Random Tokenizer",
    "flexframe.fingerprint": "codec_fingerprint fingerprint weights",
    "flexframe.hub": "fetch home recorded",
    "flexframe.profile": "Profile build measure",
    "flexframe.builtin": "DigitsConfig FolderConfig IdentityCodecConfig ImagesConfig ScenesConfig TarConfig",
    "flexframe.builtin.files_config": "FilesConfig FolderConfig ImagesConfig TarConfig",
    "flexframe.data.files": "Files Folder Images Tar",
    "flexframe.builtin.metrics_lpips": "BACKBONES Perceptual backbone_file linear_file published read_weights",
    "flexframe.use.tokenfile": "About Row TokenFile write",
    "flexframe_registry.configs": (
        "CodesSpec ComponentConfig Config DecoderConfig EncoderConfig KINDS LatentSpec QuantizerConfig SamplingConfig "
        "Slot Spec StepConfig TokenSpec TokenizerConfig resolve"
    ),
    "flexframe_registry.cards": "SLOTS SUITES merge put read_yaml split_override suite",
    "flexframe_registry.runs": "SuiteConfig",
    "flexframe_registry.catalogue": "UnknownName nearest",
}
"""What a plugin's author could import of these modules, and did."""
QUIET = {"merge", "put", "read_yaml", "split_override", "UnknownName", "nearest"}
"""Names that their old module uses itself, and so has without a word."""


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, names in PLACES.items() for name in names.split()])
def test_every_old_name_is_found_and_its_new_place_is_told(module, name):
    old = importlib.import_module(module)
    if name in QUIET:
        assert callable(getattr(old, name))
        return
    with pytest.warns(
        DeprecationWarning, match=rf"^{re.escape(module)}\.{name} is now .*; the old place goes with"
    ) as told:
        thing = getattr(old, name)
    where, _, new = re.search(r"is now (\S+);", str(told[0].message)).group(1).rpartition(".")
    assert getattr(importlib.import_module(where), new) is thing
    assert where != module


def test_what_never_was_there_is_no_old_name():
    contracts = importlib.import_module("flexframe.contracts")
    with pytest.raises(AttributeError, match=r"module 'flexframe\.contracts' has no attribute 'Nonsense'"):
        contracts.Nonsense  # noqa: B018


# --- a plugin of before -------------------------------------------------------------------------------------------

BEFORE = '''
"""A plugin as it was written for version 0.1: all in one module, by the old imports, without what has come since."""

from typing import Literal

import torch
from torch import nn

from flexframe import Component, DecoderConfig, MetricConfig, QuantizerConfig, Spec, TokenSpec, hookimpl
from flexframe.contracts import Decoder, Measure, Metric, Outputs, Quantized, Quantizer
from flexframe.nn.ranges import Rescale
from flexframe_registry.configs import EncoderConfig


class BeforeConfig(QuantizerConfig):
    """Signs."""

    type: Literal["before"] = "before"

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, 4, codebooks=4, codebook_size=2)


class Signs(Quantizer):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.project = nn.Linear(spec.features, 4)

    def forward(self, values, keep, *, rng):
        z = torch.tanh(self.project(values).float())
        codes = (z > 0).long()
        hard = self.lookup(codes)
        return Quantized(z + (hard - z).detach() if self.training else hard, codes)

    def lookup(self, codes):
        return 2.0 * codes - 1


class PlateConfig(DecoderConfig):
    """A picture that is a linear map of the tokens' mean."""

    type: Literal["before-plate"] = "before-plate"

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction"})

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",)


class Plate(Decoder):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.shape = (spec.latents.channels, spec.latents.height, spec.latents.width)
        self.rescale = Rescale(spec.latents, (-1.0, 1.0))
        self.paint = nn.Linear(spec.tokens.dim, spec.latents.channels * spec.latents.height * spec.latents.width)

    def forward(self, tokens, batch, *, taps, rng):
        return Outputs({}, reconstruction=self.picture(tokens))

    def decode(self, tokens, *, condition, size, rng, sampling):
        return self.picture(tokens)

    def picture(self, tokens):
        present = torch.where(tokens.keep[..., None], tokens.values, 0)
        return self.rescale.inverse(self.paint(present.sum(1)).unflatten(1, self.shape))


class DarknessConfig(MetricConfig):
    """The share of dark pixels."""

    type: Literal["before-darkness"] = "before-darkness"


class Darkness(Metric):
    tallied = ("dark", "pixels")

    def reset(self, spec):
        self.dark = self.pixels = 0

    def update(self, batch):
        self.dark += int((batch.fake < 128).sum())
        self.pixels += batch.fake.numel()
        return {}

    def compute(self):
        return {"before-darkness": 100 * self.dark / self.pixels}

    def measures(self):
        return [Measure("before-darkness", "dark, %")]

    def protocol(self):
        return {"below": 128}


@hookimpl
def flexframe_components():
    return [
        Component(BeforeConfig, "before_plugin:Signs"),
        Component(PlateConfig, "before_plugin:Plate"),
        Component(DarknessConfig, "before_plugin:Darkness"),
    ]
'''

CARD = """
base: toy/digits-tiny
summary: by old spellings
model: {quantizer: before, decoder: before-plate, masker: full}
run: {lr: 1e-3, warmup: 1, flip: true, batch_size: 8, log_every: 1, steps: 4}
"""

SUITE = """
data: {type: digits, split: val}
count: 16
metrics: [psnr, before-darkness]
"""


BOTH = """
import sys
from flexframe.cli import main

for words in sys.argv[1:]:
    sys.argv = ["flexframe", *words.split()]
    try:
        main()
    except SystemExit as stopped:
        if stopped.code:
            raise
    print("TRAINED", file=sys.stderr)
"""
"""Two commands in one process, which imports torch once."""


@pytest.mark.slow
def test_a_plugin_of_before_trains_and_is_measured_and_told_the_new_places(python, install, tmp_path):
    install("before_plugin", BEFORE)
    (tmp_path / "before.yaml").write_text(CARD)
    (tmp_path / "suite.yaml").write_text(SUITE)
    only = {"FLEXFRAME_PLUGINS": "builtin,toy,before_plugin"}
    done = python(BOTH, "train before.yaml -o run --device cpu", "bench suite.yaml run -o out --device cpu", **only)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.partition("TRAINED")[0].split())
    for words in (
        "flexframe.contracts.Decoder is now flexframe.parts.Decoder;",
        "flexframe.contracts.Metric is now flexframe.bench.metric.LegacyMetric;",
        "flexframe_registry.configs.EncoderConfig is now flexframe_registry.kinds.EncoderConfig;",
        "run.flip",
        "FLEXFRAME_PLUGINS: the plugin `builtin` is now `standard`",
    ):
        assert told.count(words) == 1, done.stderr  # once
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"psnr", "before-darkness"} <= set(results["measures"])
