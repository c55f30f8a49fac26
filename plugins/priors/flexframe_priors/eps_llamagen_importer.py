"""Checkpoints of eps-LlamaGen, Semanticist's generator (github.com/visual-gen/semanticist, MIT): a config and a state.

Sizes are read off the tensors, and what a config says of them must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe_registry import ConfigError, GeneratorConfig

from . import eps_llamagen_golden as golden
from .head_names import HEAD, count

MARKS = frozenset({"diffusion_pos_embed_learned", "pos_embed_learned", "cls_embedding.embedding_table.weight"})
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24}
"""Attention heads of the published sizes, by width, which no tensor tells."""
TABLES = {"pos_embed_learned": "positions", "diffusion_pos_embed_learned": "places"}
"""Tables that the files have with one dimension more."""
RULES = (
    (r"\._orig_mod\b", ""),
    (r"^cls_embedding\.embedding_table\.", "classes."),
    (r"^z_proj\.", "input."),
    (r"^z_proj_ln\.", "input_norm."),
    (r"^layers\.", "blocks."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.ffn_norm\.", ".norm2."),
    (r"\.attention\.wqkv\.", ".qkv."),
    (r"\.attention\.wo\.", ".proj."),
    (r"\.feed_forward\.w2\.", ".fc2."),
    *HEAD,
)
"""Patterns and what replaces them, applied in order."""
GATE, INNER = ".feed_forward.w1.", ".feed_forward.w3."
"""Two layers that are one here, one above the other."""


class EpsLlamaGenImporter(Importer):
    """See `EpsLlamaGenImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return {translate(name) for name in source.tensors} >= {translate(name) for name in MARKS}

    def convert(self, source: Foreign) -> Imported:
        config, sampling, notes = _config(source)
        state, names = dict[str, Tensor](), dict[str, str]()
        for theirs in source.tensors:
            if INNER in theirs:
                continue
            tensor, ours = source.tensors[theirs], f"prior.{translate(theirs)}"
            if GATE in theirs and theirs.replace(GATE, INNER) in source.tensors:
                tensor = torch.cat([tensor, source.tensors[theirs.replace(GATE, INNER)]])
            state[ours] = tensor[0] if theirs in TABLES and tensor.ndim == 3 else tensor
            names[ours] = theirs
        return Imported(config, state, sampling, (*notes, *source.unlike_card(config)), names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        return golden.compare_cases(source, model, gradient_of)


def translate(name: str) -> str:
    """Our name of a file's tensor, within the prior."""
    if name in TABLES:
        return TABLES[name]
    for pattern, ours in (*RULES, (re.escape(GATE), ".fc1."), (re.escape(INNER), ".fc1.")):
        name = re.sub(pattern, ours, name)
    return name


def _config(source: Foreign) -> tuple[GeneratorConfig, dict[str, Any], tuple[str, ...]]:
    shape, settings = source.tensors.shape, source.config()
    params, described = _below(settings), source.card_model
    sizes = settings.child("tiny_sizes", {})
    (_, length, width), (classes, _) = (
        shape("diffusion_pos_embed_learned"),
        shape("cls_embedding.embedding_table.weight"),
    )
    head, (own, _) = "diffloss.net.", shape("diffloss.net.cond_embed.weight")
    dim, depth = shape(f"{head}input_proj.weight")[1], count(source, r"layers\.\d+\.")
    flow = shape(f"{head}final_layer.linear.bias")[0] == dim
    joined = shape(f"{head}final_layer.linear.weight")[1] == 2 * own
    heads = sizes.number("n_head", HEADS.get(width))
    if heads is None:
        raise ConfigError.at(sizes.at("n_head"), f"is not given, and no published one is {width} wide; --assume it")
    for name, value in (("n_layer", depth), ("dim", width)):
        sizes.agreed(name, value)
    dropout = params.take("resid_dropout_p", float, 0.1)
    if params.take("ffn_dropout_p", float, dropout) != dropout:
        raise ConfigError.at(
            params.at("ffn_dropout_p"), f"is not resid_dropout_p, {dropout:g}; one is supported for both"
        )
    prior = {
        "type": "causal-denoising",
        "width": width,
        "depth": depth,
        "heads": heads,
        "head_width": params.agreed("diffloss_w", own),
        "head_depth": params.agreed("diffloss_d", count(source, r"diffloss\.net\.res_blocks\.\d+\.")),
        "condition": "joined" if joined else "added",
        "process": "flow" if flow else "diffusion",
        "repeats": params.number("diffusion_batch_mul", 4),
        "dropout": dropout,
        "class_dropout": params.take("class_dropout_prob", float, 0.1),
    }
    params.choice("use_si", (flow,), flow)
    params.choice("cond_method", ("concat" if joined else "adaln",), "concat" if joined else "adaln")
    params.choice("cls_token_num", (1,), 1)
    params.agreed("num_slots", length)
    params.agreed("slot_dim", dim)
    params.agreed("num_classes", classes - 1)
    steps = params.take("num_sampling_steps", str, "100")  # of a diffusion; that of the flow is always of 250
    sampling = {} if flow else {"steps": int(steps)}
    settings.finish()
    raw = {"length": length, "dim": dim, "mean": [0.0], "deviation": [1.0], "classes": classes - 1, "prior": prior}
    if isinstance(described, GeneratorConfig):
        raw["tokenizer"] = described.tokenizer
    notes = () if raw.get("tokenizer") else ("nothing names its tokenizer: give the one whose tokens it models",)
    return GeneratorConfig.read(raw, str(source.path)), sampling, notes


def _below(settings: Settings) -> Settings:
    """The generator's own settings in the project's config; what stands around them is of its training."""
    inner = settings.child("trainer", {})
    inner.ignore("target")
    inner = inner.child("params", {})
    inner.ignore(*(name for name in inner if name != "gpt_model"))
    inner = inner.child("gpt_model", {})
    inner.ignore("target")
    return inner.child("params", {})


def gradient_of(parameters: Mapping[str, Any], theirs: str) -> Tensor | None:
    """The gradient of a file's tensor."""
    gradient: Tensor | None = parameters[translate(theirs)].grad
    if gradient is not None and (GATE in theirs or INNER in theirs):
        return gradient.chunk(2)[int(INNER in theirs)]
    return gradient
