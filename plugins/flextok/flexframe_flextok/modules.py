"""Modules of the reference's library, each as part of a FlexTok encoder or decoder."""

from __future__ import annotations

import math
from typing import Any

from flexframe.importing import Settings
from flexframe_registry import ConfigError

from .wiring import OPERATIONS, Handler, Side, class_of

# --- roles, in the words of the messages -------------------------------------------------------------------------

LATENTS = "latents"
LAST = "latents with channels last"
PATCHES = "patches"
PLACED = "patches with positions"
REGISTERS = "registers"
PACKED = "the packed sequence"
INNER, OUTER, MASK, PACKING = "inner shapes", "outer shapes", "the block mask", "the embeddings' packing"
MIXED = "the transformer's output"
MIDDLE = "an inner layer's output"
PATCHES_OUT, REGISTERS_OUT = "patches after the transformer", "registers after the transformer"
PATCHES_MIDDLE, REGISTERS_MIDDLE = "patches of an inner layer", "registers of an inner layer"
VALUES = "token values, not quantized"
QUANTIZED = "quantized tokens"
PROJECTED = "tokens at the decoder's width"
ORDERED = "tokens with positions"
SHORTENED = "tokens after nested dropout"
CONDITION = "tokens after null dropout"
TIMES = "times"
TIME = "the time embedding"
VELOCITY_LAST = "the velocity with channels last"
VELOCITY = "the velocity"

SEQUENCE = {"encoder": (PLACED, REGISTERS), "decoder": (PLACED, CONDITION)}
ATTENTION = {"encoder": "causal_last", "decoder": "full"}
MASKERS = {"pow2": "pow2", "uniform": "uniform", "uniform_pow2": "uniform-pow2"}
"""Our maskers, by the reference's names of the draw."""
MOST_CELLS = 4096
"""A side of a table of positions."""


# --- both sides --------------------------------------------------------------------------------------------------


def per_sample_op(module: Settings, side: Side) -> None:
    """Read a `PerSampleOp`: latents to channels last, or the velocity back to channels first."""
    operation = module.child("per_sample_op")
    name = class_of(operation, OPERATIONS)
    operation.ignore("_partial_")  # it is a function, handed over to be called
    first = name == "channels_first_to_last"
    side.reads(module, "read_key", LATENTS if first else VELOCITY_LAST)
    side.writes(module, "write_key", LAST if first else VELOCITY)


def patch_embedder(module: Settings, side: Side) -> None:
    """Read a `PatchEmbedder`: square patches, projected."""
    side.reads(module, "input_tensor_list_read_key", LAST)
    side.number("channels", module, "channels_in")
    side.number("width", module, "dim")
    _patch(module, side)
    module.choice("flatten_patches", (False,), False)  # flat patches could not be given 2D positions
    side.writes(module, "patches_list_write_key", PATCHES)
    names = {f"{side.name}.patches.proj.{kind}": f"patch_proj.{kind}" for kind in ("weight", "bias")}
    side.named(module, names)


def positions(module: Settings, side: Side) -> None:
    """Read a `PositionalEmbeddingAdder`: of patches (sine and cosine) or of tokens (learned).

    Raises:
        ConfigError: its sizes are not of the kind that it places, or a setting is none that is known.
    """
    tokens = (PROJECTED,) if side.name == "decoder" else ()
    role = side.reads(module, "read_key", PATCHES, *tokens)
    side.number("width", module, "dim")
    scaling = module.choice("posemb_scaling", ("absolute", "interpolate"))
    sizes = module.numbers("max_sizes")
    patches = role == PATCHES
    expected = "two sizes" if patches else "one size"
    if len(sizes) != (2 if patches else 1) or max(sizes) > MOST_CELLS:
        raise ConfigError.at(module.at("max_sizes"), f"is {list(sizes)}; expected {expected} up to {MOST_CELLS}")
    module.choice("posemb_type", ("sincos",) if patches else ("learnable_sum",))
    side.writes(module, "write_key", PLACED if patches else ORDERED)
    side.once(module, "table of positions of patches" if patches else "table of positions of tokens")
    if patches:
        side.facts["grid"], side.facts["positions"] = sizes, scaling
        side.tables[f"{module.path}.posembs"] = (sizes[0], sizes[1], side.facts["width"])
    else:
        side.facts["ordered"] = (sizes[0], scaling, module.at("max_sizes"))
        side.named(module, {"decoder.positions": "posembs"})


def packer(module: Settings, side: Side) -> None:
    """Read a `BlockWiseSequencePacker`: the order of the sequence and its attention."""
    side.reads_all(module, "input_list_read_keys", SEQUENCE[side.name])
    module.choice("mask_mode", (ATTENTION[side.name],))
    side.writes(module, "packed_seq_write_key", PACKED)
    side.writes(module, "block_mask_write_key", MASK)
    side.writes(module, "inner_packed_shapes_write_key", INNER)
    side.writes(module, "outer_packed_shapes_write_key", OUTER)
    if side.name == "decoder":
        side.writes(module, "emb_packing_fn_write_key", PACKING)
        module.choice("per_subseq_embs", (True,))
    else:
        module.ignore("per_subseq_embs")  # there are no embeddings to pack


def transformer(module: Settings, side: Side) -> None:
    """Read a `FlexTransformer`: width, depth, heads and tensors of its blocks."""
    side.reads(module, "input_seq_read_key", PACKED)
    side.reads(module, "block_mask_read_key", MASK)
    side.number("width", module, "dim")
    side.number("depth", module, "depth")
    side.number("head_dim", module, "head_dim", 64)
    module.choice("mlp_ratio", (4,), 4)
    side.writes(module, "output_seq_write_key", MIXED)
    depth, kinds = side.facts["depth"], {"attn": ("wq", "wk", "wv", "proj"), "mlp": ("fc1", "fc2", "fc3")}
    tensors = [f"{part}.{name}.weight" for part, names in kinds.items() for name in names]
    names = {f"blocks.{i}.{tensor}": f"blocks.{i}.{tensor}" for i in range(depth) for tensor in tensors}
    if side.name == "decoder":
        side.reads(module, "adaLN_emb_read_key", TIME)
        side.reads(module, "adaLN_packing_fn_read_key", PACKING)
        module.choice("adaLN_expansion", (2,))
        kinds_of = ("weight", "bias")
        names |= {
            f"blocks.{i}.modulation.{k}": f"blocks.{i}.adaLN_modulation.1.{k}" for i in range(depth) for k in kinds_of
        }
    else:
        module.choice("adaLN_emb_read_key", (None,), None)
        module.choice("adaLN_packing_fn_read_key", (None,), None)
        module.ignore("adaLN_expansion")  # of a modulation that is not there
    side.named(module, {f"{side.name}.{ours}": theirs for ours, theirs in names.items()})
    _inner_layers(module, side)


def _inner_layers(module: Settings, side: Side) -> None:
    """Features for objectives: which layers, and that they exist. Here any layer can be tapped."""
    layers = module.take("intermediate_layers", (list, type(None)), None) or []
    depth = side.facts["depth"]
    if not all(type(layer) is int and 0 <= layer < depth for layer in layers):
        raise ConfigError.at(module.at("intermediate_layers"), f"is {layers!r}; expected layers in 0..{depth - 1}")
    side.facts["inner_layers"] = tuple(layers)
    if module.take("intermediate_layer_write_key", (str, type(None)), None) is not None:
        side.writes(module, "intermediate_layer_write_key", MIDDLE)


def unpacker(module: Settings, side: Side) -> None:
    """Read a `SequenceUnpacker`: patches and registers of the output, or of an inner layer."""
    role = side.reads(module, "packed_seq_read_key", MIXED, MIDDLE)
    side.reads(module, "inner_packed_shapes_read_key", INNER)
    side.reads(module, "outer_packed_shapes_read_key", OUTER)
    roles = (PATCHES_OUT, REGISTERS_OUT) if role == MIXED else (PATCHES_MIDDLE, REGISTERS_MIDDLE)
    side.writes_all(module, "inner_seq_write_keys", roles)


# --- the encoder -------------------------------------------------------------------------------------------------


def registers(module: Settings, side: Side) -> None:
    """Read a `Registers1D`: the encoder's learned registers.

    Raises:
        ConfigError: their number is drawn in training.
    """
    side.reads(module, "input_tensor_list_read_key", LATENTS, LAST, PATCHES, PLACED)  # their number and device alone
    side.number("width", module, "dim")
    side.number("length", module, "n_max")
    most, least = side.facts["length"], module.number("n_min")
    if least != most:
        text = f"is {least} and n_max {most}: registers whose number is drawn in training; expected equal numbers"
        raise ConfigError.at(module.at("n_min"), text)
    module.choice("ordering_mode", ("nested",), "nested")
    module.choice("size_sampling_mode", ("uniform", "powers_of_two", "k=1-2-4"), "uniform")  # of one size, all are one
    side.writes(module, "registers_write_key", REGISTERS)
    side.named(module, {"encoder.registers": "registers"})


def linear_head(module: Settings, side: Side) -> None:
    """Read a `LinearHead`: registers to the quantizer's values."""
    side.reads(module, "read_key", REGISTERS_OUT)
    side.number("width", module, "dim")
    side.number("values", module, "dim_out")
    module.choice("use_mup_readout", (False,))
    side.writes(module, "write_key", VALUES)
    side.named(module, {f"quantizer.project.{kind}": f"proj.{kind}" for kind in ("weight", "bias")})


# --- the decoder -------------------------------------------------------------------------------------------------


def linear_layer(module: Settings, side: Side) -> None:
    """Read a `LinearLayer`: quantized values to the decoder's width."""
    side.reads(module, "read_key", QUANTIZED)
    side.number("values", module, "dim_in")
    side.number("width", module, "dim")
    side.writes(module, "write_key", PROJECTED)
    side.named(module, {f"decoder.from_tokens.{kind}": f"proj.{kind}" for kind in ("weight", "bias")})


def nested_dropout(module: Settings, side: Side) -> None:
    """Read a `MaskedNestedDropout`: the masker and the token that stands for absent ones."""
    side.reads(module, "read_write_key", ORDERED)
    side.writes(module, "read_write_key", SHORTENED)
    side.number("width", module, "dim")
    side.facts["masker"] = MASKERS[module.choice("size_sampling_mode", tuple(MASKERS))]
    side.facts["masker_path"] = module.at("size_sampling_mode")
    module.ignore("eval_keep_k_read_key")  # through it the caller says how many tokens there are
    side.named(module, {"decoder.mask_token": "dropout_mask_token"})


def null_dropout(module: Settings, side: Side) -> None:
    """Read a `LearnedNullCond`: the null condition and how often training takes it."""
    side.reads(module, "read_write_key", SHORTENED)
    side.writes(module, "read_write_key", CONDITION)
    side.number("width", module, "dim")
    side.facts["null_dropout"] = share(module, "dropout_prob")
    side.facts["single_null"] = module.choice("replace_with_single_token", (False, True), False)
    if side.facts["single_null"]:
        side.notes.append(f"{module.at('replace_with_single_token')}: read as one null token in all tokens' place")
    module.ignore("eval_dropout_mask_read_key")  # through it the caller says which rows are unguided
    side.named(module, {"decoder.null_condition": "nullcond"})


def time_embedder(module: Settings, side: Side) -> None:
    """Read a `TimestepEmbedder`."""
    side.reads(module, "timesteps_read_key", TIMES)
    side.number("width", module, "dim")
    module.choice("frequency_embedding_size", (256,), 256)
    side.facts["max_timestep"] = positive(module, "max_timestep")
    side.writes(module, "time_embedding_write_key", TIME)
    names = [f"mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    side.named(module, {f"decoder.time.{name}": name for name in names})


def to_patches(module: Settings, side: Side) -> None:
    """Read a `ToPatchesLinearHead`: patches to the velocity, channels last."""
    side.reads(module, "read_key", PATCHES_OUT)
    side.reads(module, "adaLN_emb_read_key", TIME)
    side.number("width", module, "dim")
    side.number("channels", module, "channels_out")
    _patch(module, side)
    module.choice("use_mup_readout", (False,))
    side.writes(module, "write_key", VELOCITY_LAST)
    names = {"modulation": "adaLN_modulation.1", "proj": "proj"}
    kinds = ("weight", "bias")
    side.named(module, {f"decoder.head.{o}.{kind}": f"{t}.{kind}" for o, t in names.items() for kind in kinds})


BOTH: dict[str, Handler] = {
    "PerSampleOp": per_sample_op,
    "PatchEmbedder": patch_embedder,
    "PositionalEmbeddingAdder": positions,
    "BlockWiseSequencePacker": packer,
    "FlexTransformer": transformer,
    "SequenceUnpacker": unpacker,
}
ENCODER = {**BOTH, "Registers1D": registers, "LinearHead": linear_head}
DECODER = {
    **BOTH,
    "LinearLayer": linear_layer,
    "MaskedNestedDropout": nested_dropout,
    "LearnedNullCond": null_dropout,
    "TimestepEmbedder": time_embedder,
    "ToPatchesLinearHead": to_patches,
}
SEVERAL = ("PerSampleOp", "PositionalEmbeddingAdder", "SequenceUnpacker")
"""Modules that a side may have several of; of positions, one for patches and one for tokens."""


# --- settings ----------------------------------------------------------------------------------------------------


def _patch(module: Settings, side: Side) -> None:
    sizes = module.numbers("patch_sizes")
    if len(sizes) != 2 or sizes[0] != sizes[1]:
        raise ConfigError.at(module.at("patch_sizes"), f"is {list(sizes)}; expected two equal sizes: square patches")
    side.settle("patch", sizes[0], module.at("patch_sizes"))


def positive(module: Settings, name: str, *default: Any) -> float:
    """A number above 0.

    Raises:
        ConfigError: it is not above 0, or not finite.
    """
    value = module.take(name, float, *default)
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError.at(module.at(name), f"is {value}; expected a number above 0")
    return float(value)


def share(module: Settings, name: str, *default: Any) -> float:
    """A number from 0 to below 1.

    Raises:
        ConfigError: it is below 0, or 1 or more.
    """
    value = module.take(name, float, *default)
    if not 0 <= value < 1:
        raise ConfigError.at(module.at(name), f"is {value}; expected a probability below 1")
    return float(value)
