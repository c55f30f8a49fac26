"""Checkpoints of FlowMo (github.com/kylesargent/FlowMo, Apache-2.0) as a config and a state.

Two forms: a state dict with the project's config, and the published files, which hold two state dicts and no config.
Widths are read off the tensors, and what a config says of them must agree. What no output depends on is left out: all
modulation in the encoder, which has no time, and what follows the last block in the stream that nothing reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign, Imported, Settings
from flexframe.importing.importer import Importer
from flexframe.models.build import Model
from flexframe_registry import ConfigError, TokenizerConfig

from . import MMDiTEncoderConfig, golden

MARKS = frozenset({"encoder.final_layer_txt.linear.weight", "decoder.double_blocks.0.txt_attn.qkv.weight"})
BITS = {18: 9, 56: 14}
"""Bits of a code in the published files, by a token's width."""
SIZE = {"hidden_size": 768, "num_heads": 12, "axes_dim": (8, 28, 28)}
"""The table's entry that the published models are made of, at muP width 4."""
SIGMAS = "(.17,1.02)"
"""Noise levels between which the published evaluation guides."""
RENAMES = (
    (r"^encoder\.final_layer_txt\.linear\.", "quantizer.project."),
    (r"^encoder\.txt_in\.bias$", "encoder.start"),
    (r"^decoder\.txt_in\.", "decoder.from_tokens."),
    (r"^decoder\.final_layer_img\.linear\.", "decoder.head."),
    (r"^decoder\.final_layer_img\.adaLN_modulation\.1\.", "decoder.modulation."),
    (r"\.time_in\.in_layer\.", ".time.mlp.0."),
    (r"\.time_in\.out_layer\.", ".time.mlp.2."),
    (r"\.img_in\.", ".patches."),
    (r"\.double_blocks\.(\d+)\.txt_", r".blocks.\1.tokens."),
    (r"\.double_blocks\.(\d+)\.img_", r".blocks.\1.patches."),
    (r"\.mod\.lin\.", ".modulation."),
    (r"\.attn\.qkv\.", ".in_proj."),
    (r"\.attn\.proj\.", ".out_proj."),
    (r"\.attn\.norm\.(query|key)_norm\.scale$", r".\1_norm.weight"),
)


def translate(name: str) -> str:
    """Our name of a file's tensor."""
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def unused(name: str, depths: Sequence[int]) -> bool:
    """Tell whether no output depends on a file's tensor; `depths` of encoder and decoder."""
    encoder, decoder = depths
    end = r"(attn\.(proj|norm\.query_norm)|mlp)\."
    dead = (
        r"encoder\.(time_in|final_layer_img|final_layer_txt\.adaLN_modulation)\.",
        r"encoder\.txt_in\.weight$",
        r"encoder\.double_blocks\.\d+\.(img|txt)_mod\.",
        r"decoder\.final_layer_txt\.",
        rf"encoder\.double_blocks\.{encoder - 1}\.img_{end}",
        rf"decoder\.double_blocks\.{decoder - 1}\.txt_{end}",
    )
    return any(re.match(pattern, name) for pattern in dead)


def channels(bits: int, codes: int) -> Tensor:
    """The file's channel of each of our token's: there bit by bit from the least, here code by code from the most."""
    return torch.arange(bits * codes).unflatten(0, (bits, codes)).flip(0).mT.flatten()


class FlowMoImporter(Importer):
    """See `FlowMoImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return source.tensors.keys() >= MARKS

    def convert(self, source: Foreign) -> Imported:
        reader = Reader(source)
        raw, sampling = reader.read()
        config = TokenizerConfig.read(raw, str(source.path))
        used = [name for name in source.tensors if not unused(name, reader.depths)]
        names = {translate(name): name for name in used}
        order = channels(reader.bits, reader.dim // reader.bits)
        state = {ours: ordered(ours, source.tensors[theirs], order) for ours, theirs in names.items()}
        count = sum(source.tensors[name].numel() for name in source.tensors.keys() - set(used))
        notes = (*reader.notes, f"{count:,} of its numbers change no output, and are left out")
        return Imported(config, state, sampling, (*notes, *source.unlike_card(config)), names)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        return golden.compare_cases(source, model)


def ordered(name: str, tensor: Tensor, order: Tensor) -> Tensor:
    """A file's tensor with a token's channels as ours are."""
    if name.startswith("quantizer."):
        return tensor[order]
    if name == "decoder.from_tokens.weight":  # whose last column is of the mark
        return torch.cat([tensor[:, order], tensor[:, len(order) :]], 1)
    return tensor


class Reader:
    """The tensors' sizes and the config's settings, which must agree; `notes` gathers what a user must know."""

    def __init__(self, source: Foreign) -> None:
        self.source, self.notes = source, list[str]()
        shape = source.tensors.shape
        self.dim = shape("encoder.final_layer_txt.linear.weight")[0]
        self.values = shape("encoder.img_in.weight")[1]
        self.widths = [shape(f"{part}.img_in.weight")[0] for part in ("encoder", "decoder")]
        self.depths = [
            sum(
                re.fullmatch(rf"{part}\.double_blocks\.\d+\.img_attn\.qkv\.weight", n) is not None
                for n in source.tensors
            )
            for part in ("encoder", "decoder")
        ]

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """A `TokenizerConfig` as plain data, and the settings of use that the config names."""
        settings = self.source.config()
        if not self.source.settings.keys() - {path.partition(".")[0] for path in self.source.assumed}:
            self.notes.append("it has no config: what no tensor tells is as in the published models")
        model, data = settings.child("model", {}), settings.child("data", {})
        model.choice("quantization_type", ("lfq",), "lfq")
        model.agreed("context_dim", self.dim)
        self.bits = model.number("codebook_size_for_entropy", BITS.get(self.dim))
        if self.bits is None or self.dim % self.bits:
            place, value = model.at("codebook_size_for_entropy"), "not given" if self.bits is None else self.bits
            text = f"is {value}; a token's {self.dim} bits are codes of so many bits each"
            raise ConfigError.at(place, f"{text}, say --assume {place}=N")
        patch = model.number("patch_size", 4)
        if 3 * patch**2 != self.values:
            raise ConfigError.at(model.at("patch_size"), f"is {patch}, but a patch has {self.values} values")
        encoder, decoder = self.trunks(model, settings.child("tiny_sizes", {}), patch)
        losses = (model.take("entropy_loss_weight", float, 0.0025), model.take("commit_loss_weight", float, 0.000625))
        # what training does with its weights, its samples and their average
        model.ignore("ema_decay", "posttrain_sample", "posttrain_sample_enable_cfg", "posttrain_sample_k")
        null = 0.1 if model.take("enable_cfg", bool, True) else 0.0
        raw = {
            "image_size": data.number("image_size", 256),
            "length": model.number("code_length", 256),
            "codec": "identity",
            "encoder": encoder,
            "quantizer": quantizer_of(self.bits, self.dim // self.bits, *losses),
            "masker": "full",
            "decoder": {**decoder, "null_dropout": null},
        }
        data.ignore(*data)
        sampling = sampling_of(settings.child("eval", {}))
        settings.ignore("global_seed", "opt", "trainer")
        settings.finish()
        return raw, sampling

    def trunks(self, model: Settings, table: Settings, patch: int) -> Iterable[dict[str, Any]]:
        """Settings of encoder and decoder, whose widths are multiples of those of one entry of the project's table."""
        model.choice("enable_mup", (True, False), True)  # as it was built, nothing is rescaled by it
        model.choice("fix_norm_mode", ("l2",), "l2")
        norms = model.take("fix_initial_norms", bool, True)
        entry = table.child(next(iter(table), "dit_b_4"), {})
        for name, only in (("theta", 10000), ("mlp_ratio", 4.0), ("qkv_bias", True)):
            entry.choice(name, (only,), only)
        hidden, heads = entry.number("hidden_size", SIZE["hidden_size"]), entry.number("num_heads", SIZE["num_heads"])
        axes = entry.numbers("axes_dim", SIZE["axes_dim"])
        for name, width, depth in zip(("enc_", ""), self.widths, self.depths, strict=True):
            model.agreed(f"{name or 'dec_'}depth", depth)
            wide = model.agreed(f"{name}mup_width", 4 * width // hidden)
            if hidden * wide != 4 * width:
                text = f"is {hidden}, and a width of {width} is no multiple of its quarter; --assume it"
                raise ConfigError.at(entry.at("hidden_size"), text)
            trunk = {"width": width, "depth": depth, "heads": heads, "patch": patch, "fixed_norms": norms}
            turned = tuple(axis * wide // 4 for axis in axes)
            usual = MMDiTEncoderConfig(width=width, heads=heads).rotary()
            yield {"type": "mmdit", **trunk, "axes": None if turned == usual else turned}


def quantizer_of(bits: int, codes: int, entropy: float, commitment: float) -> dict[str, Any]:
    """The quantizer of tokens of so many codes, with FlowMo's entropies: of all codes together, at temperature 0.1."""
    raw = {"type": "lfq", "codebook_size": 2**bits, "codebooks": codes, "entropy": entropy, "commitment": commitment}
    several = {"pooled": True} if codes > 1 else {}
    return {**raw, "inv_temperature": 10.0, "entropy_floor": 1e-5, **several}


def sampling_of(settings: Settings) -> dict[str, Any]:
    """Settings of use in the words of the project's evaluation."""
    settings.ignore(*(name for name in settings if name != "sampling"))
    given = settings.child("sampling", {})
    given.choice("mode", ("rf",), "rf")
    schedule = given.take("schedule", str, "pow_0.25")
    found = re.fullmatch(r"linear|pow_([\d.]+)", schedule)
    if found is None:
        raise ConfigError.at(given.at("schedule"), f"is {schedule!r}; expected linear, or pow_ and a number")
    sigmas = given.take("cfg_interval", (str, type(None)), SIGMAS)
    levels = [float(level) for level in re.findall(r"[\d.]+", sigmas or "")]
    if len(levels) not in (0, 2):
        raise ConfigError.at(given.at("cfg_interval"), f"is {sigmas!r}; expected two noise levels, as {SIGMAS}")
    interval = [level / (1 + level) for level in levels] or [0.0, 1.0]
    guidance = given.take("cfg", float, 1.5)
    power = 1 / float(found[1] or 1)
    return {"steps": given.number("sample_steps", 25), "power": power, "guidance": guidance, "interval": interval}
