"""Reads MaskGen of github.com/bytedance/1d-tokenizer (Apache-2.0), of integer codes and of continuous tokens.

Sizes follow from the tensors; where the config states them too, it must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe_registry import ConfigError, GeneratorConfig

from . import CLIP
from . import maskgen_golden as golden

SECTIONS = ("experiment", "dataset", "optimizer", "lr_scheduler", "training")
"""Top-level sections about how the model was trained; they change nothing in the model."""
MARKS = {"vq": "text_embed_proj.weight", "kl": "text_pooled_emb.weight"}
LENGTH = 77
"""Vectors of a text in the publication, which no tensor tells."""
TABLES = {
    "pos_embed": "position_embedding", "decoder_pos_embed_learned": "positions", "mask_token": "mask",
    "diffusion_pos_embed_learned": "places",
}  # fmt: skip
"""Tables that the files have with a dimension or two more."""
RULES = (
    (r"^embeddings\.", "embedding."),
    (r"^lm_head\.", "head."),
    (r"^(text_embed_proj|text_emb)\.", "reader.text."),
    (r"^(cond_pooled_proj|text_pooled_emb)\.", "reader.pooled."),
    (r"^z_proj\.", "input."),
    (r"^z_proj_ln\.", "input_norm."),
    (r"^(decoder_)?norm\.linear\.", "body.norm.linear."),
    (r"^(decoder_)?blocks\.", "body.blocks."),
    (r"\.norm1\.linear\.", ".image.modulation."),
    (r"\.norm1_context\.linear\.", ".text.modulation."),
    (r"\.attn\.to_out\.0\.", ".image.proj."),
    (r"\.attn\.to_add_out\.", ".text.proj."),
    (r"\.attn\.to_([qkv])\.", r".image.qkv.\1."),
    (r"\.attn\.add_([qkv])_proj\.", r".text.qkv.\1."),
    (r"\.ff\.net\.0\.proj\.", ".image.fc1."),
    (r"\.ff\.net\.2\.", ".image.fc2."),
    (r"\.ff_context\.net\.0\.proj\.", ".text.fc1."),
    (r"\.ff_context\.net\.2\.", ".text.fc2."),
    (r"^diffloss\.net\.time_embed\.", "head.time."),
    (r"^diffloss\.net\.cond_embed\.", "head.said."),
    (r"^diffloss\.net\.input_proj\.", "head.input."),
    (r"^diffloss\.net\.final_layer\.linear\.", "head.output."),
    (r"^diffloss\.net\.final_layer\.adaLN_modulation\.1\.", "head.modulation."),
    (r"^diffloss\.net\.res_blocks\.", "head.layers."),
    (r"\.in_ln\.", ".norm."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
)
"""Patterns and what replaces them, applied in order."""
THIRD = re.compile(r"\.qkv\.([qkv])\.")
LETTERS = "qkv"
DEAD = ".add_q_proj."
"""Of the last block: queries of a text that it does not give."""


class MaskGenImporter(Importer):
    """One importer for both forms."""

    def recognises(self, source: Foreign) -> bool:
        return _form(source) is not None

    def convert(self, source: Foreign) -> Imported:
        reader = Reader(source)
        config, sampling = reader.read()
        state, names = reader.state(config)
        notes = []
        if config.tokenizer is None:
            notes.append("nothing names its tokenizer: give the one whose tokens it models")
        return Imported(config, state, sampling, tuple(notes), names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        return golden.compare_cases(source, model)


def _form(source: Foreign) -> str | None:
    names = source.tensors.keys()
    return next((form for form, mark in MARKS.items() if mark in names), None)


def translate(name: str, last: int) -> str:
    """Our name of a file's tensor, within the prior.

    Args:
        last: number of the last block, whose text side is another.
    """
    if name in TABLES:
        return TABLES[name]
    for pattern, ours in RULES:
        name = re.sub(pattern, ours, name)
    name = name.replace(f"body.blocks.{last}.text.modulation.", f"body.blocks.{last}.text_norm.linear.")
    return name.replace(f"body.blocks.{last}.text.qkv.", f"body.blocks.{last}.text_kv.qkv.")


class Reader:
    """The tensors' sizes and the config's settings, which must agree."""

    def __init__(self, source: Foreign) -> None:
        self.source, self.shape = source, source.tensors.shape
        form = _form(source)
        if form is None:
            raise ConfigError.at(str(source.path), f"has neither {MARKS['vq']} nor {MARKS['kl']}, so it is no MaskGen")
        self.vq, self.blocks = form == "vq", "blocks." if form == "vq" else "decoder_blocks."
        pattern = rf"{self.blocks}\d+\."
        self.depth = len({found[0] for name in source.tensors if (found := re.match(pattern, name))})

    def read(self) -> tuple[GeneratorConfig, dict[str, Any]]:
        """The config, and the settings of use that the file's config names."""
        shape, root = self.shape, self.source.config()
        model = root.child("model", {})
        vq, own, losses = model.child("vq_model", {}), model.child("maskgen", {}), root.child("losses", {})
        vq.choice("quantize_mode", ("vq",) if self.vq else ("vae",), "vq" if self.vq else "vae")
        width, inner = shape(MARKS["vq"] if self.vq else "text_emb.weight")
        scores = own.number("micro_condition_embed_dim", 0) if own.take("micro_condition", bool, False) else 0
        pooled = shape("cond_pooled_proj.weight" if self.vq else MARKS["kl"])[1] - scores
        prior = {
            "width": own.agreed("decoder_embed_dim", width),
            "depth": own.agreed("decoder_depth", self.depth),
            "heads": own.number("decoder_num_heads", 16),
            "score_width": scores,
            "class_dropout": own.take("text_drop_prob", float, 0.1),
        }
        vq.agreed("text_embed_dim", inner)
        read = self.integers if self.vq else self.values
        raw, sampling = read(prior, vq, own, losses)
        score = own.take("sample_aesthetic_score", float, None)
        sampling |= {} if score is None else {"score": score}
        own.ignore("sample_aesthetic_score", "text_drop_prob")
        vq.ignore(*(name for name in vq if name not in ("quantize_mode", "text_embed_dim", "codebook_size")))
        model.ignore(*(name for name in model if name not in ("vq_model", "maskgen")))
        root.ignore(*SECTIONS)
        root.finish()
        described = self.source.card_model
        raw["tokenizer"] = described.tokenizer if isinstance(described, GeneratorConfig) else None
        if pooled != inner:
            told = f"has pooled texts {pooled} wide beside texts {inner} wide; only CLIP's, of one width, are supported"
            raise ConfigError.at(str(self.source.path), told)
        texts = {"layer": "penultimate", "projected": True, "padded": True}
        raw["conditioner"] = {"type": "clip", "model": CLIP, "width": inner, "length": LENGTH, **texts}
        return GeneratorConfig.read(raw, str(self.source.path)), sampling

    def integers(
        self, prior: dict[str, Any], vq: Settings, own: Settings, losses: Settings
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Form of integer codes."""
        rows, codes = self.shape("embeddings.weight")[0], vq.number("codebook_size")
        if rows != codes + 2 + (classes := own.number("condition_num_classes", 1000)):
            text = f"is {codes}, and the table's rows are {rows}, of codes, a mask, {classes} classes and a null"
            raise ConfigError.at(vq.at("codebook_size"), text)
        tied = own.take("weight_tying", bool, True)
        prior |= {
            "type": "maskgen-vq",
            "hidden": self.shape(f"{self.blocks}0.ff.net.0.proj.weight")[0],
            "tied": tied,
            "label_smoothing": losses.take("label_smoothing", float, 0.1),
            "unmasked_weight": losses.take("loss_weight_unmasked_token", float, 0.1),
        }
        sampling = {
            ours: own.take(theirs, kind)
            for ours, theirs, kind in (
                ("steps", "num_iter", int),
                ("guidance", "cfg", float),
                ("guidance_schedule", "cfg_schedule", str),
                ("temperature", "temperature", float),
            )
            if theirs in own
        }
        return {"length": self.shape("pos_embed")[1], "codebook_size": codes, "prior": prior}, sampling

    def values(
        self, prior: dict[str, Any], vq: Settings, own: Settings, losses: Settings
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Form of continuous tokens."""
        head_width, dim = self.shape("diffloss.net.input_proj.weight")
        pattern = r"diffloss\.net\.res_blocks\.\d+\."
        depth = len({found[0] for name in self.source.tensors if (found := re.match(pattern, name))})
        prior |= {
            "type": "maskgen-kl",
            "head_width": losses.agreed("diffloss_w", head_width),
            "head_depth": losses.agreed("diffloss_d", depth),
            "repeats": losses.number("diffusion_batch_mul", 4),
        }
        vq.agreed("token_size", dim)
        scale = vq.take("scale_factor", float, 0.7525)
        sampling: dict[str, Any] = {"steps": int(losses.take("num_sampling_steps", str, "100"))}
        for ours, theirs, kind in (
            ("passes", "num_iter", int),
            ("guidance", "cfg", float),
            ("guidance_schedule", "cfg_schedule", str),
            ("temperature", "temperature", float),
        ):
            if theirs in own:
                sampling[ours] = own.take(theirs, kind)
        length = self.shape("decoder_pos_embed_learned")[1]
        raw = {"length": length, "dim": dim, "mean": [0.0], "deviation": [1 / scale], "prior": prior}
        return raw, sampling

    def state(self, config: GeneratorConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors as ours stand, and the file's names of them."""
        state, names = dict[str, Tensor](), dict[str, str]()
        last = f"{self.blocks}{self.depth - 1}."
        for theirs in self.source.tensors:
            if theirs.startswith(last) and DEAD in theirs:
                continue
            tensor, ours = self.source.tensors[theirs], f"prior.{translate(theirs, self.depth - 1)}"
            if theirs == "embeddings.weight":
                tensor = tensor[: config.spec.entries + 1]
            elif theirs == "lm_head.weight":
                if getattr(config.prior, "tied", False):
                    continue
                tensor = tensor[: config.spec.entries]
            elif theirs in TABLES:
                tensor = tensor.flatten(0, 1) if theirs != "mask_token" else tensor.flatten()
            state[ours], names[ours] = tensor, theirs
        self._join(state, names)
        return state, names

    @staticmethod
    def _join(state: dict[str, Tensor], names: dict[str, str]) -> None:
        """Queries, keys and values as one layer."""
        for key in [name for name in state if ".qkv.k." in name]:
            letters = [letter for letter in LETTERS if key.replace(".qkv.k.", f".qkv.{letter}.") in state]
            parts = [key.replace(".qkv.k.", f".qkv.{letter}.") for letter in letters]
            joined = key.replace("text_kv.qkv.k.", "text_kv.").replace(".qkv.k.", ".qkv.")
            names[joined] = names[key]
            state[joined] = torch.cat([state.pop(part) for part in parts])
