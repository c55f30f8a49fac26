"""Checkpoints of Semanticist (github.com/visual-gen/semanticist, MIT) as a config and a state.

Two forms: a state dict with the project's config, and the published EMA pickles, which hold what learns and no config.
Sizes are read off the tensors, and what a config says of them must agree. The VAE is a model of its own: its tensors
are in the file, or in a folder `vae` beside it, or not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe_registry import ConfigError, TokenizerConfig

from . import golden
from .decoder import grid_positions
from .vae import codec_of

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Attention heads of the published sizes, by width, which no tensor tells."""
MARKS = frozenset({"encoder.slot_embed", "dit.null_cond"})
TABLES = {
    "encoder.cls_token": "encoder.class_token",
    "encoder.slot_embed": "encoder.slots",
    "encoder.pos_embed": "encoder.positions",
    "dit.null_cond": "decoder.null",
}
"""Tables that the files have with one dimension more."""
RENAMES = (
    (r"^encoder2slot\.", "quantizer.project."),
    (r"^dit\.x_embedder\.proj\.", "decoder.patches."),
    (r"^dit\.autoenc_cond_embedder\.", "decoder.from_tokens."),
    (r"^dit\.t_embedder\.", "decoder.time."),
    (r"^dit\.final_layer\.linear\.", "decoder.head."),
    (r"^dit\.final_layer\.adaLN_modulation\.1\.", "decoder.modulation."),
    (r"^dit\.blocks\.", "decoder.blocks."),
    (r"^encoder\.patch_embed\.proj\.", "encoder.patches."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".attn.in_proj."),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)
TRAINING = ("dit.projector.", "repa_encoder.", "nested_sampler.")
"""What serves training alone: the projection that alignment trains, its teacher, a counter."""
POSITIONS = "dit.pos_embed"
EXACT = 1e-6
"""The most that the file's table of positions may differ from the computed one."""


class SemanticistImporter(Importer):
    """See `SemanticistImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return source.tensors.keys() >= MARKS

    def convert(self, source: Foreign) -> Imported:
        reader = Reader(source)
        raw, sampling = reader.read()
        codec, vae, notes = codec_of(source, reader.down, reader.channels)
        names = {translate(name): name for name in source.tensors if learns(name)}
        state = {ours: taken(source.tensors[theirs], theirs) for ours, theirs in names.items()} | vae
        config = TokenizerConfig.read({**raw, "codec": codec}, str(source.path))
        left = [part for part in TRAINING[:2] if any(name.startswith(part) for name in source.tensors)]
        notes += [f"{part.rstrip('.')} serves training alone, and is left out" for part in left]
        return Imported(config, state, sampling, (*reader.notes, *notes, *source.unlike_card(config)), names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        return golden.compare_cases(source, model)


def learns(name: str) -> bool:
    """Tell whether a file's tensor is one of the model's own beside its VAE."""
    return name != POSITIONS and not name.startswith((*TRAINING, "vae."))


def translate(name: str) -> str:
    """Our name of a file's tensor."""
    if name in TABLES:
        return TABLES[name]
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def taken(tensor: Tensor, name: str) -> Tensor:
    """A file's tensor as ours is."""
    return tensor[0] if name in TABLES and tensor.ndim == 3 else tensor


class Reader:
    """The tensors' sizes and the config's settings, which must agree; `notes` gathers what a user must know."""

    def __init__(self, source: Foreign) -> None:
        self.source, self.shape = source, source.tensors.shape
        self.notes: list[str] = []
        _, self.length, self.dim = self.shape("dit.null_cond")
        patch = self.shape("encoder.patch_embed.proj.weight")[-1]
        self.encoder: dict[str, Any] = {"patch": patch, **self.trunk("encoder")}
        patch, self.channels = self.shape("dit.x_embedder.proj.weight")[-1], self.shape("dit.x_embedder.proj.weight")[1]
        self.decoder: dict[str, Any] = {"patch": patch, **self.trunk("dit")}
        cells = self.shape("encoder.pos_embed")[1] - 1 - self.length
        side = isqrt(max(cells, 0))
        if side * side != cells or not cells:
            raise ConfigError.at(str(source.path), f"has positions of {cells} patches, which is no square grid")
        self.side = side * self.encoder["patch"]
        self.down = 16 if self.channels == 16 else 8

    def trunk(self, part: str) -> dict[str, Any]:
        """Width and depth of one transformer."""
        pattern = rf"{part}\.blocks\.\d+\.attn\.qkv\.weight"
        depth = sum(re.fullmatch(pattern, name) is not None for name in self.source.tensors)
        return {"width": self.shape(f"{part}.blocks.0.attn.qkv.weight")[1], "depth": depth}

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """A `TokenizerConfig` without its codec as plain data, and the settings of use that the config names."""
        settings = self.source.config()
        if not self.source.settings:
            self.notes.append(
                "it has no config: sizes are its tensors', heads those of the published widths, slots are causal "
                "and standardized as the published ones are"
            )
        params = below(settings)
        sizes = settings.child("tiny_sizes", {})
        sizes.ignore("z_dim", "projector_dim", "repa_tokens")  # of training
        for part, own, tensors in (("encoder", self.encoder, "encoder"), ("dit", self.decoder, "dit")):
            own["heads"] = self.heads(sizes.child(part, {}), own, tensors)
        params.agreed("enc_img_size", self.side)
        params.agreed("num_slots", self.length)
        params.agreed("slot_dim", self.dim)
        params.choice("enc_use_mlp", (False,), False)
        drop = params.take("drop_path_rate", float, 0.1)
        self.encoder |= {"causal": params.take("enc_causal", bool, True), "drop_path": drop}
        standardize = params.take("norm_slots", bool, True)
        steps = params.take("num_sampling_steps", str, "250")
        # names of sizes and of files; and what training does
        params.ignore("encoder", "dit_model", "vae", "enable_nest", "enable_nest_after", "ckpt_path", "eval_fid")
        params.ignore("use_repa", "repa_encoder_depth", "repa_loss_weight", "fid_stats")
        settings.finish()
        self.check_positions()
        raw = {
            "image_size": self.side,
            "length": self.length,
            "encoder": {"type": "slots", **self.encoder},
            "quantizer": {"type": "none", "dim": self.dim, "standardize": standardize},
            "masker": "uniform",
            "decoder": {"type": "ddpm", **self.decoder, "null_end": 0},
        }
        return raw, sampling_of(steps, params)

    def heads(self, sizes: Settings, own: Mapping[str, Any], part: str) -> int:
        """Attention heads: those that are given, else those of a published width."""
        for name in ("width", "depth", "patch"):
            sizes.agreed(name, own[name])
        heads = sizes.number("heads", HEADS.get(own["width"]))
        if heads is None:
            path = sizes.at("heads")
            raise ConfigError.at(path, f"is not given, and no published one is {own['width']} wide; --assume {path}=N")
        return int(heads)

    def check_positions(self) -> None:
        """See that the file's table of positions, if it has one, is the one that is computed here."""
        if POSITIONS not in self.source.tensors:
            return
        table = self.source.tensors[POSITIONS][0].float()
        side = self.side // self.down // self.decoder["patch"]
        own = grid_positions(side, side, self.decoder["width"])
        error = float((table - own).abs().max()) if table.shape == own.shape else float("inf")
        if not error <= EXACT:
            text = f"differs by {error:.1e} from the sine-cosine table of {side} x {side} cells (at most {EXACT:.0e})"
            raise ConfigError.at(POSITIONS, f"{text}; --drop {POSITIONS} to take the computed one")


def below(settings: Settings) -> Settings:
    """The model's own settings in the project's config; what stands around them is of its training."""
    inner = settings.child("trainer", {})
    inner.ignore("target")
    inner = inner.child("params", {})
    inner.ignore(*(name for name in inner if name != "model"))
    inner = inner.child("model", {})
    inner.ignore("target")
    return inner.child("params", {})


def sampling_of(steps: str, settings: Settings) -> dict[str, Any]:
    """Settings of use by the published code's name of a spacing: `250`, or `ddim25` for whole strides."""
    found = re.fullmatch(r"(ddim)?(\d+)", steps)
    if found is None:
        raise ConfigError.at(settings.at("num_sampling_steps"), f"is {steps!r}; expected a number, or ddim and one")
    return {"steps": int(found[2]), "spacing": "stride" if found[1] else "even"}
