import tarfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import sklearn.datasets

from flexframe.testing import parametrize_contracts

PHOTOGRAPHS = Path(sklearn.datasets.__file__).parent / "images"  # two JPEG files that scikit-learn ships


def shard():
    """The photographs as a tar file, in a temporary folder."""
    path = Path(mkdtemp(prefix="flexframe-test-")) / "photographs.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(PHOTOGRAPHS.glob("*.jpg")):
            tar.add(file, file.name)
    return path


def arrays():
    """Pictures as an array, in a temporary folder."""
    path = Path(mkdtemp(prefix="flexframe-test-")) / "pictures.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), dtype=np.uint8))
    return path


def table():
    """The photographs as a Parquet file, in a temporary folder; none without pyarrow, and its checks are skipped."""
    path = Path(mkdtemp(prefix="flexframe-test-")) / "photographs.parquet"
    if find_spec("pyarrow") is not None:
        import pyarrow
        import pyarrow.parquet

        images = [{"bytes": file.read_bytes(), "path": file.name} for file in sorted(PHOTOGRAPHS.glob("*.jpg"))]
        pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [0, 1]}), path)
    return path


FIELDS = {
    "source/datasets": {"path": str(table().parent)},
    "source/parquet": {"path": str(table())},
    "transform/colour-jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "source/arrays": {"path": str(arrays())},
    "source/folder": {"path": str(PHOTOGRAPHS)},
    "source/images": {"path": str(PHOTOGRAPHS)},
    "source/tar": {"path": str(shard())},
    "metric/classifier": {"data": "digits", "limit": 100},
    "metric/fd-dinov2": {"model": "/nowhere"},
    "metric/cmmd": {"model": "/nowhere"},
    "feed/latents": {"path": "/nowhere"},
    "feed/token-file": {"path": "/nowhere"},
    "transform/shift": {"pixels": 2},
    "observer/wandb": {"project": "checks"},
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))  # where `datasets` keeps copies, if it is not imported yet


@parametrize_contracts("flexframe", FIELDS)
def test_contract(check):
    try:
        check()
    except ImportError as error:
        if "pip install 'flexframe[" not in str(error):
            raise
        pytest.skip(str(error))
