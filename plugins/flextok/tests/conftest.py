"""Checkpoints in FlexTok's format that the tests make themselves, of any shape: configs, and folders of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

LIBRARY = "flextok.model"


@dataclass(frozen=True)
class Shape:
    """Sizes of a checkpoint; none equal to another by accident, unlike those of the golden folder."""

    width: tuple[int, int] = (64, 96)
    depth: tuple[int, int] = (2, 3)
    head_dim: int = 32
    levels: tuple[int, ...] = (5, 5, 5)
    length: int = 12
    grid: tuple[int, int] = (5, 7)
    channels: int = 6
    patch: int = 2
    positions: str = "absolute"
    draw: str = "uniform"
    max_timestep: float = 250.0
    scaling_factor: float = 0.5


def config_of(shape: Shape) -> dict[str, Any]:
    """A config with modules and data keys as the published ones are described."""
    return {
        "vae": {
            "_target_": "flextok.vae_wrapper.StableDiffusionVAE",
            "images_read_key": "rgb",
            "vae_latents_read_key": "latents_out",
            "vae_latents_write_key": "latents_in",
            "latent_channels": shape.channels,
            "scaling_factor": shape.scaling_factor,
            "sample_posterior": False,
        },
        "encoder": {
            "_target_": f"{LIBRARY}.utils.wrappers.SequentialModuleDictWrapper",
            "module_dict": {
                "last": _operation("channels_first_to_last", "latents_in", "latents_last"),
                "patches": _patches(shape, 0, "latents_last", "patches"),
                "places": _places(shape, 0, "patches"),
                "learned": {
                    "_target_": f"{LIBRARY}.preprocessors.registers.Registers1D",
                    "input_tensor_list_read_key": "patches",
                    "register_sizes_read_write_key": "sizes",
                    "registers_write_key": "registers",
                    "dim": shape.width[0],
                    "n_min": shape.length,
                    "n_max": shape.length,
                },
                "pack": _packer("patches", "registers", "causal_last"),
                "trunk": _trunk(shape, 0),
                "unpack": _unpacker("patches", "registers"),
                "head": {
                    "_target_": f"{LIBRARY}.postprocessors.heads.LinearHead",
                    "read_key": "registers",
                    "write_key": "registers",
                    "dim": shape.width[0],
                    "dim_out": len(shape.levels),
                    "use_mup_readout": False,
                    "weight_init_style": "zero",
                },
            },
        },
        "regularizer": {
            "_target_": "flextok.regularizers.quantize_fsq.FSQ",
            "latents_read_key": "registers",
            "quants_write_key": "quantized",
            "tokens_write_key": "tokens",
            "levels": list(shape.levels),
        },
        "decoder": {
            "_target_": f"{LIBRARY}.utils.wrappers.SequentialModuleDictWrapper",
            "module_dict": _decoder(shape),
        },
        "flow_matching_noise_module": {
            "_target_": "flextok.flow_matching.noise_modules.MinRFNoiseModule",
            "clean_images_read_key": "latents_in",
            "noised_images_write_key": "noised",
            "timesteps_write_key": "times",
            "sigmas_write_key": "sigmas",
            "noise_write_key": "noise",
            "ln": False,
            "mode_scale": 0.5,
        },
        "pipeline": {
            "_target_": "flextok.flow_matching.pipelines.MinRFPipeline",
            "_partial_": True,
            "latents_read_key": "quantized",
            "timesteps_read_key": "times",
            "noised_images_read_key": "noised",
            "reconst_write_key": "latents_out",
            "out_channels": shape.channels,
        },
    }


def _decoder(shape: Shape) -> dict[str, Any]:
    width = shape.width[1]
    modulated = {"adaLN_emb_read_key": "time", "adaLN_packing_fn_read_key": "packing", "adaLN_expansion": 2}
    inner = {"intermediate_layers": [1], "intermediate_layer_write_key": "inner"}
    return {
        "project": {
            "_target_": f"{LIBRARY}.preprocessors.linear.LinearLayer",
            "read_key": "quantized",
            "write_key": "condition",
            "dim_in": len(shape.levels),
            "dim": width,
        },
        "order": {
            "_target_": f"{LIBRARY}.utils.posembs.PositionalEmbeddingAdder",
            "read_key": "condition",
            "write_key": "condition",
            "dim": width,
            "max_sizes": [shape.length],
            "posemb_type": "learnable_sum",
            "posemb_scaling": "absolute",
        },
        "shorten": {
            "_target_": f"{LIBRARY}.preprocessors.token_dropout.MaskedNestedDropout",
            "read_write_key": "condition",
            "dim": width,
            "eval_keep_k_read_key": "keep",
            "train_keep_k_write_key": "kept",
            "size_sampling_mode": shape.draw,
        },
        "null": {
            "_target_": f"{LIBRARY}.preprocessors.nullcond.LearnedNullCond",
            "read_write_key": "condition",
            "dim": width,
            "dropout_prob": 0.25,
        },
        "last": _operation("channels_first_to_last", "noised", "noised_last"),
        "patches": _patches(shape, 1, "noised_last", "patches"),
        "places": _places(shape, 1, "patches"),
        "pack": {
            **_packer("patches", "condition", "full"),
            "per_subseq_embs": True,
            "emb_packing_fn_write_key": "packing",
        },
        "clock": {
            "_target_": f"{LIBRARY}.preprocessors.time_embedding.TimestepEmbedder",
            "timesteps_read_key": "times",
            "time_embedding_write_key": "time",
            "dim": width,
            "max_timestep": shape.max_timestep,
        },
        "trunk": {**_trunk(shape, 1), **modulated, **inner},
        "unpack": _unpacker("patches", "rest"),
        "head": {
            "_target_": f"{LIBRARY}.postprocessors.heads.ToPatchesLinearHead",
            "read_key": "patches",
            "write_key": "patches",
            "dim": width,
            "channels_out": shape.channels,
            "patch_sizes": [shape.patch] * 2,
            "use_mup_readout": False,
            "adaLN_emb_read_key": "time",
        },
        "first": _operation("channels_last_to_first", "patches", "latents_out"),
    }


def _operation(name: str, before: str, after: str) -> dict[str, Any]:
    operation = {"_target_": f"{LIBRARY}.utils.dict_ops.{name}", "_partial_": True}
    target = f"{LIBRARY}.utils.dict_ops.PerSampleOp"
    return {"_target_": target, "read_key": before, "write_key": after, "per_sample_op": operation}


def _patches(shape: Shape, side: int, before: str, after: str) -> dict[str, Any]:
    return {
        "_target_": f"{LIBRARY}.preprocessors.patching.PatchEmbedder",
        "input_tensor_list_read_key": before,
        "patches_list_write_key": after,
        "n_patches_write_key": "count",
        "channels_in": shape.channels,
        "dim": shape.width[side],
        "patch_sizes": [shape.patch] * 2,
        "flatten_patches": False,
    }


def _places(shape: Shape, side: int, key: str) -> dict[str, Any]:
    return {
        "_target_": f"{LIBRARY}.utils.posembs.PositionalEmbeddingAdder",
        "read_key": key,
        "write_key": key,
        "dim": shape.width[side],
        "max_sizes": list(shape.grid),
        "posemb_type": "sincos",
        "posemb_scaling": shape.positions,
    }


def _packer(first: str, second: str, mode: str) -> dict[str, Any]:
    return {
        "_target_": f"{LIBRARY}.preprocessors.flex_seq_packing.BlockWiseSequencePacker",
        "input_list_read_keys": [first, second],
        "packed_seq_write_key": "packed",
        "block_mask_write_key": "mask",
        "inner_packed_shapes_write_key": "inner_shapes",
        "outer_packed_shapes_write_key": "outer_shapes",
        "mask_mode": mode,
        "pad_to_multiple": 128,
    }


def _trunk(shape: Shape, side: int) -> dict[str, Any]:
    return {
        "_target_": f"{LIBRARY}.trunks.transformers.FlexTransformer",
        "input_seq_read_key": "packed",
        "output_seq_write_key": "packed",
        "block_mask_read_key": "mask",
        "dim": shape.width[side],
        "depth": shape.depth[side],
        "head_dim": shape.head_dim,
        "use_act_checkpoint": True,
    }


def _unpacker(first: str, second: str, packed: str = "packed") -> dict[str, Any]:
    return {
        "_target_": f"{LIBRARY}.postprocessors.seq_unpacking.SequenceUnpacker",
        "packed_seq_read_key": packed,
        "inner_seq_write_keys": [first, second],
        "inner_packed_shapes_read_key": "inner_shapes",
        "outer_packed_shapes_read_key": "outer_shapes",
    }


def state_of(shape: Shape, table: Callable[[int, int, int], torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of the published files; `table` gives the stored positions."""
    draw, state = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()

    def add(name: str, *sizes: int, std: float = 0.1) -> None:
        state[name] = torch.randn(*sizes, generator=draw) * std

    cell, values = shape.channels * shape.patch**2, len(shape.levels)
    for side, (width, depth) in enumerate(zip(shape.width, shape.depth, strict=True)):
        root, hidden = ("encoder.module_dict", "decoder.module_dict")[side], int(2 * (4 * width) / 3)
        add(f"{root}.patches.patch_proj.weight", width, cell)
        add(f"{root}.patches.patch_proj.bias", width)
        state[f"{root}.places.posembs"] = table(*shape.grid, width).permute(2, 0, 1)[None].contiguous()
        for block in (f"{root}.trunk.blocks.{i}" for i in range(depth)):
            for name in ("wq", "wk", "wv", "proj"):
                add(f"{block}.attn.{name}.weight", width, width)
            for name, (rows, columns) in {
                "fc1": (hidden, width),
                "fc2": (width, hidden),
                "fc3": (hidden, width),
            }.items():
                add(f"{block}.mlp.{name}.weight", rows, columns)
            if side:
                add(f"{block}.adaLN_modulation.1.weight", 12 * width, width)
                add(f"{block}.adaLN_modulation.1.bias", 12 * width)
    encoder, decoder, (first, width) = "encoder.module_dict", "decoder.module_dict", shape.width
    add(f"{encoder}.learned.registers", shape.length, first, std=0.3)
    add(f"{encoder}.head.proj.weight", values, first, std=0.15)
    add(f"{encoder}.head.proj.bias", values)
    add(f"{decoder}.project.proj.weight", width, values)
    add(f"{decoder}.project.proj.bias", width)
    add(f"{decoder}.order.posembs", 1, 1, width, shape.length, std=0.3)
    add(f"{decoder}.shorten.dropout_mask_token", width, std=0.3)
    add(f"{decoder}.null.nullcond", width, std=0.3)
    for layer, columns in ((0, 256), (2, width)):
        add(f"{decoder}.clock.mlp.{layer}.weight", width, columns)
        add(f"{decoder}.clock.mlp.{layer}.bias", width)
    add(f"{decoder}.head.adaLN_modulation.1.weight", 2 * width, width)
    add(f"{decoder}.head.adaLN_modulation.1.bias", 2 * width)
    add(f"{decoder}.head.proj.weight", cell, width)
    add(f"{decoder}.head.proj.bias", cell)
    return state


class Maker:
    """Makes configs, weights and folders."""

    Shape = Shape
    config_of = staticmethod(config_of)
    state_of = staticmethod(state_of)
    unpacker = staticmethod(_unpacker)

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(
        self,
        config: Mapping[str, Any] | None = None,
        state: Mapping[str, torch.Tensor] | None = None,
        *,
        shape: Shape | None = None,
        metadata: bool = False,
    ) -> Path:
        """A checkpoint's folder; `metadata`: the config as Python literals in the weights file, and nowhere else."""
        from flexframe_flextok.blocks import stored_table

        shape = shape or Shape()
        config = config_of(shape) if config is None else config
        state = state_of(shape, stored_table) if state is None else state
        folder = self.root / f"checkpoint-{len(list(self.root.glob('checkpoint-*')))}"
        folder.mkdir()
        whole = {name: value.contiguous() for name, value in state.items()}
        literals = {key: str(value) for key, value in config.items()} if metadata else None
        save_file(whole, folder / "model.safetensors", metadata=literals)
        if not metadata:
            (folder / "config.json").write_text(json.dumps(config))
        return folder


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)
