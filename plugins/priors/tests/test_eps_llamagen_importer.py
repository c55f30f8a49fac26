"""eps-LlamaGen's importer, on checkpoints that this file makes itself; numbers are for `test_golden.py`."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from flexframe.models.generator import Generator
from flexframe.nn.init import redraw_zeros
from flexframe.store.load import load
from flexframe.testing.refusals import parametrize_refusals
from flexframe_registry import ConfigError, GeneratorConfig

BACK = (
    (r"^classes\.", "cls_embedding.embedding_table."),
    (r"^input\.", "z_proj."),
    (r"^input_norm\.", "z_proj_ln."),
    (r"^positions$", "pos_embed_learned"),
    (r"^places$", "diffusion_pos_embed_learned"),
    (r"^head\.layers\.(\d+)\.norm\.", r"diffloss.net.res_blocks.\1.in_ln."),
    (r"^head\.layers\.(\d+)\.modulation\.", r"diffloss.net.res_blocks.\1.adaLN_modulation.1."),
    (r"^head\.layers\.", "diffloss.net.res_blocks."),
    (r"^head\.time\.", "diffloss.net.time_embed."),
    (r"^head\.said\.", "diffloss.net.cond_embed."),
    (r"^head\.input\.", "diffloss.net.input_proj."),
    (r"^head\.output\.", "diffloss.net.final_layer.linear."),
    (r"^head\.modulation\.", "diffloss.net.final_layer.adaLN_modulation.1."),
    (r"^blocks\.(\d+)\.norm1\.", r"layers.\1.attention_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"layers.\1.ffn_norm."),
    (r"^blocks\.(\d+)\.qkv\.", r"layers.\1.attention.wqkv."),
    (r"^blocks\.(\d+)\.proj\.", r"layers.\1.attention.wo."),
    (r"^blocks\.(\d+)\.fc2\.", r"layers.\1.feed_forward.w2."),
)
FORMS = {
    "flow": {"condition": "joined", "process": "flow"},
    "diffusion": {"condition": "added", "process": "diffusion"},
}


def model_of(form="flow", width=64):
    torch.manual_seed(5)
    prior = {"width": width, "depth": 2, "heads": 4, "head_width": 24, "head_depth": 1, "dropout": 0, **FORMS[form]}
    raw = {"length": 5, "dim": 3, "classes": 4, "mean": [0.0], "deviation": [1.0]}
    model = Generator(GeneratorConfig.read({**raw, "prior": {"type": "causal-denoising", **prior}}))
    redraw_zeros(model)
    return model.eval()


def exported(model):
    state = {}
    for name, tensor in model.prior.state_dict().items():
        for pattern, replacement in BACK:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor[None].clone() if name.endswith("_embed_learned") else tensor.clone()
    for name in [name for name in state if ".fc1." in name]:
        gate, inner = state.pop(name).chunk(2)
        begin = name.replace("blocks.", "layers.").removesuffix(".fc1.weight")
        state |= {f"{begin}.feed_forward.w1.weight": gate.clone(), f"{begin}.feed_forward.w3.weight": inner.clone()}
    return state


def settings(form="flow", **params):
    given = {"num_slots": 5, "slot_dim": 3, "num_classes": 4, "diffloss_d": 1, "diffloss_w": 24,
             "num_sampling_steps": "20", "use_si": form == "flow", "resid_dropout_p": 0.0, "ffn_dropout_p": 0.0,
             "cond_method": "concat" if form == "flow" else "adaln"}  # fmt: skip
    generator = {"target": "stage2.gpt.GPT_L", "params": given | params}
    sizes = {"n_layer": 2, "n_head": 4, "dim": 64}
    return {"trainer": {"params": {"gpt_model": generator, "blr": 1e-4}}, "tiny_sizes": sizes}


def written(folder, model, config):
    folder.mkdir(exist_ok=True)
    save_file(exported(model), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_either_form_is_the_model(form, tmp_path):
    model = model_of(form)
    found = load(written(tmp_path / form, model, settings(form)), kind="generator")
    assert found.config.prior == model.config.prior
    assert found.sampling.steps == (250 if form == "flow" else 20)
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_slots": 6}, "num_slots"),
        ({"use_si": False}, "use_si"),
        ({"ffn_dropout_p": 0.1}, "ffn_dropout_p: is not resid_dropout_p"),
        ({"cls_token_num": 2}, "cls_token_num: is 2, which is not supported"),
        ({"rope": True}, "rope"),
    ],
)
def test_settings_that_disagree_or_are_unknown_are_refused(change, told, tmp_path):
    folder = written(tmp_path / "it", model_of(), settings(**change))
    with pytest.raises(ConfigError, match=told):
        load(folder, kind="generator")


def test_without_a_config_heads_are_asked_for(tmp_path):
    folder = written(tmp_path / "it", model_of(), None)
    with pytest.raises(ConfigError, match="n_head: is not given, and no published one is 64 wide"):
        load(folder, kind="generator")


@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, tmp_path):
    refusal(written(tmp_path / "it", model_of(), settings()))
