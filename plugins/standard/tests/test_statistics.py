"""Statistics of others as a reference: read whole, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from flexframe_registry import ConfigError
from flexframe_standard.metrics.fid_config import FrechetConfig, StatisticsConfig
from flexframe_standard.metrics.statistics import read_statistics

EYE = {"mu": np.zeros(64), "sigma": np.eye(64)}


def read(path: Path, arrays: dict[str, object], **options: object) -> object:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return read_statistics(str(path), 64, "ours", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (EYE, {"count": None, "extractor": "not said by the file"}),
        ({**EYE, "count": 50_000, "extractor": "ours"}, {"count": 50_000, "extractor": "ours"}),
        ({**EYE, "mu_s": np.zeros(2023), "arr_0": np.zeros((2, 4, 4, 3), np.uint8)}, {"count": None}),  # ADM's
        ({name: value.astype(np.float32) for name, value in EYE.items()}, {}),
    ],
)
def test_statistics_are_read_with_what_is_known_of_them(tmp_path: Path, arrays, told) -> None:  # type: ignore[no-untyped-def]
    found = read(tmp_path / "r.npz", arrays)
    assert found.told.items() >= told.items()  # type: ignore[attr-defined]
    assert len(found.told["sha256"]) == 64  # type: ignore[attr-defined]
    assert found.statistics()["sigma"].dtype == np.float64  # type: ignore[attr-defined]
    assert str(tmp_path) not in str(found.told)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"mu": np.zeros(768), "sigma": np.eye(768)},
            r"mu of \(768,\) .* are \(64,\).*; layer 768 has as many",
        ),
        ({"mu": np.zeros(64), "sigma": np.eye(63)}, r"sigma of \(63, 63\)"),
        ({"mu": np.zeros(64)}, "holds mu, and no statistics: mu and sigma$"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}, "arr_0 are images: unpack them"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "no finite numbers"),
        ({"mu": np.zeros(64, int), "sigma": np.eye(64)}, "no finite numbers"),
        ({"mu": np.zeros(64), "sigma": -np.eye(64)}, "no covariance"),
        ({"mu": np.zeros(64), "sigma": np.triu(np.ones((64, 64)))}, "no covariance"),
        ({**EYE, "extractor": "dinov2"}, "features of 'dinov2', and these are of 'ours'"),
        ({**EYE, "count": 10}, "is of 10 images by itself, and of 20 by `count`"),
        ({"mu": np.zeros(64), "sigma": np.array([object()])}, "is no whole .npz"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path: Path, arrays, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=words) as told:
        read(tmp_path / "r.npz", arrays, count=20)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04junk", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "r.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"no such file of statistics|is no whole \.npz|pointer of git-lfs"):
        read_statistics(str(path), 64, "ours")


def test_a_file_is_named_by_itself_or_with_its_count() -> None:
    for given in ("a/ref.NPZ", {"statistics": "a/ref.NPZ", "count": 50_000}):
        config = FrechetConfig.read({"reference": given})
        assert isinstance(config.reference, StatisticsConfig)
        assert FrechetConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ConfigError, match=r"reference\.cuont"):
        FrechetConfig.read({"reference": {"statistics": "ref.npz", "cuont": 3}})
    with pytest.raises(ConfigError, match="Did you mean"):
        FrechetConfig.read({"reference": "digts"})
