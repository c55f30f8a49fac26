from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import pytest

from flexframe.testing import parametrize_contracts

ROOT = Path(mkdtemp(prefix="flexframe-test-"))
KINDS = ("t5", "clip") if find_spec("transformers") else ()
FIELDS = {f"conditioner/{kind}": {"model": str(ROOT / kind), "width": 16, "length": 8} for kind in KINDS}


@pytest.fixture(autouse=True)
def home(request, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))
    if KINDS and "conditioner" in request.node.name and not (ROOT / "t5").exists():
        folders = request.getfixturevalue("encoders")
        for kind in KINDS:
            (ROOT / kind).symlink_to(folders[kind])


@parametrize_contracts("flexframe-priors", FIELDS)
def test_contract(check):
    check()
