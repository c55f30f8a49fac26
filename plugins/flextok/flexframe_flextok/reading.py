"""A FlexTok config in our terms: the parts of a tokenizer, and where the file has their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from flexframe.importing import Settings
from flexframe_registry import ConfigError

from .autoencoder import VAESettings, read_vae
from .modules import DECODER, ENCODER, LATENTS, QUANTIZED, SEVERAL, TIMES, VALUES, VELOCITY
from .wiring import WRAPPERS, Side, check_names, class_of, walk


@dataclass(frozen=True)
class Reading:
    """A FlexTok config, read."""

    vae: VAESettings
    length: int
    parts: Mapping[str, Any]
    """`encoder`, `quantizer`, `masker` and `decoder` of a `TokenizerConfig`."""
    latents: tuple[int, int]
    """Height and width of the largest latents that both sides have positions for."""
    tensors: Mapping[str, str]
    """The file's name of each tensor of ours, but the VAE's."""
    tables: Mapping[str, tuple[int, int, int]]
    """Rows, columns and width of each stored table of positions."""
    inner_layers: tuple[int, ...]
    """Decoder blocks whose output the reference hands to objectives."""
    notes: Sequence[str] = field(default=())


def read_flextok(config: Settings) -> Reading:
    """Read a whole config; `ConfigError` says what is of another meaning, missing, or unknown."""
    check_names(config.data)
    if "_target_" in config:
        class_of(config, WRAPPERS)
    section = config.child("vae")
    vae = read_vae(section, wrapper=True)
    if vae.write_key is None or vae.read_key is None:
        lost = "vae_latents_write_key" if vae.write_key is None else "vae_latents_read_key"
        section.take(lost, str)  # says how to give it
    assert vae.write_key is not None
    encoder = Side("encoder", {vae.write_key: LATENTS})
    walk(config.child("encoder"), encoder, ENCODER, SEVERAL)
    quantizer, quantized = _quantizer(config.child("regularizer"), encoder)
    noise = config.child("flow_matching_noise_module")
    times, held = _noise(noise, vae.write_key)
    decoder = Side("decoder", {quantized: QUANTIZED, **held})
    walk(config.child("decoder"), decoder, DECODER, SEVERAL)
    assert vae.read_key is not None
    decoder.check(section.at("vae_latents_read_key"), vae.read_key, VELOCITY)
    _agree([encoder, decoder], vae, quantizer["levels"])
    _pipeline(config.child("pipeline"), quantized, noise, vae)
    masker, notes = _masker(encoder, decoder)
    sides = [encoder, decoder]
    config.finish()
    return Reading(
        vae=vae,
        length=encoder.facts["length"],
        parts={
            "encoder": {"type": "registers", **_trunk(encoder)},
            "quantizer": {"type": "fsq", **quantizer},
            "masker": masker,
            "decoder": {
                "type": "flow",
                **_trunk(decoder),
                **{name: decoder.facts[name] for name in ("null_dropout", "single_null", "max_timestep")},
                **times,
            },
        },
        latents=_largest(sides),
        tensors={ours: theirs for side in sides for ours, theirs in side.tensors.items()},
        tables={name: table for side in sides for name, table in side.tables.items()},
        inner_layers=decoder.facts["inner_layers"],
        notes=[*encoder.notes, *decoder.notes, *notes, *_unpublished(quantizer)],
    )


def to_positions(value: Tensor, length: int) -> Tensor:
    """The file's table of the tokens' positions, `1 1 e k`, as ours, `k e`; of another form it is left as it is."""
    if value.ndim != 4 or value.shape[:2] != (1, 1):
        return value
    return value[0, 0].T[:length].contiguous()


# --- between the sides -------------------------------------------------------------------------------------------


def _quantizer(section: Settings, encoder: Side) -> tuple[dict[str, Any], str]:
    """Our settings of the quantizer, and the data key of what it gives."""
    class_of(section, ("FSQ",))
    encoder.reads(section, "latents_read_key", VALUES)
    section.ignore("tokens_write_key")
    levels = section.numbers("levels")
    fields: dict[str, Any] = {"levels": list(levels), "drop_quant_p": _rate(section, "drop_quant_p")}
    for name in ("corrupt_tokens_p", "min_corrupt_tokens_p"):
        fields[name] = _rate(section, name)
    fields["apply_corrupt_tokens_p"] = _rate(section, "apply_corrupt_tokens_p", 0.2)
    if fields["drop_quant_p"]:
        section.choice("packed_call", (False,), False)  # packed, one draw decides for a whole batch
    section.ignore("packed_call")
    quantized = section.take("quants_write_key", str)
    return fields, str(quantized)


def _rate(section: Settings, name: str, default: float = 0.0) -> float:
    value = section.take(name, float, default)
    if not 0 <= value <= 1:
        raise ConfigError.at(section.at(name), f"is {value}; expected a probability")
    return float(value)


def _unpublished(quantizer: Mapping[str, Any]) -> list[str]:
    if not quantizer["corrupt_tokens_p"]:
        return []
    return ["regularizer.corrupt_tokens_p: only the names of these settings are known; see quantizer 'fsq' for ours"]


def _noise(section: Settings, latents: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Our settings of training times, and the data keys of noised latents and times."""
    class_of(section, ("MinRFNoiseModule",))
    _same(section, "clean_images_read_key", latents, "what the VAE writes")
    held = {section.take("noised_images_write_key", str): LATENTS, section.take("timesteps_write_key", str): TIMES}
    if len(held) != 2:
        raise ConfigError.at(section.at("timesteps_write_key"), "is where the noised latents are, too")
    section.ignore("noise_write_key", "sigmas_write_key")  # the noise and the times again, for the loss
    if section.take("ln", bool):
        if section.take("stratisfied", bool, False):
            text = "is True: times spread over a batch, which are drawn for each sample here"
            path = section.at("stratisfied")
            raise ConfigError.at(path, f"{text}; --assume {path}=false to train with independent times")
        section.ignore("mode_scale")
        return {"time_sampling": "logit-normal"}, held
    section.ignore("stratisfied")  # of normal draws, which there are none of
    scale = section.take("mode_scale", float)
    return {"time_sampling": "mode", "mode_scale": scale}, held


def _pipeline(section: Settings, quantized: str, noise: Settings, vae: VAESettings) -> None:
    class_of(section, ("MinRFPipeline",))
    section.ignore("_partial_")  # it takes the decoder when it is called
    section.ignore("target_sizes_read_key")  # sizes are given by the caller
    _same(section, "latents_read_key", quantized, "what the regularizer writes")
    for name, written in (("noised_images", "noised_images_write_key"), ("timesteps", "timesteps_write_key")):
        _same(section, f"{name}_read_key", noise.data[written], f"{noise.at(written)}")
    assert vae.read_key is not None
    _same(section, "reconst_write_key", vae.read_key, "what the VAE decodes")
    channels = section.number("out_channels", vae.channels)
    if channels != vae.channels:
        raise ConfigError.at(section.at("out_channels"), f"is {channels}; the VAE's latents have {vae.channels}")


def _same(section: Settings, name: str, expected: str, what: str) -> None:
    value = section.take(name, str)
    if value != expected:
        raise ConfigError.at(section.at(name), f"is {value!r}; expected {expected!r}, {what}")


def _agree(sides: Sequence[Side], vae: VAESettings, levels: Sequence[int]) -> None:
    """Widths that stand on both sides, or beside them, are one."""
    problems = []
    for side in sides:
        channels, values = side.facts["channels"], side.facts["values"]
        if channels != vae.channels:
            text = f"is {channels}; the VAE's latents have {vae.channels} channels ({vae.at('latent_channels')})"
            problems.append((side.where("channels"), text))
        if values != len(levels):
            text = f"is {values}; regularizer.levels, {list(levels)}, are {len(levels)} dimensions"
            problems.append((side.where("values"), text))
    if problems:
        raise ConfigError(problems)


def _masker(encoder: Side, decoder: Side) -> tuple[str, list[str]]:
    """Our masker. Positions of tokens are as many as registers, or cropped to them."""
    length, (most, scaling, path) = encoder.facts["length"], decoder.facts["ordered"]
    notes = []
    if most < length or (most > length and scaling != "absolute"):
        raise ConfigError.at(path, f"is [{most}] under {scaling!r} positions, for {length} registers")
    if most > length:
        notes.append(f"{path} is [{most}]: the first {length} positions are used, one a register")
    masker = decoder.facts["masker"]
    if masker != "uniform" and length & (length - 1):
        where, named = decoder.facts["masker_path"], masker.replace("-", "_")
        text = f"how {named!r} draws from {length} tokens, no power of two, is not known; training here draws 'uniform'"
        notes.append(f"{where}: {text}. Use is not touched")
        masker = "uniform"
    return masker, notes


def _trunk(side: Side) -> dict[str, Any]:
    fields = {name: side.facts[name] for name in ("width", "depth", "head_dim", "patch", "positions")}
    return {**fields, "grid": list(side.facts["grid"])}


def _largest(sides: Sequence[Side]) -> tuple[int, int]:
    sizes = [tuple(n * side.facts["patch"] for n in side.facts["grid"]) for side in sides]
    return min(s[0] for s in sizes), min(s[1] for s in sizes)
