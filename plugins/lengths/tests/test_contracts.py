from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from flexframe.models.fingerprint import weights
from flexframe.rng import Rng
from flexframe.testing import parametrize_contracts
from flexframe.testing.checks.allocator import small_tokenizer
from flexframe.testing.checks.materials import BATCH, images
from flexframe_lengths import PsnrConfig
from flexframe_lengths.learned import About, Head, read, save_head

HEAD = Path(mkdtemp(prefix="flexframe-test-")) / "head.safetensors"


@pytest.fixture(autouse=True)
def head(request):
    """A head of random weights for the kit's tokenizer, where its file is asked for."""
    if "learned" in request.node.name and not HEAD.exists():
        model = small_tokenizer()
        budgets = model.config.budgets
        made = Head(read(model, images(), Rng(0, torch.arange(BATCH))).shape[1], 8, len(budgets) - 1)
        about = About(model="", weights=weights(model), budgets=budgets, rule=PsnrConfig(), images=0, right=0.0)
        save_head(made, about, HEAD)


@parametrize_contracts("flexframe-lengths", {"allocator/learned": {"head": str(HEAD)}})
def test_contract(check):
    check()
