"""Checkpoints of MAR's generators (github.com/LTH14/mar, MIT; arXiv 2406.11838): a state, and mostly no config.

All sizes but the heads follow from the tensors; where a config states them too, by the names of the model's arguments,
it must agree.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe_registry import ConfigError, GeneratorConfig

from .head_names import HEAD, count

MARKS = frozenset({"encoder_pos_embed_learned", "diffusion_pos_embed_learned"})
CLASSES, NULL = "class_emb.weight", "fake_latent"
"""Two tensors that are one table here, the row of no class below the classes'."""
TABLES = {
    "encoder_pos_embed_learned": ("encoder_positions", 1),
    "decoder_pos_embed_learned": ("decoder_positions", 1),
    "diffusion_pos_embed_learned": ("places", 1),
    "mask_token": ("mask", 2),
}
"""Our names of tables, and how many dimensions of length 1 the files have before ours."""
RULES = (
    (r"^z_proj\.", "input."),
    (r"^z_proj_ln\.", "input_norm."),
    (r"^decoder_embed\.", "between."),
    (r"^(encoder|decoder)_blocks\.", r"\1."),
    (r"\.attn\.qkv\.", ".attn.in_proj."),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.(fc[12])\.", r".\1."),
    *HEAD,
)
"""Patterns and what replaces them, applied in order."""
PUBLISHED = {768: (12, 2.9), 1024: (16, 3.0), 1280: (16, 3.2)}
"""Attention heads of the published sizes, which no tensor tells, and the guidance that they are published with."""
LENGTH, PASSES = 256, 256
"""Tokens of the published ones, and passes that they are drawn in."""
SCALE = 0.2325
"""What the published ones multiply latents by. It is in no file; here it is the codec's, and so in the tokens."""
TOKENIZER, VALUES = "grid/kl16", 16
"""The VAE of the published ones by itself, as a card, and the values of its tokens."""
PICTURES = ("img_size", "vae_stride", "patch_size", "vae_embed_dim", "grad_checkpointing")
"""Settings that come to no more than the tokens' number and width, or to nothing."""


class MARImporter(Importer):
    """See `MARImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return set(source.tensors) >= MARKS

    def convert(self, source: Foreign) -> Imported:
        config, sampling, notes = _config(source)
        state, names = dict[str, Tensor](), dict[str, str]()
        for theirs in source.tensors:
            if theirs == NULL:
                continue
            tensor, ours = source.tensors[theirs], f"prior.{translate(theirs)}"
            if theirs == CLASSES:
                tensor = torch.cat([tensor, source.tensors[NULL]])
            elif theirs in TABLES:
                tensor = tensor.flatten(0, TABLES[theirs][1]) if tensor.ndim > 1 else tensor
            state[ours], names[ours] = tensor, theirs
        return Imported(config, state, sampling, (*notes, *source.unlike_card(config)), names)


def translate(name: str) -> str:
    """Our name of a file's tensor, within the prior."""
    if name in TABLES:
        return TABLES[name][0]
    if name == CLASSES:
        return "classes.weight"
    for pattern, ours in RULES:
        name = re.sub(pattern, ours, name)
    return name


# --- config ------------------------------------------------------------------------------------------------------


def _config(source: Foreign) -> tuple[GeneratorConfig, dict[str, Any], tuple[str, ...]]:
    settings = source.config()
    length, width = _shape(source, "diffusion_pos_embed_learned", 1, None, None)
    whole, _ = _shape(source, "encoder_pos_embed_learned", 1, None, width)
    classes, _ = _shape(source, CLASSES, None, width)
    _shape(source, NULL, 1, width)
    _shape(source, "mask_token", 1, 1, width)
    own, dim = _shape(source, "diffloss.net.input_proj.weight", None, None)
    if whole <= length:
        told = f"has {whole} rows for {length} tokens and the copies of a class before them; expected more"
        raise ConfigError.at("encoder_pos_embed_learned", told)
    for side in ("encoder", "decoder"):
        settings.agreed(f"{side}_embed_dim", width)
    settings.choice("mlp_ratio", (4, 4.0), 4.0)
    settings.ignore(*PICTURES)
    prior = {
        "type": "mar",
        "width": width,
        "depth": _depth(source, settings),
        "heads": _heads(settings, width),
        "buffer": settings.agreed("buffer_size", whole - length),
        "head_width": settings.agreed("diffloss_w", own),
        "head_depth": settings.agreed("diffloss_d", count(source, r"diffloss\.net\.res_blocks\.\d+\.")),
        "repeats": settings.number("diffusion_batch_mul", 4),
        "least_masked": settings.take("mask_ratio_min", float, 0.7),
        "dropout": settings.take("proj_dropout", float, 0.1),
        "attention_dropout": settings.take("attn_dropout", float, 0.1),
        "class_dropout": settings.take("label_drop_prob", float, 0.1),
    }
    scale = settings.take("scale_factor", float, SCALE)
    if not scale > 0:
        raise ConfigError.at("scale_factor", f"is {scale:g}; expected the number above 0 that latents are times")
    sampling = _sampling(settings, length, width)
    raw = {"length": length, "dim": dim, "mean": [0.0], "deviation": [1.0]}  # the scale is in the tokens
    raw |= {"classes": settings.agreed("class_num", classes), "prior": prior}
    settings.finish()
    described = source.card_model
    usual = TOKENIZER if (length, dim, scale) == (LENGTH, VALUES, SCALE) else None
    raw["tokenizer"] = described.tokenizer if isinstance(described, GeneratorConfig) else usual
    config = GeneratorConfig.read(raw, str(source.path))
    return config, sampling, _notes(source, config, scale)


def _notes(source: Foreign, config: GeneratorConfig, scale: float) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if source.tensors.taken == "model":
        notes = ("it holds no running average of its weights, model_ema: these are as training's last step left them",)
    tokens = f"the cells of a VAE, row by row, times {scale:g}, which is the scaling_factor of its codec"
    if config.tokenizer is None:
        told = f"nothing names its tokenizer: its tokens are {tokens}"
        return (*notes, f"{told}; name one of {config.length} tokens of {config.dim} values")
    if scale != SCALE or not isinstance(source.card_model, GeneratorConfig):
        notes = (*notes, f"its tokenizer is taken to be {config.tokenizer}: its tokens are {tokens}")
    return notes


def _sampling(settings: Settings, length: int, width: int) -> dict[str, Any]:
    """Settings of use: steps where they are set, and what a model of a published size is published with."""
    sampling: dict[str, Any] = {}
    steps = settings.take("num_sampling_steps", (str, int), None)  # text, as the model takes it
    if steps is not None:
        if not str(steps).isdecimal():
            raise ConfigError.at("num_sampling_steps", f"is {steps!r}; expected a whole number")
        sampling["steps"] = int(steps)
    if length == LENGTH and width in PUBLISHED:
        sampling |= {"passes": PASSES, "guidance": PUBLISHED[width][1]}
    return sampling


def _heads(settings: Settings, width: int) -> int:
    heads = settings.number("encoder_num_heads", PUBLISHED.get(width, (None,))[0])
    if heads is None:
        told = f"is not given, and no published one is {width} wide; --assume encoder_num_heads=N"
        raise ConfigError.at("encoder_num_heads", told)
    if settings.number("decoder_num_heads", heads) != heads:
        raise ConfigError.at("decoder_num_heads", f"is not encoder_num_heads, {heads}; one is supported for both")
    number: int = heads
    return number


def _depth(source: Foreign, settings: Settings) -> int:
    depths = {side: count(source, rf"{side}_blocks\.\d+\.") for side in ("encoder", "decoder")}
    if len(set(depths.values())) > 1:
        told = f"has {depths['encoder']} blocks of its encoder and {depths['decoder']} of its decoder"
        raise ConfigError.at(str(source.path), f"{told}; only as many of both are supported")
    for side, depth in depths.items():
        settings.agreed(f"{side}_depth", depth)
    return depths["encoder"]


def _shape(source: Foreign, name: str, *expected: int | None) -> tuple[int, int]:
    """The last two lengths of a tensor.

    Raises:
        ConfigError: it is not there, or of another shape than expected, where that is not None.
    """
    shape = source.tensors.shape(name)
    fits = len(shape) == len(expected) and all(
        length > 0 and wanted in (None, length) for length, wanted in zip(shape, expected, strict=True)
    )
    if not fits:
        told = " x ".join("any" if wanted is None else str(wanted) for wanted in expected)
        raise ConfigError.at(name, f"is of shape {shape}; expected {told}")
    return shape[-2], shape[-1]
