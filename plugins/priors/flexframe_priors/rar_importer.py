"""Reads RAR of github.com/bytedance/1d-tokenizer (Apache-2.0).

The published files are bare tensors without a config. All sizes follow from the tensors, the heads from the norms of
queries and keys; where a config states them too, it must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe.models.generator import Generator
from flexframe_registry import ConfigError, GeneratorConfig

from . import RARConfig
from .rar_cases import compare_cases

MARKS = frozenset({"target_aware_pos_embed", "timesteps_embeddings", "cls_token", "lm_head.weight"})
PREFIX = 2
"""Positions before the tokens: the start and the class."""
SPARE = {"pos_embed": 1024, "target_aware_pos_embed": 1024, "timesteps_embeddings": 100}
"""Rows of the position tables beyond the length. Of them the tables hold `PREFIX` that are read at the most."""
SECTIONS = ("experiment", "dataset", "optimizer", "lr_scheduler", "training")
"""Top-level sections about how the model was trained; they change nothing in the model."""
TOKENIZER = ("token_size", "finetune_decoder", "use_l2_norm", "commitment_cost", "channel_mult", "hidden_channels")
"""Settings of the tokenizer, which is a model of its own."""
TOKENIZERS = {"maskgit-vqgan-imagenet-f16-256": "grid/maskgit-vqgan"}
"""The cards of the tokenizers that configs name by file."""
SAMPLING = {"randomize_temperature": "temperature", "guidance_scale": "guidance", "guidance_scale_pow": "power"}
RULES = (
    (r"^cls_token$", "start"),
    (r"^pos_embed$", "positions"),
    (r"^target_aware_pos_embed$", "targets"),
    (r"^timesteps_embeddings$", "steps"),
    (r"^adaln_before_head\.adaLN_modulation\.", "head.modulation."),
    (r"^lm_head\.", "head.linear."),
    (r"\.adaLN_modulation\.", ".modulation."),
    (r"\.mlp\.", "."),
)
"""Patterns and what replaces them, applied in order."""


class RARImporter(Importer):
    """Published tensors hold rows that nothing reads; those are left away."""

    def recognises(self, source: Foreign) -> bool:
        return set(source.tensors) >= MARKS

    def convert(self, source: Foreign) -> Imported:
        root = source.config()
        config = _config(source, root)
        sampling = _sampling(root.child("model", {}).child("generator", {}))
        root.ignore(*SECTIONS)
        root.finish()
        notes = []
        if config.tokenizer is None:
            notes.append("nothing names its tokenizer: give the one whose codes it models")
        state, names = _state(source, config)
        return Imported(config, state, sampling, tuple(notes), names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        assert isinstance(model, Generator)
        return compare_cases(source, model)


# --- config ------------------------------------------------------------------------------------------------------


def _config(source: Foreign, root: Settings) -> GeneratorConfig:
    shape, model = source.tensors.shape, root.child("model", {})
    vq, generator = model.child("vq_model", {}), model.child("generator", {})
    codes, width = shape("lm_head.weight")[0], shape("lm_head.weight")[-1]
    length = _length(source)
    described = source.card_model if isinstance(source.card_model, GeneratorConfig) else None
    usual = described.prior if described is not None and isinstance(described.prior, RARConfig) else RARConfig()
    prior = {
        "type": "rar",
        "width": generator.agreed("hidden_size", width),
        "depth": generator.agreed("num_hidden_layers", _depth(source)),
        "heads": generator.agreed("num_attention_heads", width // shape("blocks.0.attn.q_norm.weight")[0]),
        "hidden": generator.agreed("intermediate_size", shape("blocks.0.mlp.fc1.weight")[0]),
        "dropout": generator.take("dropout", float, usual.dropout),
        "attention_dropout": generator.take("attn_drop", float, usual.attention_dropout),
        "class_dropout": generator.take("class_label_dropout", float, usual.class_dropout),
        "anneal_start": generator.take("randomness_anneal_start", int, usual.anneal_start),
        "anneal_end": generator.take("randomness_anneal_end", int, usual.anneal_end),
    }
    generator.ignore("use_checkpoint")  # memory against time in training
    if generator.take("image_seq_len", (int, str), length) != "${model.vq_model.num_latent_tokens}":
        generator.agreed("image_seq_len", length)
    vq.agreed("num_latent_tokens", length)
    vq.ignore(*TOKENIZER)
    classes = (
        shape("embeddings.weight")[0] - codes - 2
    )  # behind the codes stands a mask, which nothing reads; then null
    named = TOKENIZERS.get(Path(vq.take("pretrained_tokenizer_weight", str, "")).stem)
    config = {
        "tokenizer": named or (described.tokenizer if described is not None else None),
        "length": length,
        "codebook_size": vq.agreed("codebook_size", codes),
        "classes": generator.agreed("condition_num_classes", classes) or None,
        "prior": prior,
    }
    return GeneratorConfig.read(config, str(source.path))


def _length(source: Foreign) -> int:
    rows = {name: source.tensors.shape(name)[-2] for name in SPARE}
    lengths = {name: rows[name] - spare for name, spare in SPARE.items()}
    if len(set(lengths.values())) != 1 or min(lengths.values()) < 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        expected = ", ".join(str(spare) for spare in SPARE.values())
        raise ConfigError.at(str(source.path), f"its tables have rows {told}; expected the length and {expected} more")
    return lengths["pos_embed"]


def _depth(source: Foreign) -> int:
    return len({match[0] for name in source.tensors if (match := re.match(r"blocks\.\d+\.", name))})


def _sampling(generator: Settings) -> dict[str, Any]:
    sampling = {ours: generator.take(name, float) for name, ours in SAMPLING.items() if name in generator}
    if sampling.get("guidance") == 0:  # which there stands for no guidance at all
        sampling["guidance"] = 1.0
    return sampling


# --- tensors -----------------------------------------------------------------------------------------------------


def _state(source: Foreign, config: GeneratorConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    state: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    end, entries = PREFIX + config.length, config.spec.entries
    for name in source.tensors:
        tensor, ours = source.tensors[name], name
        for pattern, replacement in RULES:
            ours = re.sub(pattern, replacement, ours)
        if name == "embeddings.weight":
            pieces = {
                "token_embedding.weight": tensor[:entries],
                "class_embedding.weight": tensor[entries + 1 :],
            }
        elif name in SPARE:
            pieces = {ours: tensor[0, PREFIX if name == "target_aware_pos_embed" else 0 : end]}
        elif name == "cls_token":
            pieces = {ours: tensor.flatten()}
        else:
            pieces = {ours: tensor}
        state |= {f"prior.{piece}": value for piece, value in pieces.items()}
        names |= {f"prior.{piece}": name for piece in pieces}
    return state, names
