"""Numbers of Inception's features against what other projects' own commands and functions say of the same.

pytorch-fid and clean-fid are compared on equal features, for they bring images to size in ways of their own;
torch-fidelity, whose network this is, by its whole command on the same files. The evaluator of guided-diffusion (ADM),
where sFID is from, is no package of PyPI: its features are compared in test_features.py, and its formula is FID's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

COUNT = 12


@pytest.fixture
def tallies(over: Any, feed: Any, photographs: Any, inception: Any) -> Any:
    """Makes the tally of a metric over 90 photographs and others, and both sets' features."""

    def make(config: dict[str, Any]) -> Any:
        source, fake = photographs(90), photographs(90, seed=1).images
        tally = feed(over({"layer": "64", "weights": inception(), **config}, source), fake, 40)
        return tally, *(rows.astype(np.float64) for rows in tally.pair())

    return make


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")  # theirs, of scipy
@pytest.mark.parametrize("peer", ["pytorch_fid", "cleanfid"])
def test_fid_is_the_one_of_a_peer_on_equal_features(peer: str, tallies: Any) -> None:
    pytest.importorskip(peer)
    tally, real, fake = tallies({"type": "frechet", "few": True})
    moments = [each for rows in (real, fake) for each in (rows.mean(0), np.cov(rows, rowvar=False))]
    if peer == "cleanfid":
        from cleanfid.fid import frechet_distance as theirs
    else:
        from pytorch_fid.fid_score import calculate_frechet_distance as theirs
    assert tally.compute()["fid@64"] == pytest.approx(theirs(*moments), rel=1e-6)


def test_kid_is_clean_fids_on_equal_features(tallies: Any) -> None:
    theirs = pytest.importorskip("cleanfid.fid").kernel_distance
    tally, real, fake = tallies({"type": "kid", "subsets": 1, "subset_size": 90})
    assert tally.compute()["kid@64"] == pytest.approx(theirs(real, fake, num_subsets=1, max_subset_size=90), rel=1e-6)


def test_all_numbers_are_those_of_torch_fidelitys_command(
    over: Any, feed: Any, photographs: Any, real_inception: Path, tmp_path: Path
) -> None:
    """On the same PNG files, with the real network up to layer 768."""
    source, fake = photographs(COUNT, (48, 48)), photographs(COUNT, (48, 48), seed=1).images
    for name, images in (("real", source.images), ("fake", fake)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{i:02d}.png")
    from torch_fidelity import calculate_metrics

    told = calculate_metrics(
        input1=str(tmp_path / "fake"), input2=str(tmp_path / "real"), cuda=False, cache=False, verbose=False,
        fid=True, kid=True, prc=True, kid_subsets=3, kid_subset_size=8, feature_layer_fid="64",
        feature_extractor="inception-v3-compat",
        feature_layer_kid="64", feature_layer_prc="64",
        feature_extractor_weights_path=str(real_inception), batch_size=COUNT,
    )  # fmt: skip
    few = {"layer": "64", "weights": str(real_inception)}
    configs: list[dict[str, Any]] = [
        {"type": "frechet", "few": True}, {"type": "kid", "subsets": 3, "subset_size": 8},
        {"type": "precision-recall", "few": True},
    ]  # fmt: skip
    found: dict[str, float] = {}
    for config in configs:
        found |= feed(over({**config, **few}, source), fake, COUNT).compute()
    # on equal features it is 1e-6, as above; here norms folded into convolutions move features by their last digits, of
    # which a root is taken where 12 images leave covariances of rank 11
    assert found["fid@64"] == pytest.approx(told["frechet_inception_distance"], rel=1e-3)
    # its command sums the kernel in float32; in float64 it is 1e-6 (test_features.py)
    assert found["kid@64"] == pytest.approx(told["kernel_inception_distance_mean"], rel=1e-3)
    assert found["precision@64"] == pytest.approx(told["precision"], abs=1e-9)
    assert found["recall@64"] == pytest.approx(told["recall"], abs=1e-9)
