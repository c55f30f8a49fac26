"""Models as the commands open them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexframe.commands.common import pick_device, refuse, say

if TYPE_CHECKING:
    from flexframe_registry import ModelConfig, TokenizerConfig
    from flexframe_registry.kinds import SourceConfig


def open_tokenizer(where: str, device: str, resize: str | None, threads: int | None = None) -> tuple[Any, str, str]:
    """A tokenizer, the name that finds it again, and how its images are brought to size; torch has threads for it."""
    from flexframe.data.images import RESIZES

    if resize is not None and resize not in RESIZES:
        refuse("--resize", f"there is no {resize!r}; there are: {', '.join(RESIZES)}")
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
    from flexframe.threads import use

    with say.status(f"loading {where}"):
        tokenizer = load(where, device=on)
    use(threads, tokenizer)
    return tokenizer, tokenizer.id, resize or preprocessing(where).resize


def model_of(file: Any) -> str:
    """The model that a token file names, where that is a card or on this disk: a data file starts no download."""
    name = str(file.about.model)
    if name.startswith("hf:"):
        refuse(str(file.path), f"was encoded by {name}; give --model {name} to fetch and use it")
    return name if name.startswith("path:") else f"card:{name}"


def tokenizer_of(config: ModelConfig, where: str, told: str) -> TokenizerConfig:
    """The config of a tokenizer.

    Raises:
        ConfigError: at `where`, that it is of another kind of model, with `told`, what to do instead.
    """
    from flexframe_registry import TokenizerConfig

    if not isinstance(config, TokenizerConfig):
        refuse(where, told)
    return config


def source_of(data: str | None, place: str = "--data") -> SourceConfig:
    """The config of a source that is given as one word, or as `{type: ...}`."""
    from flexframe_registry import ConfigError
    from flexframe_registry.files import split_override
    from flexframe_registry.kinds import SourceConfig
    from flexframe_registry.slots import resolve

    given = split_override(f"{place}={data}")[1]
    try:
        source = resolve("source", given)
    except ConfigError as error:
        raise error.below(place) from None
    if not isinstance(source, SourceConfig):
        refuse(place, f"is {data!r}, which names no source; give it as scenes, or '{{type: scenes, split: val}}'")
    return source
