"""Parity with the published implementation, through the importers, on tensors that it computed with random weights."""

from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open

import flexframe
from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe.testing.parity import check

GOLDEN = shared(Path(__file__)) / "golden" / "one_d_piece"
INPUTS = {
    "tokenizer": {"images", "target_codes", "keep", "z"},
    "generator": {"condition", "label_drop_uniform", "mask_time_uniform", "mask_order_uniform"},
}
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]


@cache
def verified(name):
    """All comparisons of a folder, past their tolerance or not."""
    return verify_folder(GOLDEN / name)


def given(name, path):
    """Tensors of a case that are where it begins."""
    begins = {"case_lengths": {"indices"}, "case_eval": {"ids"}, "case_train": {"ids"}}
    return INPUTS[name] | (begins.get(path.stem, set()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer", "generator"])
def test_every_tensor_of_every_case(name):
    found = check(f"one_d_piece/{name}", verified(name))
    wanted = set()
    for path in (GOLDEN / name).glob("case*.safetensors"):
        with safe_open(path, framework="pt") as case:
            named = set(case.keys()) - given(name, path)
        wanted |= {(path.stem, tensor) for tensor in named if not tensor.endswith("_uniform")}
    compared = {(c.case, c.tensor) for c in found}
    assert wanted <= compared
    assert {tensor for case, tensor in compared - wanted} <= {"gradient norms"}


@pytest.mark.slow
def test_ids_masks_and_codes_are_exact_and_lengths_are_among_them():
    found = [*verified("tokenizer"), *verified("generator")]
    whole = {(c.case, c.tensor) for c in found if c.exact and c.error == 0}
    assert {("case_eval", "indices"), ("case_train_stage1", "indices"), ("case_quantizer", "indices")} <= whole
    assert {("case_generate", "ids"), ("case_train", "mask"), ("case_train", "masked")} <= whole
    assert {c.tensor for c in found if c.case == "case_lengths"} > {"stage2_pixels_len1", "stage1_logits_len3"}


@pytest.mark.slow
def test_an_imported_model_is_one_of_any_length():
    model = flexframe.load(GOLDEN / "tokenizer")
    assert model.config.masker.model_dump() == {"type": "tail-drop", "quantize_all": True}
    assert model.config.budgets == (1, 2, 3, 4, 5, 6, 7, 8)
