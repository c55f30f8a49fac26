"""RAR's importer, on checkpoints that this file makes itself.

A model of ours, written under the reference's names with cases that it computed, shows that nothing hangs on the shapes
of the golden folder; that the numbers are the reference's is for `test_golden.py`.
"""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexframe.importing import importer_of, open_foreign
from flexframe.importing.verify import verify_folder
from flexframe.models.generator import Generator
from flexframe.store.load import load
from flexframe.testing.refusals import parametrize_refusals
from flexframe_priors.rar_cases import GENERATED, _generated, _tables
from flexframe_registry import ConfigError, GeneratorConfig

MODELS = {
    "wide": {"length": 9, "codebook_size": 21, "classes": 3, "width": 40, "depth": 3, "heads": 5, "hidden": 56},
    "narrow": {"length": 4, "codebook_size": 50, "classes": 7, "width": 12, "depth": 1, "heads": 1, "hidden": 12},
}
BACK = (
    (r"^start$", "cls_token"),
    (r"^positions$", "pos_embed"),
    (r"^targets$", "target_aware_pos_embed"),
    (r"^steps$", "timesteps_embeddings"),
    (r"^head\.modulation\.", "adaln_before_head.adaLN_modulation."),
    (r"^head\.linear\.", "lm_head."),
    (r"^(blocks\.\d+)\.modulation\.", r"\1.adaLN_modulation."),
    (r"^(blocks\.\d+)\.(fc[12])\.", r"\1.mlp.\2."),
)


def exported(model):
    """Our state as the reference holds it; what it never reads is filled with nines."""
    state, ours = {}, model.prior.state_dict()
    width = model.config.prior.width
    nines = lambda rows: torch.full((1, rows, width), 9.0)  # noqa: E731
    for name, tensor in ours.items():
        for pattern, replacement in BACK:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.clone()
    words = (state.pop("token_embedding.weight"), nines(1)[0], state.pop("class_embedding.weight"))
    state["embeddings.weight"] = torch.cat(words)
    state["cls_token"] = state["cls_token"][None, None]
    state["pos_embed"] = torch.cat([state["pos_embed"][None], nines(1022)], 1)
    state["target_aware_pos_embed"] = torch.cat([nines(2), state["target_aware_pos_embed"][None], nines(1022)], 1)
    state["timesteps_embeddings"] = torch.cat([state["timesteps_embeddings"][None], nines(98)], 1)
    return state


def settings_of(config):
    prior = config.prior
    generator = {
        "hidden_size": prior.width, "num_hidden_layers": prior.depth, "num_attention_heads": prior.heads,
        "intermediate_size": prior.hidden, "dropout": 0.1, "attn_drop": 0.1, "image_seq_len": config.length,
        "condition_num_classes": config.classes,
    }  # fmt: skip
    return {"model": {"vq_model": {"codebook_size": config.codebook_size}, "generator": generator}}


@torch.no_grad()
def case_of(model):
    prior, spec = model.prior.eval(), model.spec
    draws = torch.Generator().manual_seed(1)
    ids = torch.randint(spec.codebook_size, (5, spec.length), generator=draws)
    classes = torch.arange(5) % spec.classes
    raster = torch.arange(spec.length).repeat(5, 1)
    orders = torch.rand(5, spec.length, generator=draws).argsort(1)
    case = {
        "ids": ids,
        "condition": classes,
        "condition_ids": classes + spec.codebook_size + 1,
        "orders": orders,
        "labels_orders": ids.gather(1, orders),
        "logits_raster": prior.logits(ids, classes, raster),
        "logits_none": prior.logits(ids, torch.full_like(classes, spec.classes), raster),
        "logits_orders": prior.logits(ids.gather(1, orders), classes, orders),
    }
    made = _generated(prior, classes, _tables(5, prior, 6), GENERATED[0])
    return {**case, "generate_seed6_kv": made.clone(), "generate_seed6_nokv": made.clone()}


@pytest.fixture
def make(tmp_path):
    """A checkpoint's folder with its case; `change` alters config and tensors before they are written."""

    def made(name="wide", change=lambda config, state: None, case=True):
        shape = dict(MODELS[name])
        outer = {key: shape.pop(key) for key in ("length", "codebook_size", "classes")}
        torch.manual_seed(4)
        model = Generator(GeneratorConfig.read({**outer, "prior": {"type": "rar", **shape}}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
        config, state = settings_of(model.config), exported(model)
        if case:
            save_file(case_of(model), tmp_path / "case.safetensors")
        change(config, state)
        save_file(state, tmp_path / "model.safetensors")
        if config:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return made


def put(*path, value):
    def change(config, state):
        for part in path[:-1]:
            config = config.setdefault(part, {})
        config[path[-1]] = value

    return change


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_any_shape_comes_back_and_compares(name, make):
    folder = make(name)
    found = verify_folder(folder)
    assert {c.tensor for c in found} == load_file(folder / "case.safetensors").keys() - {"ids", "condition", "orders"}
    assert [c for c in found if not c.passed] == []
    config = load(folder, kind="generator").config
    assert {**config.model_dump(), **config.prior.model_dump()}.items() >= MODELS[name].items()


@pytest.mark.parametrize("tensor", ["blocks.1.mlp.fc1.weight", "target_aware_pos_embed", "timesteps_embeddings"])
def test_a_perturbed_weight_fails(tensor, make):
    def perturb(config, state):
        rows = state[tensor].flatten(0, -2)
        rows[3, 0] += 0.05

    failed = {c.tensor for c in verify_folder(make("wide", perturb)) if not c.passed}
    assert {"logits_raster", "logits_none", "logits_orders"} <= failed


def test_bare_tensors_tell_all_but_the_rates_of_training(make, tmp_path):
    folder = make("wide", case=False)
    settled = load(folder, kind="generator").config
    bare = tmp_path / "bare" / "rar_b.bin"
    bare.parent.mkdir()
    torch.save(load_file(folder / "model.safetensors"), bare)
    assert load(bare, kind="generator").config == settled
    described = settled.model_copy(
        update={"tokenizer": "grid/maskgit-vqgan", "prior": settled.prior.model_copy(update={"dropout": 0.3})}
    )
    source = open_foreign(bare, card_model=described)
    found = importer_of(source).convert(source)
    assert found.config == described
    assert found.notes == ()


def test_the_published_config_is_read_in_full(make):
    def publish(config, state):
        config["model"]["vq_model"] |= {
            "token_size": 256, "num_latent_tokens": 9, "finetune_decoder": False,
            "pretrained_tokenizer_weight": "maskgit-vqgan-imagenet-f16-256.bin",
        }  # fmt: skip
        config["model"]["generator"] |= {
            "class_label_dropout": 0.2, "image_seq_len": "${model.vq_model.num_latent_tokens}",
            "randomize_temperature": 1.02, "guidance_scale": 15.5, "guidance_scale_pow": 2.5, "use_checkpoint": True,
            "randomness_anneal_start": 10, "randomness_anneal_end": 20,
        }  # fmt: skip
        sections = ("experiment", "dataset", "optimizer", "lr_scheduler", "training")
        config |= {name: {"anything": 1} for name in sections}

    model = load(make("wide", publish), kind="generator")
    prior = model.config.prior
    assert model.config.tokenizer == "grid/maskgit-vqgan"
    assert (prior.class_dropout, prior.anneal_start, prior.anneal_end) == (0.2, 10, 20)
    assert model.sampling.model_dump(exclude_unset=True) == {"temperature": 1.02, "guidance": 15.5, "power": 2.5}


def test_their_zero_is_no_guidance(make):
    found = load(make("wide", put("model", "generator", "guidance_scale", value=0)), kind="generator")
    assert not found.sampling.guided


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("model", "generator", "rope", value=2), "model.generator.rope: 2 is unknown here"),
        (put("model", "vq_model", "levels", value=3), "model.vq_model.levels: 3 is unknown here"),
        (put("extra", value=1), "extra: 1 is unknown here"),
        (put("model", "generator", "hidden_size", value=16), "hidden_size: is 16, but the tensors have 40"),
        (put("model", "generator", "num_hidden_layers", value=6), "is 6, but the tensors have 3"),
        (put("model", "generator", "num_attention_heads", value=4), "is 4, but the tensors have 5"),
        (put("model", "generator", "image_seq_len", value=7), "image_seq_len: is 7, but the tensors have 9"),
        (put("model", "vq_model", "codebook_size", value=22), "codebook_size: is 22, but the tensors have 21"),
        (put("model", "generator", "condition_num_classes", value=4), "is 4, but the tensors have 3"),
        (lambda config, state: state.pop("blocks.2.norm1.bias"), "missing prior.blocks.2.norm1.bias"),
        (lambda config, state: state.update(odd=torch.ones(2)), "left over prior.odd (there odd)"),
        (lambda config, state: state.update(pos_embed=state["pos_embed"][:, :-1].clone()), "pos_embed 1032"),
    ],
)
def test_what_does_not_fit_is_told(change, told, make):
    folder = make("wide", change)
    with pytest.raises(ConfigError, match=re.escape(told)):
        load(folder, kind="generator")


@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, make):
    refusal(make())


def test_a_case_that_nothing_compares_is_told(make):
    folder = make("narrow")
    case = load_file(folder / "case.safetensors")
    save_file({**case, "hidden_states": torch.zeros(2)}, folder / "case.safetensors")
    with pytest.raises(ConfigError, match="holds 'hidden_states', which nothing here compares"):
        verify_folder(folder)
    del case["orders"]
    save_file(case, folder / "case.safetensors")
    with pytest.raises(ConfigError, match="has no orders"):
        verify_folder(folder)
