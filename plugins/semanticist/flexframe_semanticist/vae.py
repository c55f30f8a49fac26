"""The VAE of a Semanticist checkpoint (diffusers' AutoencoderKL): in the file, in a folder beside it, or not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flexframe.importing import Foreign, Settings, TensorFile
from flexframe.importing.plain import read_config
from flexframe_registry import ConfigError

PREFIX = "vae."
FILES = ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin")
CONFIGS = ("vae_config.json", "vae/config.json")
LEVEL = "encoder.down_blocks.{}.resnets.0.conv1.weight"
LAYER = "encoder.down_blocks.0.resnets.{}.conv1.weight"


def codec_of(source: Foreign, down: int, channels: int) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """The codec's config, its tensors by our names, and notes.

    Args:
        down: pixels a latent along each axis, where no VAE says it.
        channels: of the latents that the decoder works on.

    Raises:
        ConfigError: the VAE has no config, or one that its tensors contradict.
    """
    tensors: Mapping[str, Tensor] = source.tensors
    prefix = PREFIX
    if f"{PREFIX}{LEVEL.format(0)}" not in tensors:
        beside = next((path for name in FILES if (path := source.beside(name)) is not None), None)
        if beside is None:
            text = f"holds no VAE, so it makes tokens of images, and of tokens only latents: {channels} channels, "
            text += f"{down} x {down} pixels each; put diffusers' files of the VAE into a folder vae beside it"
            return {"type": "identity", "channels": channels, "downsample": down, "range": None}, {}, [text]
        tensors, prefix = TensorFile([beside]), ""
    held = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    state = {f"codec.vae.{inner}": tensors[name] for inner, name in held.items()}
    config = next((path for name in CONFIGS if (path := source.beside(name)) is not None), None)
    if config is None:
        raise ConfigError.at(str(source.path), "holds a VAE without its config; put it there as vae_config.json")
    codec = read_vae(Settings(read_config(config)), {name: tensors[place] for name, place in held.items()})
    if codec["channels"] != channels:
        raise ConfigError.at(str(config), f"is of {codec['channels']} channels; the decoder works on {channels}")
    return codec, state, ["the VAE's posterior is sampled in training, as its authors do"]


def read_vae(config: Settings, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our settings of a VAE: its sizes are the tensors', and its config must agree."""
    widths = []
    while LEVEL.format(len(widths)) in tensors:
        widths.append(tensors[LEVEL.format(len(widths))].shape[0])
    layers = 0
    while LAYER.format(layers) in tensors:
        layers += 1
    for name, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        config.choice(name, ([block] * len(widths),), [block] * len(widths))
    for name, only in (("in_channels", 3), ("out_channels", 3), ("act_fn", "silu"), ("mid_block_add_attention", True)):
        config.choice(name, (only,), only)
    for name in ("shift_factor", "latents_mean", "latents_std"):
        config.choice(name, (None,), None)
    config.choice("block_out_channels", (widths,), widths)
    convs = "quant_conv.weight" in tensors
    for name in ("use_quant_conv", "use_post_quant_conv"):
        config.choice(name, (convs,), convs)
    # its training size, how fp16 is avoided, and who wrote the file
    config.ignore("_class_name", "sample_size", "force_upcast", "_diffusers_version", "_name_or_path")
    codec = {
        "type": "vae",
        "channels": config.agreed("latent_channels", tensors["decoder.conv_in.weight"].shape[1]),
        "widths": widths,
        "layers": config.agreed("layers_per_block", layers),
        "groups": config.number("norm_num_groups", 32),
        "quant_conv": convs,
        "scaling_factor": config.take("scaling_factor", float),
        "sample_posterior": True,
    }
    config.finish()
    return codec
