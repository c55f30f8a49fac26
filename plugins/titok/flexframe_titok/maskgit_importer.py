"""Reads the MaskGIT generators of github.com/bytedance/1d-tokenizer (Apache-2.0), in the BERT and the U-ViT form.

The two forms have one config format, so their tensors' names tell them apart. Sizes follow from the tensors; where the
config states them too, it must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe.models.generator import Generator
from flexframe_registry import ConfigError, GeneratorConfig

from .maskgit_cases import compare_cases
from .maskgit_configs import BERTMaskGITConfig

SECTIONS = ("experiment", "dataset", "optimizer", "lr_scheduler", "training")
"""Top-level sections about how the model was trained; they change nothing in the model."""
TOKENIZER = (
    "token_size", "use_l2_norm", "commitment_cost", "vit_enc_model_size", "vit_dec_model_size", "vit_enc_patch_size",
    "vit_dec_patch_size", "finetune_decoder", "quantize_mode", "is_legacy", "clustering_vq", "use_pretrained",
    "strict_length_assertion",
)  # fmt: skip
"""Settings of the tokenizer, which is a model of its own."""
TOKENIZERS = {
    "tokenizer_titok_l32": "titok/l-32",
    "tokenizer_titok_b64": "titok/b-64",
    "tokenizer_titok_s128": "titok/s-128",
}
"""The cards of the tokenizers that configs name by file."""
SAMPLING = {
    "num_steps": ("steps", int),
    "randomize_temperature": ("temperature", float),
    "guidance_scale": ("guidance", float),
    "guidance_scale_pow": ("power", float),
    "softmax_temperature_annealing": ("softmax_annealing", bool),
}
"""Settings of use: ours and their type."""


@dataclass(frozen=True)
class Form:
    """A form's places of what its sizes are read from, and the names of its tensors."""

    type: str
    words: str
    """The embeddings of codes, mask, classes and null, in this order."""
    positions: str
    hidden: str
    """A weight with as many rows as a feed-forward layer is wide."""
    head: str
    block: str
    """Matches the start of a block's tensors; the middle one of an odd number does not count."""
    rules: tuple[tuple[str, str], ...]
    """Patterns and what replaces them, applied in order."""
    dropout: bool
    """True where the published model has dropout; else what its config says of it does nothing."""


BERT = Form(
    type="maskgit-bert",
    words="model.embeddings.word_embeddings.weight",
    positions="model.embeddings.position_embeddings.weight",
    hidden="model.encoder.layer.0.intermediate.dense.weight",
    head="model.lm_head.weight",
    block=r"^model\.encoder\.layer\.\d+\.",
    rules=(
        (r"^model\.embeddings\.word_embeddings\.", "embedding."),
        (r"^model\.embeddings\.position_embeddings\.weight$", "position_embedding"),
        (r"^model\.embeddings\.token_type_embeddings\.weight$", "type_embedding"),
        (r"^model\.embeddings\.LayerNorm\.", "norm."),
        (r"^model\.encoder\.layer\.", "blocks."),
        (r"\.attention\.self\.", ".attn.in_proj."),
        (r"\.attention\.output\.dense\.", ".attn.out_proj."),
        (r"\.attention\.output\.LayerNorm\.", ".norm1."),
        (r"\.intermediate\.dense\.", ".mlp.0."),
        (r"\.output\.dense\.", ".mlp.2."),
        (r"\.output\.LayerNorm\.", ".norm2."),
        (r"^model\.lm_head\.", "head."),
    ),
    dropout=True,
)
UVIT = Form(
    type="maskgit-uvit",
    words="embeddings.weight",
    positions="pos_embed",
    hidden="mid_block.mlp.fc1.weight",
    head="lm_head.weight",
    block=r"^(in|out)_blocks\.\d+\.",
    rules=(
        (r"^embeddings\.", "embedding."),
        (r"^pos_embed$", "position_embedding"),
        (r"^in_blocks\.", "before."),
        (r"^mid_block\.", "middle."),
        (r"^out_blocks\.", "after."),
        (r"\.attn\.qkv\.", ".attn.in_proj."),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.2."),
        (r"\.skip_linear\.", ".merge."),
        (r"^lm_head\.", "head."),
    ),
    dropout=False,
)
POSITION_IDS = "model.embeddings.position_ids"
"""0, 1, 2, ...: a buffer that old versions of the reference's library saved."""


class MaskGITImporter(Importer):
    """One importer for both forms."""

    def recognises(self, source: Foreign) -> bool:
        return _form(source) is not None

    def convert(self, source: Foreign) -> Imported:
        form = _form(source)
        if form is None:
            needed = f"{BERT.hidden} nor {UVIT.hidden}"
            raise ConfigError.at(str(source.path), f"has neither {needed}, so it is no MaskGIT generator")
        state, names = _state(source, form)
        described = source.card_model
        if not source.settings and isinstance(described, GeneratorConfig):
            return Imported(described, state, notes=("it has no config: its card's is taken",), names=names)
        root = source.config()
        config = _config(source, form, root)
        sampling = _sampling(root.child("model", {}).child("generator", {}))
        root.ignore(*SECTIONS)
        root.finish()
        return Imported(config, state, sampling, _notes(config), names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        assert isinstance(model, Generator)
        form = _form(source)
        assert form is not None
        return compare_cases(source, model, partial(_translate, form=form))


def _form(source: Foreign) -> Form | None:
    return next((form for form in (BERT, UVIT) if {form.words, form.hidden} <= set(source.tensors)), None)


# --- config ------------------------------------------------------------------------------------------------------


def _config(source: Foreign, form: Form, root: Settings) -> GeneratorConfig:
    shape, model = source.tensors.shape, root.child("model", {})
    vq, generator, losses = model.child("vq_model", {}), model.child("generator", {}), root.child("losses", {})
    words, width, entries = shape(form.words)[0], shape(form.words)[-1], shape(form.head)[0]
    # a head over the codes alone says how many there are; one over the whole vocabulary does not
    codes = vq.agreed("codebook_size", entries) if entries < words else vq.number("codebook_size")
    length = shape(form.positions)[-2] - 1
    prior = {
        "type": form.type,
        "width": generator.agreed("hidden_size", width),
        "depth": _depth(source, form, generator),
        "heads": generator.number("num_attention_heads"),
        "hidden": generator.agreed("intermediate_size", shape(form.hidden)[0]),
        "class_dropout": generator.take("class_label_dropout", float, 0.1),
        "label_smoothing": losses.take("label_smoothing", float, 0.1),
        "unmasked_weight": losses.take("loss_weight_unmasked_token", float, 0.1),
    }
    if form.dropout:
        prior |= {
            "head": "vocabulary" if entries == words else "codes",
            "dropout": generator.take("dropout", float, 0.1),
            "attention_dropout": generator.take("attn_drop", float, 0.1),
        }
    generator.ignore("dropout", "attn_drop")
    generator.choice("mask_schedule_strategy", ("arccos",), "arccos")
    generator.choice("model_type", ("ViT", "UViT"), "ViT")  # the golden configs name none: the tensors tell the form
    vq.agreed("num_latent_tokens", length)
    _check_length(generator, length)
    vq.ignore(*TOKENIZER)
    model.choice("type", ("titok", "one_d_piece"), "titok")
    model.choice("generator_type", ("maskgit",), "maskgit")
    config = {
        "tokenizer": _tokenizer(source, root),
        "length": length,
        "codebook_size": codes,
        "classes": generator.agreed("condition_num_classes", words - codes - 2) or None,
        "prior": prior,
    }
    return GeneratorConfig.read(config, str(source.path))


def _depth(source: Foreign, form: Form, generator: Settings) -> int:
    depth = len({match[0] for name in source.tensors if (match := re.match(form.block, name))})
    stated = generator.number("num_hidden_layers", depth)
    if depth not in (stated, stated - stated % 2 if form is UVIT else stated):
        text = f"is {stated}, but the tensors are of {depth} blocks; one of the two is wrong"
        raise ConfigError.at(generator.at("num_hidden_layers"), text)
    return depth


def _check_length(generator: Settings, length: int) -> None:
    """The length may be written as a reference to the tokenizer's, which was compared already."""
    if generator.take("image_seq_len", (int, str), length) != "${model.vq_model.num_latent_tokens}":
        generator.agreed("image_seq_len", length)


def _tokenizer(source: Foreign, root: Settings) -> str | None:
    named = root.child("experiment", {}).take("tokenizer_checkpoint", str, "")
    tokenizer = TOKENIZERS.get(Path(named).stem)
    described = source.card_model
    if tokenizer is None and isinstance(described, GeneratorConfig):
        tokenizer = described.tokenizer
    return tokenizer


def _notes(config: GeneratorConfig) -> tuple[str, ...]:
    notes = []
    if config.tokenizer is None:
        notes.append("its config names no tokenizer that is known here: give the one whose codes it models")
    if isinstance(config.prior, BERTMaskGITConfig) and config.prior.head == "vocabulary":
        notes.append("its head also scores mask, classes and null; sampling draws from the codes alone")
    return tuple(notes)


def _sampling(generator: Settings) -> dict[str, Any]:
    sampling = {ours: generator.take(name, kind) for name, (ours, kind) in SAMPLING.items() if name in generator}
    if "guidance_decay" in generator:
        # an early version of the reference had a switch where it now has a name
        schedule = generator.choice("guidance_decay", ("linear", "constant", "power-cosine", True, False))
        sampling["guidance_schedule"] = {True: "linear", False: "constant"}.get(schedule, schedule)
    return sampling


# --- tensors -----------------------------------------------------------------------------------------------------


def _state(source: Foreign, form: Form) -> tuple[dict[str, Tensor], dict[str, str]]:
    state: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for name in source.tensors:
        if name == POSITION_IDS:
            continue
        ours = f"prior.{_translate(name, form)}"
        state[ours], names[ours] = source.tensors[name], name
    _join_attention(state, names)
    if "prior.type_embedding" in state:
        state["prior.type_embedding"] = state["prior.type_embedding"][0]  # all tokens are of type 0
    if form is UVIT and form.positions in source.tensors:
        state["prior.position_embedding"] = state["prior.position_embedding"].flatten(0, -2)
    return state, names


def _translate(name: str, form: Form) -> str:
    for pattern, replacement in form.rules:
        name = re.sub(pattern, replacement, name)
    return name


def _join_attention(state: dict[str, Tensor], names: dict[str, str]) -> None:
    """Queries, keys and values as one layer; a set that is not whole stays as it is, and is told as left over."""
    for query in [name for name in state if ".in_proj.query." in name]:
        whole = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(name in state for name in whole):
            joined = query.replace(".query.", ".")
            names[joined] = names[query].replace(".query.", ".{query,key,value}.")
            state[joined] = torch.cat([state.pop(name) for name in whole])
