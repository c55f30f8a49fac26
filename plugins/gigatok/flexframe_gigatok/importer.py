"""Checkpoints of GigaTok (github.com/SilentView/GigaTok, MIT) as a config and a state.

Sizes are read off the tensors, and what a config says of them must agree. A published file holds its weights under
`ema` and `model`, and no config; the project's yaml may lie beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe_registry import ConfigError, TokenizerConfig

from . import golden

SIZES = {
    "tiny": (256, 4, 4),
    "small": (512, 6, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "xl": (1280, 36, 20),
    "xxl": (1536, 48, 24),
}
"""Width, blocks and attention heads by the published names of sizes."""
HEADS = {width: heads for width, _, heads in SIZES.values()}
MARKS = frozenset({"s2to1encoder.encoder_embed.weight", "s1to2decoder.decoder_embed.weight"})
RENAMES = (
    (r"^(encoder|decoder)\.", r"\1.conv."),
    (r"^decoder\.conv\.adaptive\.(\d+)\.", r"decoder.conv.levels.\1.adaptive."),
    (r"\.conv_blocks\.", ".levels."),
    (r"\.downsample\.conv\.", ".conv."),
    (r"\.upsample\.conv1\.", ".conv."),
    (r"^quant_conv\.", "quantizer.project."),
    (r"^post_quant_conv\.", "decoder.from_tokens."),
    (r"^quantize\.", "quantizer.codebook."),
    (r"^s2to1encoder\.positional_embedding", "encoder.places"),
    (r"^s2to1encoder\.latent_token_positional_embedding", "encoder.positions"),
    (r"^s1to2decoder\.positional_embedding", "decoder.positions"),
    (r"^s1to2decoder\.latent_token_positional_embedding", "decoder.places"),
    (r"^(?:s2to1|s1to2)(encoder|decoder)\.", r"\1."),
    (r"^(encoder|decoder)\.\w+_embed\.", r"\1.embed."),
    (r"^encoder\.global_proj\.", "encoder.start."),
    (r"^(encoder|decoder)\.ln_pre\.", r"\1.norm_in."),
    (r"^(encoder|decoder)\.ln_post\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.conv_out\.", r"\1.out."),
    (r"\.transformer\.", ".blocks."),
    (r"\.self_attn\.", ".own."),
    (r"\.multihead_attn\.", ".cross."),
    (r"\.out_proj\.", ".out."),
    (r"\.linear1\.", ".mlp.0."),
    (r"\.linear2\.", ".mlp.2."),
)
TABLE = re.compile(r".*positional_embedding")
"""Tables that the files have with one dimension more."""
POINTWISE = re.compile(r"(post_)?quant_conv\.weight|s2to1encoder\.conv_out\.weight")
"""1x1 convolutions, which are linear maps here."""
STACKED = re.compile(r"(.*\.)in_proj_(weight|bias)")
"""Maps to queries, keys and values, one under the other."""
DISTILL = "s1to2decoder.distill_mlp."
"""The projection that distillation trains; of training alone."""
COUNTS = "quantize.codebook_used"
"""A record of the codes last seen."""


class GigaTokImporter(Importer):
    """See `GigaTokImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return source.tensors.keys() >= MARKS

    def convert(self, source: Foreign) -> Imported:
        reader = Reader(source)
        config = TokenizerConfig.read(reader.read(), str(source.path))
        state, names = dict[str, Tensor](), dict[str, str]()
        for theirs in source.tensors:
            if theirs != COUNTS and not theirs.startswith(DISTILL):
                ours = translate(theirs)
                state |= zip(ours, shaped(theirs, source.tensors[theirs], len(ours)), strict=True)
                names |= dict.fromkeys(ours, theirs)
        return Imported(config, state, {}, (*reader.notes, *source.unlike_card(config)), names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        return golden.compare_cases(source, model)


def translate(name: str) -> list[str]:
    """Our names of a file's tensor: of one, or of the three that stand in it one under the other."""
    stacked = STACKED.fullmatch(name)
    if stacked is not None:
        return [translate(f"{stacked[1]}{part}.{stacked[2]}")[0] for part in ("query", "key", "value")]
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return [name]


def shaped(name: str, tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
    """A file's tensor as ours are."""
    if TABLE.fullmatch(name) and tensor.ndim == 3:
        tensor = tensor[:, 0]
    elif POINTWISE.fullmatch(name) and tensor.ndim == 4:
        tensor = tensor[:, :, 0, 0]
    return tensor.chunk(parts)


class Reader:
    """The tensors' sizes and the config's settings, which must agree; `notes` gathers what a user must know."""

    def __init__(self, source: Foreign) -> None:
        self.source, self.shape = source, source.tensors.shape
        self.notes: list[str] = []

    def read(self) -> Mapping[str, Any]:
        """A `TokenizerConfig` as plain data."""
        settings = self.source.config()
        if "model" not in self.source.settings:
            self.notes.append(
                "it has no config: sizes are its tensors', heads those of the published widths, and the codebook is "
                "normalised and passes gradients by rotation, as the published ones do"
            )
        if any(name.startswith(DISTILL) for name in self.source.tensors):
            self.notes.append("the projection that distillation trains serves training alone, and is left out")
        sizes = settings.child("tiny_sizes", {})
        settings.ignore("trainer", "loss", "data")  # of training
        model = settings.child("model", {})
        model.choice("model_cls", ("VQVitModelPlus",), "VQVitModelPlus")
        causal = model.child("causal_settings", {})
        causal.choice("causal_type", (None,), None)
        causal.choice("dynamic_length_train", (False,), False)
        causal.ignore("dynamic_level_range", "min_level")
        args = model.child("init_args", {})
        raw = self.sizes(args, sizes)
        args.choice("multi_level_query_init", (True,), True)
        args.choice("adaptive_gn", (True,), True)
        args.choice("d2s_up", (True,), True)
        for name in ("use_attn", "last_level_2d_query_init", "multi_level_2d_query_init"):
            args.choice(name, (False,), False)
        args.choice("dropout_p", (0.0,), 0.0)
        # of training: the teacher's width and place, how features are compared; and a log's
        args.ignore("fea_rec_loss_type", "fea_rec_loss_weight", "distill_depth", "out_inner_dim", "codebook_show_usage")
        settings.finish()
        return raw

    def sizes(self, args: Settings, sizes: Settings) -> dict[str, Any]:
        """Widths by part."""
        entries, dim = self.shape("quantize.embedding.weight")
        length = args.agreed("num_latent_tokens", self.shape("s2to1encoder.latent_token_positional_embedding")[0])
        channels = args.agreed("z_channels", self.shape("encoder.conv_out.weight")[0])
        hidden = sizes.agreed("cnn_channels", self.shape("encoder.conv_in.weight")[0])
        parts = {}
        whole = args.take("model_size", (str, type(None)), None)
        known = sizes.child("sizes", {})
        for part, transformer in (("encoder", "s2to1encoder"), ("decoder", "s1to2decoder")):
            multipliers = self.multipliers(args, part, hidden)
            name = args.take(f"{part}_size", (str, type(None)), None) or whole
            own = self.transformer(known, name, transformer, part)
            parts[part] = {"type": "q-former", **own, "hidden": hidden, "multipliers": multipliers}
            parts[part]["channels"] = channels
        known.ignore(*known)
        cells = self.shape("s2to1encoder.positional_embedding")[0]
        if isqrt(cells) ** 2 != cells:
            raise ConfigError.at(str(self.source.path), f"has positions of {cells} cells, which is no square grid")
        side = sizes.agreed("image_size", isqrt(cells) * 2 ** (len(parts["encoder"]["multipliers"]) - 1))
        quantizer = {
            "type": "vq",
            "codebook_size": args.agreed("codebook_size", entries),
            "dim": args.agreed("codebook_embed_dim", dim),
            "l2_norm": args.take("codebook_l2_norm", bool, True),
            "commitment": args.take("commit_loss_beta", float, 0.25),
            "rotation_trick": args.take("rot", bool, True),
        }
        if entropy := args.take("entropy_loss_ratio", float, 0.0):
            quantizer |= {"entropy": entropy, "entropy_floor": 1e-5}
        return {"image_size": side, "length": length, **parts, "quantizer": quantizer}

    def multipliers(self, args: Settings, part: str, hidden: int) -> list[int]:
        """Widths of a convolutional network's resolutions in units of its base width, the finest first."""
        place, widths = f"{part}.conv_blocks.{{}}.res.0.conv1.weight", list[int]()
        while place.format(len(widths)) in self.source.tensors:
            widths.append(self.shape(place.format(len(widths)))[0])
        if any(width % hidden for width in widths):
            raise ConfigError.at(str(self.source.path), f"has levels of {widths} channels, no multiples of {hidden}")
        found = [width // hidden for width in (widths if part == "encoder" else widths[::-1])]
        args.choice(f"{part}_ch_mult", (found,), found)
        return found

    def transformer(self, known: Settings, name: str | None, tensors: str, part: str) -> dict[str, int]:
        """Width, blocks and heads of one transformer: the first two are its tensors', and heads leave no trace."""
        pattern = rf"{tensors}\.transformer\.\d+\.linear1\.weight"
        width = self.shape(f"{tensors}.ln_post.weight")[0]
        depth = sum(re.fullmatch(pattern, each) is not None for each in self.source.tensors)
        key = name or part
        path, sizes = f"tiny_sizes.sizes.{key}", Settings({})
        if key in known:
            sizes = known.child(key)
        elif name in SIZES:
            published = dict(zip(("width", "layers", "heads"), SIZES[name], strict=True))
            sizes = Settings(published, f"model.init_args.{part}_size")
        sizes.agreed("width", width)
        sizes.agreed("layers", depth)
        heads = sizes.number("heads", HEADS.get(width))
        if heads is None:
            text = f"is not given, and no published transformer is {width} wide; --assume {path}.heads=N"
            raise ConfigError.at(f"{path}.heads", text)
        return {"width": width, "depth": depth, "heads": int(heads)}


def joined(name: str, tensors: Mapping[str, Tensor | None]) -> Tensor | None:
    """Ours by name, as one of the file's: its own shape but for dimensions of one."""
    parts = [tensors.get(ours) for ours in translate(name)]
    found = [part for part in parts if part is not None]
    return torch.cat(found) if len(found) == len(parts) else None
