"""The importer of the MaskGIT generators, on checkpoints that this file makes itself.

A model of ours, written under the reference's names with cases that it computed, shows that nothing hangs on the shapes
of the golden folders; that the numbers are the reference's is for `test_golden.py`.
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
from flexframe_registry import ConfigError, GeneratorConfig, cards
from flexframe_titok.maskgit import Given
from flexframe_titok.maskgit_cases import GENERATED, _generated, _masked
from flexframe_titok.maskgit_importer import BERT, UVIT

SHAPES = {"length": 6, "codebook_size": 20, "classes": 3}
PRIORS = {
    "bert": {"type": "maskgit-bert", "width": 24, "depth": 3, "heads": 3, "hidden": 40},
    "bert-all": {"type": "maskgit-bert", "width": 12, "depth": 1, "heads": 1, "hidden": 60, "head": "vocabulary"},
    "uvit": {"type": "maskgit-uvit", "width": 32, "depth": 4, "heads": 2, "hidden": 48},
    "uvit-wide": {"type": "maskgit-uvit", "width": 20, "depth": 2, "heads": 5, "hidden": 20},
}
BACK = {
    "maskgit-bert": (
        (r"^embedding\.", "model.embeddings.word_embeddings."),
        (r"^position_embedding$", "model.embeddings.position_embeddings.weight"),
        (r"^type_embedding$", "model.embeddings.token_type_embeddings.weight"),
        (r"^norm\.", "model.embeddings.LayerNorm."),
        (r"^blocks\.", "model.encoder.layer."),
        (r"\.attn\.in_proj\.", ".attention.self."),
        (r"\.attn\.out_proj\.", ".attention.output.dense."),
        (r"\.norm1\.", ".attention.output.LayerNorm."),
        (r"\.mlp\.0\.", ".intermediate.dense."),
        (r"\.mlp\.2\.", ".output.dense."),
        (r"\.norm2\.", ".output.LayerNorm."),
        (r"^head\.", "model.lm_head."),
    ),
    "maskgit-uvit": (
        (r"^embedding\.", "embeddings."),
        (r"^position_embedding$", "pos_embed"),
        (r"^before\.", "in_blocks."),
        (r"^middle\.", "mid_block."),
        (r"^after\.", "out_blocks."),
        (r"\.attn\.in_proj\.", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.2\.", ".mlp.fc2."),
        (r"\.merge\.", ".skip_linear."),
        (r"^head\.", "lm_head."),
    ),
}
"""Our names to the reference's."""


def exported(model):
    """Our state as the reference holds it."""
    form, state = model.config.prior.type, {}
    for name, tensor in model.prior.state_dict().items():
        for pattern, replacement in BACK[form]:
            name = re.sub(pattern, replacement, name)
        if ".attention.self." in name:
            stem, kind = name.rsplit(".", 1)
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            state |= {f"{stem}.{part}.{kind}": value.clone() for part, value in parts}
        elif name.endswith("token_type_embeddings.weight"):
            state[name] = torch.stack([tensor, torch.full_like(tensor, 9.0)])  # type 1 is never used
        else:
            state[name] = tensor[None].clone() if name == "pos_embed" else tensor.clone()
    return state


def settings_of(config):
    """The config as the publication writes it."""
    prior, length = config.prior, config.length
    generator = {
        "hidden_size": prior.width, "num_hidden_layers": prior.depth, "num_attention_heads": prior.heads,
        "intermediate_size": prior.hidden, "dropout": 0.1, "attn_drop": 0.1, "image_seq_len": length,
        "condition_num_classes": config.classes,
    }  # fmt: skip
    return {"model": {"vq_model": {"codebook_size": config.codebook_size}, "generator": generator}}


@torch.no_grad()
def case_of(model):
    """What the reference's script would have computed from this model."""
    prior, spec = model.prior.eval(), model.spec
    draws = torch.Generator().manual_seed(1)
    ids = torch.randint(spec.codebook_size + 1, (5, spec.length), generator=draws)
    classes, keep = torch.arange(5) % spec.classes, torch.ones(5, spec.length, dtype=torch.bool)
    masked = _masked(prior, ids, 8)
    case = {
        "ids": ids,
        "condition": classes,
        "logits_cond": prior.logits(ids, Given(classes), keep),
        "logits_uncond": prior.logits(ids, Given(torch.full_like(classes, spec.classes)), keep),
        "mask_seed8": masked,
        "masked_seed8": torch.where(masked, spec.codebook_size, torch.where(ids == spec.codebook_size, 0, ids)),
    }
    for name, settings in GENERATED.items():
        case[f"generate_{name}_seed2"] = _generated(prior, classes, keep, settings[0], 2)
    return {name: tensor.contiguous() for name, tensor in case.items()}


@pytest.fixture
def make(tmp_path):
    """A checkpoint's folder with its case; `change` alters config and tensors before they are written."""

    def made(name="uvit", change=lambda config, state: None, case=True):
        torch.manual_seed(4)
        model = Generator(GeneratorConfig.read({**SHAPES, "prior": PRIORS[name]}))
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


def converted(folder):
    source = open_foreign(folder)
    return importer_of(source).convert(source)


@pytest.mark.parametrize("name", PRIORS)
def test_any_shape_comes_back_and_compares(name, make):
    folder = make(name)
    found = verify_folder(folder)
    assert {c.tensor for c in found} == load_file(folder / "case.safetensors").keys() - {"ids", "condition"}
    assert [c for c in found if not c.passed] == []
    config = load(folder, kind="generator").config
    assert config.prior.model_dump() == config.prior.sized(**PRIORS[name]).model_dump()
    assert (config.length, config.codebook_size, config.classes) == (6, 20, 3)


@pytest.mark.parametrize("name", ["bert", "uvit"])
def test_a_perturbed_weight_fails(name, make):
    def perturb(config, state):
        weight = next(n for n in state if n.endswith(("intermediate.dense.weight", "mid_block.mlp.fc1.weight")))
        state[weight][0, 0] += 0.05

    failed = {c.tensor for c in verify_folder(make(name, perturb)) if not c.passed}
    assert {"logits_cond", "logits_uncond"} <= failed


def test_the_published_config_is_read_in_full(make):
    def publish(config, state):
        generator = config["model"]["generator"]
        generator |= {
            "model_type": "UViT", "num_steps": 12, "mask_schedule_strategy": "arccos", "class_label_dropout": 0.2,
            "image_seq_len": "${model.vq_model.num_latent_tokens}", "randomize_temperature": 2.8,
            "guidance_scale": 6.9, "guidance_decay": "power-cosine", "guidance_scale_pow": 2,
            "softmax_temperature_annealing": True,
        }  # fmt: skip
        config["model"]["vq_model"] |= {"num_latent_tokens": 6, "token_size": 12, "use_l2_norm": True}
        config |= {
            "experiment": {"tokenizer_checkpoint": "tokenizer_titok_s128.bin", "output_dir": "x"},
            "losses": {"label_smoothing": 0.05, "loss_weight_unmasked_token": 0.0},
            "dataset": {"preprocessing": {"crop_size": 256}},
            "optimizer": {"name": "adamw"}, "lr_scheduler": {"scheduler": "cosine"}, "training": {"seed": 42},
        }  # fmt: skip

    model = load(make("uvit", publish), kind="generator")
    prior = model.config.prior
    assert model.config.tokenizer == "titok/s-128"
    assert (prior.class_dropout, prior.label_smoothing, prior.unmasked_weight) == (0.2, 0.05, 0.0)
    assert model.sampling.model_dump(exclude_unset=True) == {
        "steps": 12, "temperature": 2.8, "guidance": 6.9, "guidance_schedule": "power-cosine", "power": 2.0,
        "softmax_annealing": True,
    }  # fmt: skip


def test_an_early_switch_is_a_schedule(make):
    def early(config, state):
        config["model"]["generator"]["guidance_decay"] = True

    assert converted(make("bert", early)).sampling == {"guidance_schedule": "linear"}


def test_buffers_of_old_versions_are_left_away(make):
    def old(config, state):
        state["model.embeddings.position_ids"] = torch.arange(7)[None]

    assert all(c.passed for c in verify_folder(make("bert", old)))


def put(*path, value):
    def change(config, state):
        for part in path[:-1]:
            config = config.setdefault(part, {})
        config[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("model", "generator", "rope", value=2), "model.generator.rope: 2 is unknown here"),
        (put("model", "vq_model", "levels", value=3), "model.vq_model.levels: 3 is unknown here"),
        (put("extra", value=1), "extra: 1 is unknown here"),
        (put("model", "generator", "hidden_size", value=16), "hidden_size: is 16, but the tensors have 32"),
        (put("model", "generator", "num_hidden_layers", value=6), "is 6, but the tensors are of 4 blocks"),
        (put("model", "generator", "intermediate_size", value=16), "is 16, but the tensors have 48"),
        (put("model", "generator", "image_seq_len", value=7), "image_seq_len: is 7, but the tensors have 6"),
        (put("model", "generator", "condition_num_classes", value=4), "is 4, but the tensors have 3"),
        (put("model", "vq_model", "codebook_size", value=21), "codebook_size: is 21, but the tensors have 20"),
        (put("model", "generator", "mask_schedule_strategy", value="cosine"), "'cosine', which is not supported"),
        (put("model", "generator", "guidance_decay", value="cubic"), "'cubic', which is not supported"),
        (put("model", "generator", "num_attention_heads", value=5), "width 32 is not divisible by its 5 heads"),
        (lambda config, state: state.pop("mid_block.norm1.bias"), "missing prior.middle.norm1.bias"),
        (lambda config, state: state.pop("pos_embed"), "has no tensor 'pos_embed'"),
        (lambda config, state: state.update(odd=torch.ones(2)), "left over prior.odd (there odd)"),
        (lambda config, state: config["model"]["generator"].pop("num_attention_heads"), "--assume model.generator.num"),
    ],
)
def test_what_does_not_fit_is_told(change, told, make):
    folder = make("uvit", change)
    with pytest.raises(ConfigError, match=re.escape(told)):
        load(folder, kind="generator")


def test_an_odd_number_of_layers_is_rounded_as_the_reference_does(make):
    model = load(make("uvit", put("model", "generator", "num_hidden_layers", value=5)), kind="generator")
    assert model.config.prior.depth == 4


def test_half_of_an_attention_is_told(make):
    folder = make("bert", lambda config, state: state.pop("model.encoder.layer.1.attention.self.key.bias"))
    with pytest.raises(ConfigError, match=r"left over prior\.blocks\.1\.attn\.in_proj\.query\.bias"):
        load(folder, kind="generator")


def test_without_a_config_the_card_tells(make, tmp_path):
    folder = make("bert", lambda config, state: config.clear(), case=False)
    with pytest.raises(ConfigError, match=r"--assume model\.generator\.num_attention_heads"):
        load(folder, kind="generator")
    assumed = load(folder, assume={"model.generator.num_attention_heads": 3}, kind="generator")
    assert assumed.config.prior.heads == 3
    source = open_foreign(folder, card_model=assumed.config)
    assert importer_of(source).convert(source).config == assumed.config


@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, make):
    refusal(make())


@pytest.mark.slow
def test_a_case_that_nothing_compares_is_told(make):
    folder = make("uvit")
    case = load_file(folder / "case.safetensors")
    for name in ("attention_weights", "generate_cubic_seed1"):
        save_file({**case, name: torch.zeros(2)}, folder / "case.safetensors")
        with pytest.raises(ConfigError, match=f"holds '{name}', which nothing here compares"):
            verify_folder(folder)
    del case["condition"]
    save_file(case, folder / "case.safetensors")
    with pytest.raises(ConfigError, match="has no condition"):
        verify_folder(folder)


def test_the_forms_are_told_apart_by_their_tensors(make):
    assert converted(make("uvit", put("model", "generator", "model_type", value="ViT"))).config.prior.type == UVIT.type
    assert converted(make("bert", put("model", "generator", "model_type", value="ViT"))).config.prior.type == BERT.type


@pytest.mark.parametrize("name", ["l-32", "b-64", "s-128"])
def test_cards_name_their_tokenizer(name):
    assert cards().get(f"titok/maskgit-{name}").described.tokenizer == f"titok/{name}"
