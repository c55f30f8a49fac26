"""The VAE of a FlexTok checkpoint: its settings in the wrapper's or diffusers' words, and its sizes by its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flexframe.importing import Foreign, Settings, TensorFile
from flexframe.importing.plain import read_config
from flexframe_registry import ConfigError

from .modules import positive
from .wiring import class_of

PREFIXES = ("vae.vae.", "vae.", "")
"""Prefixes of diffusers' names of the VAE's tensors: in a FlexTok, in the wrapper by itself, in diffusers."""
FIRST = "encoder.down_blocks.0.resnets.0.conv1.weight"
DOWNSAMPLE = 8
"""Downsampling of the published VAEs, which a config without tensors does not say."""


@dataclass(frozen=True)
class VAESettings:
    """A config's words on the VAE."""

    channels: int | None
    scaling_factor: float | None
    sample_posterior: bool | None
    """None where the config's format has no such setting."""
    hub: str | None
    read_key: str | None
    write_key: str | None
    widths: tuple[int, ...] | None
    layers: int | None
    groups: int | None
    quant_conv: bool | None
    path: str

    def at(self, name: str) -> str:
        """Path of a setting in its config."""
        return f"{self.path}.{name}" if self.path else name


def read_vae(section: Settings, *, wrapper: bool) -> VAESettings:
    """The VAE's settings, in the words of FlexTok's wrapper of it or in diffusers'. Unknown ones are left unread."""
    if wrapper and "_target_" in section:
        class_of(section, ("StableDiffusionVAE",))
    if not wrapper:
        section.choice("_class_name", ("AutoencoderKL",), "AutoencoderKL")
    section.choice("_partial_", (False,), False)
    # keys of images and of the divergence lead out of the model; `force_vae_encode` is what a batch with latents does
    section.ignore("images_read_key", "images_reconst_write_key", "vae_kl_loss_write_key", "force_vae_encode")
    section.choice("frozen", (True,), True)  # every codec is
    section.choice("dtype_override", ("fp32", "float32", None), "fp32")  # codecs compute in fp32, always
    hub = section.take("hf_hub_path", (str, type(None)), None)
    scaling = section.take("scaling_factor", (float, type(None)), None)
    return VAESettings(
        channels=section.number("latent_channels", 16) if wrapper else section.number("latent_channels", None),
        scaling_factor=None if scaling is None else positive(section, "scaling_factor"),
        sample_posterior=section.take("sample_posterior", bool, True) if wrapper else None,
        hub=hub,
        read_key=section.take("vae_latents_read_key", (str, type(None)), None),
        write_key=section.take("vae_latents_write_key", (str, type(None)), None),
        **read_architecture(section),
        path=section.path,
    )


def read_architecture(section: Settings) -> dict[str, Any]:
    """Settings of diffusers' AutoencoderKL, where they are given; what the codec cannot be is refused.

    Raises:
        ConfigError: a setting is one that the codec cannot have.
    """
    for name, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        for named in section.take(name, list, [block]):
            if named != block:
                raise ConfigError.at(section.at(name), f"names {named!r}; supported: {block}")
    for name, only in (("in_channels", 3), ("out_channels", 3), ("act_fn", "silu"), ("mid_block_add_attention", True)):
        section.choice(name, (only,), only)
    for name in ("shift_factor", "latents_mean", "latents_std"):
        section.choice(name, (None,), None)
    convs = [section.take(f"use_{name}", bool, None) for name in ("quant_conv", "post_quant_conv")]
    if convs[0] is not convs[1]:
        raise ConfigError.at(section.at("use_quant_conv"), f"is {convs[0]} and use_post_quant_conv {convs[1]}")
    # its training size, how fp16 is avoided, and who wrote the file
    section.ignore("sample_size", "force_upcast", "_diffusers_version", "_name_or_path", "_use_default_values")
    return {
        "widths": section.numbers("block_out_channels") if "block_out_channels" in section else None,
        "layers": section.number("layers_per_block", None),
        "groups": section.number("norm_num_groups", None),
        "quant_conv": convs[0],
    }


# --- tensors -----------------------------------------------------------------------------------------------------


def prefix_of(names: Iterable[str]) -> str | None:
    """The prefix of diffusers' names of the VAE's tensors; None if there is no VAE."""
    known = set(names)
    return next((prefix for prefix in PREFIXES if f"{prefix}{FIRST}" in known), None)


def codec_of(source: Foreign, prefix: str, settings: VAESettings) -> dict[str, Any]:
    """Our settings of a VAE whose tensors are there: sizes are the tensors', and what the config says must agree.

    Raises:
        ConfigError: the config contradicts the tensors, or lacks what they do not show.
    """
    tensors, levels = source.tensors, _count(source.tensors, f"{prefix}encoder.down_blocks.{{}}.resnets.0.conv1.weight")
    widths = [
        tensors.shape(f"{prefix}encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)
    ]  # fmt: skip
    shape = {
        "channels": tensors.shape(f"{prefix}decoder.conv_in.weight")[1],
        "widths": tuple(widths),
        "layers": _count(tensors, f"{prefix}encoder.down_blocks.0.resnets.{{}}.conv1.weight"),
        "quant_conv": f"{prefix}quant_conv.weight" in tensors,
    }
    beside = _beside(source)
    for said in (settings, *beside):
        _check(said, shape)
    groups = next((said.groups for said in (settings, *beside) if said.groups is not None), 32)
    if any(width % groups for width in widths):
        path = settings.at("norm_num_groups")
        text = f"is {groups}, which does not divide the widths {widths}; if you know it, say --assume {path}=GROUPS"
        raise ConfigError.at(path, text)
    if settings.scaling_factor is None:
        path = settings.at("scaling_factor")
        raise ConfigError.at(path, f"is not given; if you know it, say --assume {path}=VALUE")
    return {
        "type": "vae",
        **shape,
        "widths": widths,
        "groups": groups,
        "scaling_factor": settings.scaling_factor,
        "sample_posterior": bool(settings.sample_posterior),
    }


def vae_tensors(names: Iterable[str], prefix: str) -> dict[str, str]:
    """The file's name of each of the VAE's tensors, by ours."""
    return {f"codec.vae.{name.removeprefix(prefix)}": name for name in names if name.startswith(prefix)}


def _count(tensors: TensorFile, pattern: str) -> int:
    count = 0
    while pattern.format(count) in tensors:
        count += 1
    return count


def _beside(source: Foreign) -> list[VAESettings]:
    """Settings by a `vae_config.json` beside the checkpoint; its scaling is not used, for the wrapper has its own."""
    path = source.beside("vae_config.json")
    if path is None:
        return []
    settings = Settings(read_config(path), path="vae_config.json")
    said = read_vae(settings, wrapper=False)
    settings.finish()
    return [said]


def _check(said: VAESettings, shape: dict[str, Any]) -> None:
    names = {
        "channels": "latent_channels", "widths": "block_out_channels", "layers": "layers_per_block",
        "quant_conv": "use_quant_conv",
    }  # fmt: skip
    given = {name: value for name in names if (value := getattr(said, name)) is not None}
    problems = [
        (said.at(names[name]), f"is {value}, but by its tensors the VAE has {shape[name]}")
        for name, value in given.items()
        if value != shape[name]
    ]
    if problems:
        raise ConfigError(problems)
