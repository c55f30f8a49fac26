"""Published FlexTok checkpoints, and FlexTok's VAEs by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flexframe.importing import Foreign, Imported
from flexframe.importing.compare import Comparison
from flexframe.importing.importer import Importer
from flexframe.importing.names import beginning
from flexframe.models.build import Model
from flexframe_registry import CodecModelConfig, ConfigError, TokenizerConfig

from .autoencoder import DOWNSAMPLE, codec_of, prefix_of, read_vae, vae_tensors
from .blocks import stored_table
from .reading import Reading, read_flextok, to_positions
from .wiring import check_names

SECTIONS = {"vae", "encoder", "decoder", "regularizer"}
ROOTS = ("encoder.module_dict.", "decoder.module_dict.")
EXACT = 1e-6
"""The most that a stored table may differ from the computed one, at 16 cells a side or fewer; sines of larger angles
differ by more between machines."""


class FlexTokImporter(Importer):
    """See `FlexTokImporterConfig`."""

    def recognises(self, source: Foreign) -> bool:
        return _is_tokenizer(source) or _is_vae(source)

    def convert(self, source: Foreign) -> Imported:
        return _tokenizer(source) if _is_tokenizer(source) else _vae(source)

    def compare(self, source: Foreign, model: Model) -> Iterable[Comparison]:
        from .golden import Subject, compare_cases

        if not _is_tokenizer(source):
            return compare_cases(source, Subject(model))
        reading = read_flextok(source.config())
        return compare_cases(source, Subject(model, names_of(source, reading), reading.inner_layers))


def _is_tokenizer(source: Foreign) -> bool:
    """Tell by its tensors; by its settings alone where no word that begins all names may be in the way of that."""
    named = any(name.startswith(ROOTS) for name in source.tensors)
    return named or (source.settings.keys() >= SECTIONS and not beginning(source.tensors))


def _is_vae(source: Foreign) -> bool:
    """Tell whether it is a VAE and nothing else: other models hold one among their tensors."""
    prefix = prefix_of(source.tensors)
    return prefix is not None and all(name.startswith(prefix) for name in source.tensors)


# --- tokenizers --------------------------------------------------------------------------------------------------


def _tokenizer(source: Foreign) -> Imported:
    if not source.settings:
        text = "has no config: neither config.json beside it nor one in its metadata; fetch it again, config.json too"
        raise ConfigError.at(str(source.path), text)
    reading = read_flextok(source.config())
    codec, notes = _codec(source, reading)
    raw = tokenizer_config(reading, codec)
    _check_sizes(source, reading)
    _check_tables(source, reading)
    names = names_of(source, reading)
    used = {*names.values(), *reading.tables}
    state = {ours: source.tensors[theirs] for ours, theirs in names.items() if theirs in source.tensors}
    state |= {name: source.tensors[name] for name in source.tensors if name not in used}  # which `assemble` lists
    if "decoder.positions" in state:
        state["decoder.positions"] = to_positions(state["decoder.positions"], reading.length)
    height, width = raw["image_size"]
    size = f"the image size, {height} x {width}, is what its tables of positions cover; a config does not say it"
    config = TokenizerConfig.read(raw)
    unlike = source.unlike_card(config)
    return Imported(config, state, notes=(*notes, size, *reading.notes, *unlike), names=names)


def tokenizer_config(reading: Reading, codec: Mapping[str, Any]) -> dict[str, Any]:
    """The whole config, as plain data."""
    down = codec["downsample"] if "downsample" in codec else 2 ** (len(codec["widths"]) - 1)
    size = [side * down for side in reading.latents]
    return {"image_size": size, "length": reading.length, "codec": dict(codec), **reading.parts}


def names_of(source: Foreign, reading: Reading) -> dict[str, str]:
    """The file's name of each tensor of ours, the VAE's where it has them."""
    prefix = prefix_of(source.tensors)
    return {**reading.tensors, **({} if prefix is None else vae_tensors(source.tensors, prefix))}


def _codec(source: Foreign, reading: Reading) -> tuple[dict[str, Any], list[str]]:
    vae, prefix = reading.vae, prefix_of(source.tensors)
    if prefix is not None:
        notes = [_draws("codec")] if vae.sample_posterior else []
        return codec_of(source, prefix, vae), notes
    down = DOWNSAMPLE if vae.widths is None else 2 ** (len(vae.widths) - 1)
    codec = {"type": "identity", "channels": vae.channels, "downsample": down, "range": None}
    named = f" (its config names {vae.hub})" if vae.hub else ""
    scale = "by a factor it does not give" if vae.scaling_factor is None else f"by {vae.scaling_factor}"
    text = f"holds no VAE{named}, so it takes and gives latents, not images: {vae.channels} channels, scaled {scale}"
    return codec, [text]


def _draws(slot: str) -> str:
    return (
        "the VAE's posterior is sampled, as its authors do, so tokenizing is a seeded draw; "
        f"{slot}.sample_posterior=false takes its mode"
    )


def _check_sizes(source: Foreign, reading: Reading) -> None:
    """The sizes of the config against the tensors', by the config's own paths, before anything is built of them."""
    problems = []
    for side in ("encoder", "decoder"):
        part = reading.parts[side]
        blocks = reading.tensors[f"{side}.blocks.0.attn.wq.weight"].removesuffix(".0.attn.wq.weight")
        there = {
            name.removeprefix(f"{blocks}.").partition(".")[0] for name in source.tensors if name.startswith(blocks)
        }
        depth = 1 + max((int(number) for number in there if number.isdecimal()), default=-1)
        module = blocks.removesuffix(".blocks")
        if depth and depth != part["depth"]:
            problems.append((f"{module}.depth", f"is {part['depth']}; the file has {depth} blocks"))
        first = f"{blocks}.0.attn.wq.weight"
        if first in source.tensors and (shape := source.tensors.shape(first)) != (part["width"],) * 2:
            problems.append((f"{module}.dim", f"is {part['width']}; {first} is {shape}"))
    name = reading.tensors["encoder.registers"]
    if name in source.tensors and (shape := source.tensors.shape(name))[:1] != (reading.length,):
        problems.append((f"{name.rpartition('.')[0]}.n_max", f"is {reading.length}; {name} is {shape}"))
    name, levels = reading.tensors["quantizer.project.weight"], reading.parts["quantizer"]["levels"]
    if name in source.tensors and (shape := source.tensors.shape(name))[:1] != (len(levels),):
        problems.append(("regularizer.levels", f"is {levels}, {len(levels)} dimensions; {name} is {shape}"))
    if problems:
        raise ConfigError(problems)


def _check_tables(source: Foreign, reading: Reading) -> None:
    problems = []
    for name, (rows, columns, width) in reading.tables.items():
        if name not in source.tensors:
            continue
        shape = source.tensors.shape(name)
        if shape != (1, width, rows, columns):
            problems.append((name, f"is {shape}; its config says {(1, width, rows, columns)}"))
            continue
        table = source.tensors[name][0].permute(1, 2, 0).float()
        error = float((table - stored_table(rows, columns, width)).abs().max())
        most = EXACT * max(1.0, max(rows, columns) / 16)
        if not error <= most:
            text = f"differs by {error:.1e} from the sine-cosine table that its config asks for (at most {most:.0e})"
            problems.append((name, f"{text}; --drop {name} to take the computed one"))
    if problems:
        raise ConfigError(problems)


# --- VAEs --------------------------------------------------------------------------------------------------------


def _vae(source: Foreign) -> Imported:
    prefix = prefix_of(source.tensors)
    if prefix is None:
        raise ConfigError.at(str(source.path), "holds neither a FlexTok nor a VAE of diffusers' AutoencoderKL")
    check_names(source.settings)
    config = source.config()
    wrapper = "_class_name" not in config
    settings = read_vae(config, wrapper=wrapper)
    # the wrapper's keys of latents lead out of it; it has no other settings
    config.finish()
    codec = codec_of(source, prefix, settings)
    notes = (_draws("codec"),) if codec["sample_posterior"] else ()
    if settings.sample_posterior is None:
        notes = ("its config does not say whether the posterior is sampled; here its mode is taken",)
    names = vae_tensors(source.tensors, prefix)
    state = {ours: source.tensors[theirs] for ours, theirs in names.items()}
    state |= {name: source.tensors[name] for name in source.tensors if name not in set(names.values())}
    model = CodecModelConfig.read({"codec": codec})
    return Imported(model, state, notes=(*notes, *source.unlike_card(model)), names=names)
