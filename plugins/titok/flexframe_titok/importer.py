"""Checkpoints of TiTok and TA-TiTok (github.com/bytedance/1d-tokenizer, Apache-2.0) as a config and a state.

A config is the project's yaml, nested: `model.vq_model` and `dataset.preprocessing` say what the model computes and are
read setting by setting; the other sections say how it was trained. Widths and depths are read off the tensors, and what
the config says of them must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings, TensorFile
from flexframe.importing.importer import Importer
from flexframe.models.build import Model, assemble
from flexframe.nn.convolutional import shape_of
from flexframe_registry import ConfigError, TokenizerConfig, catalogue

from . import BASE, CLIP, LARGE, SMALL, golden
from .reference import UNUSED, convert, translate

SIZES = {"small": SMALL, "base": BASE, "large": LARGE}
TRAINING = ("experiment", "optimizer", "lr_scheduler", "training")
"""Sections that say how the model was trained; nothing that it computes, here or there, depends on them."""
MARKS = frozenset({"latent_tokens", "encoder.latent_token_positional_embedding"})
TEXT = "decoder.text_guidance_"
SIDES = {"encoder": "enc", "decoder": "dec"}


class TiTokImporter(Importer):
    """See `TiTokImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return not MARKS.isdisjoint(source.tensors)

    def convert(self, source: Foreign) -> Imported:
        state = convert(source.tensors)
        names = {translate(name): name for name in source.tensors if name not in UNUSED}
        if not source.settings:
            return Imported(from_card(source), state, notes=("it has no config: its card's is taken",), names=names)
        reader = Reader(source)
        raw = reader.read()
        for part in SIDES:
            if raw[part]["heads"] is None:
                raw[part]["heads"] = reader.settle_heads(raw, part, state)
        config = TokenizerConfig.read(raw, str(source.path))
        notes = (*reader.notes, *source.unlike_card(config))
        return Imported(_reading(config), state, notes=notes, names=names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        return golden.compare_cases(source, model)


def _reading(config: TokenizerConfig) -> TokenizerConfig:
    """The config with CLIP as the published models read texts, if they do and the part is installed."""
    read = config.decoder.texts()
    if read is None or "clip" not in catalogue().names("conditioner"):
        return config
    clip = {"type": "clip", "model": CLIP, "width": read.width, "length": read.length, "padded": True}
    return TokenizerConfig.read({**config.model_dump(mode="json"), "conditioner": clip})


class Reader:
    """One config's settings against its tensors; `notes` gathers what a user must know."""

    def __init__(self, source: Foreign) -> None:
        self.source, self.tensors = source, source.tensors
        self.notes: list[str] = []
        self.config = source.config()
        self.vq = self.config.child("model").child("vq_model")

    def read(self) -> dict[str, Any]:
        """A `TokenizerConfig` as plain data, in which heads that nothing names are None."""
        size, length = self.image_size(), self.vq.number("num_latent_tokens")
        self.agree(self.vq, "num_latent_tokens", length, "latent_tokens", 0)
        legacy = self.vq.take("is_legacy", bool, True)
        raw = {
            "image_size": size,
            "length": length,
            "quantizer": self.quantizer(),
            "encoder": {"type": "latent-tokens", **self.transformer("encoder", size), "legacy": legacy},
            "decoder": {"type": "vit", **self.transformer("decoder", size), **self.head(legacy), "text": self.text()},
            "masker": self.masker(),
        }
        self.vq.ignore("pretrained_tokenizer_weight")  # the teacher's file
        self.config.child("model").ignore("generator", "maskgen")  # other models, trained on this one's tokens
        self.config.ignore("losses", *TRAINING)
        self.config.finish()
        return raw

    def masker(self) -> str | dict[str, Any]:
        """The lengths that it is trained at: one, or any, cut behind the quantizer (One-D-Piece, arXiv 2501.10064)."""
        model = self.config.child("model")
        if model.choice("type", ("titok", "one_d_piece"), "titok") == "titok":
            return "full"
        self.vq.choice("strict_length_assertion", (False,), False)  # its decoder takes any length
        head = self.tensors.shape("decoder.ffn.2.weight")[0] if "decoder.ffn.2.weight" in self.tensors else None
        if head is not None:
            self.config.child("losses", {}).agreed("target_codebook_size", head)
        return {"type": "tail-drop", "quantize_all": True}

    def agree(self, settings: Settings, name: str, value: int, tensor: str, axis: int, times: int = 1) -> None:
        """Check that a setting is what a tensor's shape says.

        Raises:
            ConfigError: it is not.
        """
        shape = self.tensors.shape(tensor)
        if len(shape) <= axis or shape[axis] != value * times:
            raise ConfigError.at(settings.at(name), f"is {value}, but tensor {tensor} has shape {shape}")

    def image_size(self) -> tuple[int, int]:
        """Height and width of the images.

        Raises:
            ConfigError: `crop_size` is neither one number nor two.
        """
        dataset = self.config.child("dataset")
        dataset.ignore("params")
        pre = dataset.child("preprocessing")
        pre.ignore("random_crop", "random_flip", "res_ratio_filtering")  # of training
        crop = pre.numbers("crop_size") if isinstance(pre.data.get("crop_size"), list) else (pre.number("crop_size"),)
        if len(crop) > 2:
            raise ConfigError.at(pre.at("crop_size"), f"is {list(crop)}; expected one number, or height and width")
        pre.choice("resize_shorter_edge", (min(crop),), min(crop))
        pre.choice("normalize_mean", ([0, 0, 0],), [0, 0, 0])
        pre.choice("normalize_std", ([1, 1, 1],), [1, 1, 1])
        return crop[0], crop[-1]

    def transformer(self, part: str, size: tuple[int, int]) -> dict[str, Any]:
        """Width, depth, heads and patch of one side; heads None where the config names none.

        Raises:
            ConfigError: the positions' number is not that of the patches.
        """
        side, tensors = SIDES[part], self.tensors
        width = tensors.shape(f"{part}.class_embedding")[-1]
        depth = sum(re.fullmatch(rf"{part}\.transformer\.\d+\.ln_1\.weight", name) is not None for name in tensors)
        patch = self.vq.number(f"vit_{side}_patch_size")
        if part == "encoder":
            self.agree(self.vq, "vit_enc_patch_size", patch, "encoder.patch_embed.weight", 2)
        cells, positions = (size[0] // patch) * (size[1] // patch), f"{part}.positional_embedding"
        if tensors.shape(positions)[0] != 1 + cells:
            told = f"{size[0]} x {size[1]} in patches of {patch} are {cells}"
            text = f"{told}, but tensor {positions} has shape {tensors.shape(positions)}, one more than the patches"
            raise ConfigError.at("dataset.preprocessing.crop_size", text)
        return {"width": width, "depth": depth, "heads": self.named_heads(side, width, depth), "patch": patch}

    def named_heads(self, side: str, width: int, depth: int) -> int | None:
        """The heads of a known size, else those that are given, else None.

        Raises:
            ConfigError: the size's name contradicts the tensors or the given heads.
        """
        key = f"vit_{side}_model_size"
        name, given = self.vq.take(key, str), self.vq.number(f"vit_{side}_heads", None)
        if name not in SIZES:
            return given
        known = SIZES[name]
        if (width, depth) != (known["width"], known["depth"]):
            told = f"is {name!r}, {known['width']} wide and {known['depth']} deep"
            raise ConfigError.at(self.vq.at(key), f"{told}, but the tensors are {width} wide and {depth} deep")
        if given not in (None, known["heads"]):
            text = f"is {given}, but size {name!r} has {known['heads']}"
            raise ConfigError.at(self.vq.at(f"vit_{side}_heads"), text)
        return known["heads"]

    def quantizer(self) -> dict[str, Any]:
        """Fields of the quantizer: `vq`, or `kl` where the mode is a VAE's."""
        dim, vae = self.vq.number("token_size"), self.vq.choice("quantize_mode", ("vq", "vae"), "vq") == "vae"
        self.agree(self.vq, "token_size", dim, "encoder.conv_out.weight", 0, 2 if vae else 1)
        scale = self.vq.take("scale_factor", float, None)
        if scale is not None:
            self.notes.append(f"scale_factor {scale} is for a generator of its latents; the tokenizer does not use it")
        if vae:
            self.vq.ignore("codebook_size", "use_l2_norm", "commitment_cost", "clustering_vq")  # of the other mode
            weight = self.config.child("losses", {}).take("kl_weight", float, 1e-6)
            return {"type": "kl", "dim": dim, "weight": weight}
        size = self.vq.number("codebook_size")
        self.agree(self.vq, "codebook_size", size, "quantize.embedding.weight", 0)
        if self.vq.take("clustering_vq", bool, False) or not UNUSED.isdisjoint(self.tensors):
            self.notes.append(
                "its codebook was trained with clustering (clustering_vq), whose statistics are left away: use does "
                "not read them, and further training learns the codebook by gradient alone, unless "
                "quantizer.clustering=true"
            )
        norm, commitment = self.vq.take("use_l2_norm", bool), self.vq.take("commitment_cost", float)
        return {"type": "vq", "codebook_size": size, "dim": dim, "l2_norm": norm, "commitment": commitment}

    def head(self, legacy: bool) -> dict[str, Any]:
        """Pixels, or proxy codes with or without the second stage.

        Raises:
            ConfigError: the config and the tensors do not agree on a second stage.
        """
        key, tensors = "finetune_decoder", self.tensors
        second, there = self.vq.take(key, bool, True), any(name.startswith("pixel_") for name in tensors)
        if second and (not legacy or self.vq.data.get("quantize_mode", "vq") == "vae"):
            text = "is true (its default), but only a legacy model with a codebook has a second stage"
            raise ConfigError.at(self.vq.at(key), f"{text}; say --assume {self.vq.at(key)}=false")
        if second != there:
            held = "holds tensors pixel_*" if there else "holds no tensors pixel_*"
            text = f"is {str(second).lower()}, but the checkpoint {held}; say --assume {self.vq.at(key)}="
            text += "true, or --drop pixel_decoder --drop pixel_quantize" if there else "false if it is of stage 1"
            raise ConfigError.at(self.vq.at(key), text)
        if not legacy:
            return {"head": "pixels"}
        fields: dict[str, Any] = {"head": "proxy-codes", "proxy_codebook": tensors.shape("decoder.ffn.2.weight")[0]}
        if second:
            fields["pixel_decoder"] = pixel_decoder(tensors)
        return fields

    def text(self) -> dict[str, int] | None:
        """TA-TiTok's guidance; its class is not named in a config, its tensors show it.

        Raises:
            ConfigError: settings of text are given, and there are no tensors of it.
        """
        there = any(name.startswith(TEXT) for name in self.tensors)
        keys = {"text_embed_dim": ("proj.weight", 1, 768), "text_context_length": ("positional_embedding", 0, 77)}
        sizes = {}
        for key, (tensor, axis, default) in keys.items():
            if key in self.vq and not there:
                text = "is set, but the checkpoint holds no tensors of text guidance; --drop it to go without"
                raise ConfigError.at(self.vq.at(key), text)
            sizes[key] = self.vq.number(key, default)
            if there:
                self.agree(self.vq, key, sizes[key], TEXT + tensor, axis)
        return {"width": sizes["text_embed_dim"], "length": sizes["text_context_length"]} if there else None

    def settle_heads(self, raw: Mapping[str, Any], part: str, state: Mapping[str, Tensor]) -> int:
        """The heads of an unknown size: as golden cases beside the checkpoint tell, else as its name or width does.

        No tensor shows them. Each choice is noted; without any hint it is for the user to say.

        Raises:
            ConfigError: nothing shows them.
        """
        side, width = SIDES[part], raw[part]["width"]
        name = self.vq.take(f"vit_{side}_model_size", str)
        guess = {other: {**raw[other], "heads": raw[other]["heads"] or 1} for other in SIDES}
        scores = {}
        for heads in (n for n in range(1, width + 1) if width % n == 0 and golden.case_files(self.source)):
            trial = {**raw, **guess, part: {**raw[part], "heads": heads}}
            model = assemble(TokenizerConfig.read(trial), state, str(self.source.path))
            score = golden.misfit(self.source, model, part)
            if score is not None:
                scores[heads] = score
        if scores:
            best, told = choose(scores, width, 32 if name.startswith("tiny") else 64)
        elif name.startswith("tiny") and width % 32 == 0:
            best, told = width // 32, "sizes named tiny have 32 channels a head"
        elif width in (listed := {size["width"]: size["heads"] for size in SIZES.values()}):
            best, told = listed[width], f"the published size of width {width} has as many"
        else:
            path = self.vq.at(f"vit_{side}_heads")
            text = f"is not given, and no tensor shows it: {name!r} is none of {', '.join(SIZES)}"
            raise ConfigError.at(path, f"{text}; if you know it, say --assume {path}=N, a divisor of {width}")
        self.notes.append(f"{part} of unknown size {name!r}: {best} heads, as {told}")
        return best


def choose(scores: Mapping[int, float], width: int, usual: int) -> tuple[int, str]:
    """The heads of the least error, and why; where several do as well (ids move little), the usual width of a head."""
    least = min(scores.values())
    close = [heads for heads, score in scores.items() if score <= 10 * least + 1e-9]
    best = min(close, key=lambda heads: (abs(width // heads - usual), heads))
    rest = [score for heads, score in scores.items() if heads not in close]
    told = f"its golden cases come out nearest with {best} (relative error {scores[best]:.0e}"
    told += f", with others at least {min(rest):.0e})" if rest else ")"
    others = ", ".join(str(heads) for heads in close if heads != best)
    return best, told + (f"; they do not tell it from {others}" if others else "")


def pixel_decoder(tensors: TensorFile) -> dict[str, Any]:
    """The second stage's shape, from its tensors.

    Raises:
        ConfigError: the tensors are not of such a decoder.
    """
    prefix = "pixel_decoder."
    shapes = {name.removeprefix(prefix): tensors.shape(name) for name in tensors if name.startswith(prefix)}
    try:
        hidden, multipliers, blocks = shape_of(shapes)
    except ValueError as error:
        raise ConfigError.at(prefix.rstrip("."), str(error)) from None
    dim = tensors.shape("pixel_quantize.embedding.weight")[1]
    return {"dim": dim, "hidden": hidden, "multipliers": multipliers, "blocks": blocks}


def from_card(source: Foreign) -> TokenizerConfig:
    """The config of a bare weights file: that of the card through which it was named.

    Raises:
        ConfigError: it was not named through a card of a tokenizer.
    """
    if not isinstance(source.card_model, TokenizerConfig):
        name = source.path.stem if source.path.is_file() else "config"
        text = f"has no config. Put the yaml it was published with beside it, as {name}.yaml (1d-tokenizer's "
        text += "configs/infer), or name a card whose weights it is, such as titok/l-32"
        raise ConfigError.at(str(source.path), text)
    return source.card_model
