"""Checkpoints of MaskGIT-VQGAN as a tokenizer, of TAEF2 as a codec, and of any codec as a tokenizer by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from flexframe.importing import ATOL, Comparison, Foreign, Imported, Settings, TensorFile, compare, understood
from flexframe.importing.importer import Importer
from flexframe.models.build import Model, assemble
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.convolutional import shape_of
from flexframe.rng import Rng
from flexframe_registry import CodecModelConfig, ConfigError, TokenizerConfig

from .reference import convert, convert_taef2, translate

RESOLUTION = 256
"""Side of the images of the published MaskGIT-VQGAN, whose file does not say it."""
PIXELS = 2e-5
"""Tolerance relative to the largest value: through this decoder the reference's own pixels move with the number of
threads."""
MARKS = frozenset({"encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"})


class MaskGITVQGANImporter(Importer):
    """See `MaskGITVQGANImporterConfig`. All widths are in the tensors; a config beside them must say the same."""

    def recognises(self, source: Foreign) -> bool:
        return not MARKS.isdisjoint(source.tensors)

    def convert(self, source: Foreign) -> Imported:
        settings, tensors = source.config(), source.tensors
        size, notes = image_size(source, settings)
        encoder, decoder = network(tensors, "encoder"), network(tensors, "decoder")
        if not any(width % encoder["hidden"] for width in widths(decoder)):  # the base width shows in the encoder alone
            multipliers = tuple(width // encoder["hidden"] for width in widths(decoder))
            decoder |= {"hidden": encoder["hidden"], "multipliers": multipliers}
        codes, dim = pair(tensors, "quantize.embedding.weight")
        self._agree(settings, tensors, encoder, decoder, codes, dim)
        stride = 2 ** (len(encoder["multipliers"]) - 1)
        raw = {
            "image_size": size,
            "length": max((size[0] // stride) * (size[1] // stride), 1),
            "encoder": {"type": "vqgan", **encoder},
            "quantizer": {"type": "vq", "codebook_size": codes, "dim": dim, "l2_norm": False},
            "decoder": {"type": "vqgan", **decoder},
        }
        config = TokenizerConfig.read(raw, str(source.path))
        names = {translate(name): name for name in tensors}
        return Imported(config, convert(tensors), notes=notes, names=names)

    def _agree(
        self,
        settings: Settings,
        tensors: TensorFile,
        encoder: Mapping[str, Any],
        decoder: Mapping[str, Any],
        codes: int,
        dim: int,
    ) -> None:
        """Check the config against the tensors; more than is known here is refused with `ConfigError`."""
        settings.agreed("num_embeddings", codes)
        settings.agreed("embedding_dim", dim)
        settings.agreed("z_channels", pair(tensors, "decoder.conv_in.weight")[1])
        settings.agreed("num_channels", pair(tensors, "encoder.conv_in.weight")[1])
        settings.agreed("hidden_channels", encoder["hidden"])
        for part in (encoder, decoder):
            settings.agreed("num_res_blocks", part["blocks"])
            settings.agreed("num_resolutions", len(part["multipliers"]))
            stated = settings.numbers("channel_mult", part["multipliers"])
            if stated != part["multipliers"]:
                text = f"is {list(stated)}, but the tensors have {list(part['multipliers'])}; one of the two is wrong"
                raise ConfigError.at(settings.at("channel_mult"), text)
        settings.choice("dropout", (0, 0.0), 0.0)
        settings.finish()

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        """Every tensor of every case, at the size of the case's images: a convolution has no size of its own."""
        assert isinstance(model, Tokenizer)
        folder = source.path if source.path.is_dir() else source.path.parent
        for path in sorted(folder.glob("case*.safetensors")):
            given = dict(TensorFile([path]))
            own = at_size(model, given)
            for name in sorted(given.keys() - {"images"}):
                yield from compare_one(path.stem, name, given, own)


def image_size(source: Foreign, settings: Settings) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Height and width, and what is assumed of them."""
    if "resolution" in settings:
        side = settings.number("resolution")
        return (side, side), ()
    if isinstance(source.card_model, TokenizerConfig):
        return source.card_model.image_size, ()
    told = f"it names no resolution; {RESOLUTION} is assumed, the published model's (--assume resolution=N for another)"
    return (RESOLUTION, RESOLUTION), (told,)


def network(tensors: TensorFile, side: str) -> dict[str, Any]:
    """The shape of an encoder or a decoder.

    Raises:
        ConfigError: the tensors are not of such a network.
    """
    shapes = {name.removeprefix(f"{side}."): tensors.shape(name) for name in tensors if name.startswith(f"{side}.")}
    try:
        hidden, multipliers, blocks = shape_of(shapes)
    except ValueError as error:
        raise ConfigError.at(side, str(error)) from None
    return {"hidden": hidden, "multipliers": multipliers, "blocks": blocks}


def widths(part: Mapping[str, Any]) -> list[int]:
    """Channels at each resolution of a network."""
    return [part["hidden"] * m for m in part["multipliers"]]


def pair(tensors: TensorFile, name: str) -> tuple[int, int]:
    """The first two lengths of a tensor.

    Raises:
        ConfigError: it has fewer than two.
    """
    shape = tensors.shape(name)
    if len(shape) < 2:
        raise ConfigError.at(name, f"has shape {shape}; a matrix or a kernel is expected")
    return shape[0], shape[1]


# --- golden cases of MaskGIT-VQGAN -------------------------------------------------------------------------------


def at_size(model: Tokenizer, given: Mapping[str, Tensor]) -> Tokenizer:
    """The model on images of a case's size."""
    height, width = given["images"].shape[2:] if "images" in given else model.config.image_size
    stride = model.config.decoder.stride
    raw = {"image_size": (height, width), "length": (height // stride) * (width // stride)}
    config = TokenizerConfig.read({**model.config.model_dump(), **raw})
    return assemble(config, model.state_dict(), "the case")


@torch.no_grad()
def compare_one(case: str, name: str, given: Mapping[str, Tensor], model: Tokenizer) -> Iterable[Comparison]:
    """Compare one tensor of a golden case with the model's."""
    golden, images = given[name], given.get("images")
    encoded = None if images is None else model.encode(images)
    codes = given["codes"].flatten(1) if "codes" in given else None if encoded is None else encoded.codes[..., 0]
    rows = model.decoder.grid[0]
    result: Tensor | None = None
    if name == "enc_out" and images is not None:
        keep = torch.ones(len(images), model.config.length, dtype=torch.bool)
        features = model.encoder(model.codec.encode(images, rng=Rng(0, torch.arange(len(images)))), keep)
        result = rearrange(model.quantizer.project(features), "b (h w) z -> b z h w", h=rows)
    elif name == "codes" and encoded is not None:
        result = encoded.codes[..., 0].reshape(golden.shape)
    elif name == "decoded_clamped_0_1" and codes is not None:
        result = model.decode(model.tokens(codes))
        if encoded is not None:
            yield compare(case, name, model.decode(encoded), golden, ATOL, PIXELS, "encode, then decode")
    if result is None:
        yield Comparison(case, name, float("inf"), ATOL, note="nothing here is compared with it")
    else:
        yield compare(case, name, result, golden, ATOL, PIXELS if name == "decoded_clamped_0_1" else 0.0)


# --- TAEF2 -------------------------------------------------------------------------------------------------------

POOL = re.compile(r"((encoder|decoder)\.(layers\.)?)?\d+\.pool\.0\.weight")
WHOLE = re.compile(r"(encoder|decoder)\.(layers\.)?(\d+)\.(.+)")


class TAEF2Importer(Importer):
    """See `TAEF2ImporterConfig`. The pools of its middle blocks tell TAEF2 from its elder relatives."""

    def recognises(self, source: Foreign) -> bool:
        return any(POOL.fullmatch(name) for name in source.tensors)

    def convert(self, source: Foreign) -> Imported:
        source.config().finish()  # none is published
        encoder, decoder, names = sides(source)
        ends = sorted((int(name.split(".")[0]), name) for name in encoder if re.fullmatch(r"\d+\.weight", name))
        pools = sum(re.fullmatch(r"\d+\.pool\.0\.weight", name) is not None for name in encoder)
        if not ends or not pools:
            raise ConfigError.at(str(source.path), "its encoder has no convolutions or no pools, so it is not TAEF2's")
        first, last = encoder[ends[0][1]], encoder[ends[-1][1]]
        raw = {"type": "taef2", "channels": len(last), "width": len(first), "blocks": pools}
        size = {"image_size": source.card_model.image_size} if isinstance(source.card_model, CodecModelConfig) else {}
        config = CodecModelConfig.read({"codec": raw, **size}, str(source.path))
        return Imported(config, convert_taef2(encoder, decoder), names=names)


def sides(source: Foreign) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Encoder and decoder by their own names, and the checkpoint's name of each tensor of the codec.

    Raises:
        ConfigError: a tensor is none of TAEF2's, or one half is missing.
    """
    tensors: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    names: dict[str, str] = {}

    def put(side: str, own: str, name: str, tensor: Tensor) -> None:
        tensors[side][own], names[f"codec.{side}.{own}"] = tensor, name

    if any(WHOLE.fullmatch(name) for name in source.tensors):
        for name, tensor in source.tensors.items():
            match = WHOLE.fullmatch(name)
            if match is None:
                raise ConfigError.at(name, f"is no tensor of TAEF2; --drop {name} to go without")
            side, layers, place, rest = match.groups()
            # diffusers counts no layer for the decoder's first step, which has no weights
            put(side, f"{int(place) + (1 if layers and side == 'decoder' else 0)}.{rest}", name, tensor)
        return tensors["encoder"], tensors["decoder"], names
    for side, path in halves(source).items():
        for name, tensor in TensorFile([path], source.dropped).items():
            put(side, name, f"{path.name}: {name}", tensor)
    return tensors["encoder"], tensors["decoder"], names


def halves(source: Foreign) -> dict[str, Path]:
    """The encoder's and the decoder's file, one of which was opened.

    Raises:
        ConfigError: the other one is not beside it.
    """
    opened = source.tensors.paths[0]
    here = "encoder" if "encoder" in opened.name else "decoder"
    there = "decoder" if here == "encoder" else "encoder"
    other = opened.with_name(opened.name.replace(here, there))
    if here not in opened.name or not other.is_file():
        text = f"holds one half of TAEF2; put the other beside it, as {there} where this one's name says {here}"
        raise ConfigError.at(str(opened), text)
    return {here: opened, there: other}


# --- any codec ---------------------------------------------------------------------------------------------------


class CellsImporter(Importer):
    """See `CellsImporterConfig`. It takes what another importer makes of the checkpoint, and adds no tensor."""

    def recognises(self, source: Foreign) -> bool:
        return False  # a codec alone is a codec, unless one asks for more

    def convert(self, source: Foreign) -> Imported:
        settings = dict(source.settings)
        given = {name: settings.pop(name) for name in ("image_size",) if name in settings}
        inner, reader = understood(replace(source, settings=settings))
        found: Imported = reader.convert(inner)
        if not isinstance(found.config, CodecModelConfig):
            text = f"holds a {found.config.kind}, and --as cells is for a codec alone; leave it out"
            raise ConfigError.at(str(source.path), text)
        raw = found.config.model_dump(mode="json") | given
        codec = CodecModelConfig.read(raw, str(source.path))
        try:
            latents = codec.latents
        except ValueError as error:
            raise ConfigError.at("image_size", f"{error}; --assume image_size=SIDE") from None
        cells: dict[str, Any] = {"type": "cells", "channels": latents.channels}
        raw |= {"length": latents.height * latents.width, "encoder": cells, "quantizer": "none", "decoder": "cells"}
        config = TokenizerConfig.read(raw, str(source.path))
        notes = (*inner.notes[len(source.notes) :], *found.notes)
        return replace(found, config=config, notes=(*notes, *source.unlike_card(config)))
