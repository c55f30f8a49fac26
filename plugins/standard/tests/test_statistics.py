"""Statistics as files: those of others are read whole, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

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
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8)}, "arr_0 are images, as"),
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


# --- by the names that other packages give them ----------------------------------------------------------------------


def keep(path: Path, held: object) -> str:
    torch.save(held, path)
    return str(path)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_what_torch_fidelity_keeps_is_read(tmp_path: Path, kind: type) -> None:
    held = {name: value.astype(kind) for name, value in EYE.items()}
    place = keep(tmp_path / "cifar10-train-inception-v3-compat-stat-fid-64.pt", held)
    assert FrechetConfig.read({"reference": place}).reference == StatisticsConfig(statistics=place)
    found = read_statistics(place, 64, "ours")
    assert (found.sigma == np.eye(64)).all()
    assert found.told["extractor"] == "not said by the file"


@pytest.mark.parametrize(
    ("name", "held", "words"),
    [
        ("a-inception-v3-compat-stat-fid-768.pt", EYE, "is of layer 768 by its name, and this layer is 64"),
        ("a-dinov2-vit-l-14-stat-fid-64.pt", EYE, "network 'dinov2-vit-l-14' by its name"),
        ("a.pt", {"mu": Path("x")}, "no file of torch-fidelity's statistics"),
        ("a.pt", [1, 2], "they are arrays by name"),
        ("a.pt", {"sigma": np.eye(64)}, "holds sigma, and no statistics"),
    ],
)
def test_what_torch_fidelity_keeps_of_other_features_is_refused(
    tmp_path: Path, name: str, held: object, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read_statistics(keep(tmp_path / name, held), 64, "ours")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10_legacy_tensorflow_train_32", ""),
        ("cifar10_clean_train_32", "by clean-fid, outside of the network"),
        ("mine_legacy_pytorch_custom_na", "PyTorch's bilinear rule"),
        ("ffhq_clean_clip_vit_b_32_trainval_256", "of the network clip_vit_b_32"),
    ],
)
def test_clean_fids_statistics_fit_in_one_of_its_modes(tmp_path: Path, name: str, words: str) -> None:
    if not words:
        assert read(tmp_path / f"{name}.npz", EYE)
        return
    with pytest.raises(ConfigError, match=words):
        read(tmp_path / f"{name}.npz", EYE)
