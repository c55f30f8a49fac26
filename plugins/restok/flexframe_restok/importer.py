"""Checkpoints of ResTok (github.com/Kwai-Kolors/ResTok, Apache-2.0) as a config and a state.

A config is the project's yaml, nested: `model.vq_model` and `dataset.preprocessing` say what the model computes and are
read setting by setting. Widths, depths and heads are read off the tensors, and what the config says must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, TensorFile
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe.nn.convolutional import shape_of
from flexframe.nn.levels import level_sizes
from flexframe_registry import ConfigError, TokenizerConfig

from . import BASE, LARGE, SMALL, golden

SIZES = {"small": SMALL, "base": BASE, "large": LARGE}
SECTIONS = ("experiment", "losses", "optimizer", "lr_scheduler", "training")
"""Sections that say how the model was trained; nothing that it computes depends on them."""
MARKS = frozenset({"encoder.patch_embed.weight", "decoder.latent_mask_token"})
TRAINING = ("vf_proj.", "vf_proj_dec.", "mlp_proj.", "foundation_model.")
"""What serves training alone: projections that supervision trains, and its teacher."""
LEVEL = re.compile(r"(encoder|decoder)\.(latent_token_)?level_embedding\.(\d+)")
"""An embedding of one level, which is a row of a table here."""
RENAMES = (
    (r"^latent_tokens$", "encoder.tokens"),
    (r"^pixel_encoder\.conv_out\.", "encoder.pixels_out."),
    (r"^pixel_(encoder|decoder)\.", r"\1.pixels."),
    (r"^encoder\.conv_out\.(\d+)\.", r"quantizer.project.maps.\1."),
    (r"^encoder\.conv_out\.", "quantizer.project."),
    (r"^quantize\.", "quantizer.codebook."),
    (r"^decoder\.decoder_embed\.(\d+)\.", r"decoder.embed.maps.\1."),
    (r"^decoder\.decoder_embed\.", "decoder.embed."),
    (r"^decoder\.latent_mask_token$", "decoder.absent_token"),
    (r"^decoder\.feat_mask_token$", "decoder.semantic_token"),
    (r"^decoder\.ffn\.", "decoder.head."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)


class ResTokImporter(Importer):
    """See `ResTokImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return source.tensors.keys() >= MARKS

    def convert(self, source: Foreign) -> Imported:
        state, names = convert(source.tensors)
        left = [part.rstrip(".") for part in TRAINING if any(name.startswith(part) for name in source.tensors)]
        notes = tuple(f"{part} serves training alone, and is left out" for part in left)
        if not source.settings:
            notes = (*notes, "it has no config: its card's is taken")
            return Imported(from_card(source), state, notes=notes, names=names)
        reader = Reader(source)
        config = TokenizerConfig.read(reader.read(), str(source.path))
        encoder: Any = config.encoder
        # a stage for which there is no block is never reached, and its embedding never read
        state["encoder.cell_levels"] = state["encoder.cell_levels"][: len(encoder.merges()) + 1]
        return Imported(config, state, notes=(*reader.notes, *notes, *source.unlike_card(config)), names=names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        return golden.compare_cases(source, model)


def translate(name: str) -> str:
    """Our name of a file's tensor; of an embedding of one level that of the table which it is a row of."""
    level = LEVEL.fullmatch(name)
    if level is not None:
        return f"{level[1]}.{'token' if level[2] else 'cell'}_levels"
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def convert(tensors: TensorFile) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's state as a `Tokenizer`'s, and the file's name of each tensor, of a table that of its first row."""
    state, names, rows = dict[str, Tensor](), dict[str, str](), dict[str, list[tuple[int, Tensor]]]()
    for theirs in tensors:
        if theirs.startswith(TRAINING):
            continue
        ours, tensor, level = translate(theirs), tensors[theirs], LEVEL.fullmatch(theirs)
        names.setdefault(ours, theirs)
        if level is not None:
            rows.setdefault(ours, []).append((int(level[3]), tensor))
        elif ours.endswith("_token") or (ours.startswith("quantizer.project.") and tensor.ndim == 4):
            state[ours] = tensor.flatten() if ours.endswith("_token") else tensor.flatten(1)
        else:
            state[ours] = tensor
    for ours, parts in rows.items():
        state[ours] = torch.cat([row for _, row in sorted(parts, key=lambda part: part[0])])
    return state, names


class Reader:
    """One config's settings against its tensors; `notes` gathers what a user must know."""

    def __init__(self, source: Foreign) -> None:
        self.source, self.tensors, self.shape = source, source.tensors, source.tensors.shape
        self.notes: list[str] = []
        self.config = source.config()
        self.vq = self.config.child("model").child("vq_model")

    def read(self) -> dict[str, Any]:
        """A `TokenizerConfig` as plain data."""
        length, flag = self.vq.number("num_latent_tokens"), self.vq.take
        raw: dict[str, Any] = {
            "image_size": self.image_size(),
            "length": length,
            "encoder": {"type": "residual-levels", **self.side("encoder"), **self.merging(), "legacy": True},
            "quantizer": self.quantizer(length),
            "masker": self.masker(length),
            "decoder": {"type": "levels", **self.side("decoder")},
        }
        by_level = flag("multi_quant", bool, True)
        raw["quantizer"]["by_level"] = raw["decoder"]["by_level"] = by_level
        raw["decoder"]["semantic"] = "decoder.feat_mask_token" in self.tensors
        self.vq.choice("is_legacy", (True,), True)
        self.vq.choice("vae_encoder", (True,), False)  # published models have it; without, patches are of pixels
        self.vq.choice("learnable_dec_image_tokens", (True,), True)
        self.vq.choice("rope_base_len", (10_000,), 10_000)
        # of training, and of what is decoded by default
        self.vq.ignore("encoder_feature_supervision", "decoder_feature_supervision", "learnable_dec_feat_tokens")
        self.vq.ignore("use_vf", "reverse_proj", "test_num_latent_tokens", "entropy_loss_ratio")
        self.config.child("model").ignore("generator")  # another model, trained on this one's tokens
        self.config.ignore(*SECTIONS)
        self.config.finish()
        return raw

    def image_size(self) -> int:
        """Side of the images."""
        dataset = self.config.child("dataset")
        dataset.ignore("params")
        pre = dataset.child("preprocessing")
        pre.ignore("random_crop", "random_flip", "random_resized_crop", "resize_shorter_edge")
        return int(pre.number("crop_size"))

    def side(self, part: str) -> dict[str, Any]:
        """Transformer and convolutions of one side.

        Raises:
            ConfigError: the tensors are of other networks, or not of the size that the config names.
        """
        heads, blocks = f"{part}.blocks.0.attn.q_norm.weight", rf"{part}\.blocks\.\d+\.norm1\.weight"
        width = self.shape(f"{part}.ln_post.weight")[0]
        own = {"width": width, "depth": sum(re.fullmatch(blocks, name) is not None for name in self.tensors)}
        own["heads"] = width // self.shape(heads)[0]
        short = part[:3]
        named = self.vq.take(f"vit_{short}_model_size", str)
        if own != SIZES.get(named, own):
            told = ", ".join(f"{name} {value}" for name, value in SIZES[named].items())
            text = f"is {named!r}, {told}; the tensors have {', '.join(f'{n} {v}' for n, v in own.items())}"
            raise ConfigError.at(self.vq.at(f"vit_{short}_model_size"), text)
        prefix = f"pixel_{part}."
        shapes = {name.removeprefix(prefix): self.shape(name) for name in self.tensors if name.startswith(prefix)}
        try:
            hidden, multipliers, count = shape_of(shapes)
        except ValueError as error:
            raise ConfigError.at(prefix.rstrip("."), str(error)) from None
        dim = shapes["conv_out.weight"][0] if part == "encoder" else shapes["conv_in.weight"][1]
        self.vq.agreed(f"vit_{short}_patch_size", 2 ** (len(multipliers) - 1))
        return own | {"pixels": {"dim": dim, "hidden": hidden, "multipliers": multipliers, "blocks": count}}

    def merging(self) -> dict[str, Any]:
        """Read from the tensors how cells merge, and how tokens begin.

        Raises:
            ConfigError: cells merge by no whole number.
        """
        flag = self.vq.take
        merges, stages = flag("merge_tokens", bool, False), flag("hierarchy_stages", int, 4)
        ratio = flag("reduction_ratio", float, 0.5)
        each = round(1 / (1 - ratio)) if 0 < ratio < 1 else 0
        if merges and (not each or abs(each * (1 - ratio) - 1) > 1e-6):
            raise ConfigError.at(self.vq.at("reduction_ratio"), f"is {ratio}, which makes one cell of no whole number")
        own = {"stages": max(stages, 1) if merges else 1, "merge": max(each, 2)}
        residual, levels = flag("residual_latent_tokens", bool, True), flag("latent_hierarchy", bool, True)
        learned = flag("learnable_latent_tokens", bool, False)
        start = "learned" if learned else "flat" if not levels else "residual" if residual else "pooled"
        return own | {"residual_cells": flag("residual_image_tokens", bool, True), "start": start}

    def quantizer(self, length: int) -> dict[str, Any]:
        """Fields of the codebook."""
        size, dim = self.shape("quantize.embedding.weight")
        self.vq.agreed("codebook_size", size)
        self.vq.agreed("token_size", dim)
        maps = sum(name.startswith("decoder.latent_token_level_embedding.") for name in self.tensors)
        if maps != len(level_sizes(length)):
            text = f"is {length}, whose levels are {len(level_sizes(length))}, and the tensors are of {maps}"
            raise ConfigError.at(self.vq.at("num_latent_tokens"), text)
        norm, commitment = self.vq.take("use_l2_norm", bool), self.vq.take("commitment_cost", float)
        return {"type": "vq", "codebook_size": size, "dim": dim, "l2_norm": norm, "commitment": commitment}

    def masker(self, length: int) -> dict[str, Any]:
        """The lengths that training draws; a config of use names none."""
        drops, share = self.vq.take("drop_latent_tokens", bool, True), self.vq.take("drop_prob", float, 0.2)
        least = self.vq.number("num_min_tokens", 1)
        drop = 1 / int(1 / share) if drops and share > 0 else 0.0  # as the reference's whole weights come out
        if not drop:
            path = "masker.drop=0.2"
            self.notes.append(f"its config, as one of use, drops no tokens; to train on as published, set {path}")
        return {"type": "doubling", "least": min(least, length), "drop": drop, "quantize_all": True}


def from_card(source: Foreign) -> TokenizerConfig:
    """The config of a bare weights file: that of the card through which it was named.

    Raises:
        ConfigError: it was not named through a card of a tokenizer.
    """
    if not isinstance(source.card_model, TokenizerConfig):
        name = source.path.stem if source.path.is_file() else "config"
        text = f"has no config. Put the yaml it was trained with beside it, as {name}.yaml, or name a card"
        raise ConfigError.at(str(source.path), f"{text} whose weights it is, as restok/l-128")
    return source.card_model


def gradient_of(name: str, own: Mapping[str, Tensor | None]) -> Tensor | None:
    """The gradient of a parameter by the checkpoint's name, of ours by our names; of a level's embedding the row."""
    level, found = LEVEL.fullmatch(name), own.get(translate(name))
    return found if level is None or found is None else found[int(level[3])]
