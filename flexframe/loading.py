"""Our own model format, and `flexframe.load`.

A model is one safetensors file whose metadata holds its config as JSON: nothing to unpickle, nothing to lose.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexframe.tokenizer import Tokenizer
from flexframe_registry import ConfigError, TokenizerConfig, cards

FORMAT = "flexframe/1"
MAX_CONFIG = 1 << 20


def save(
    state: Mapping[str, Tensor],
    config: TokenizerConfig,
    path: Path,
    *,
    sampling: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file atomically. `about` is kept beside the config (step, run, provenance)."""
    header = {"config": config.model_dump(mode="json"), "sampling": dict(sampling or {}), "about": dict(about or {})}
    whole = {name: value.detach().contiguous().clone() for name, value in state.items()}
    temporary = path.with_name(f".{path.name}.part")
    save_file(whole, temporary, metadata={"format": FORMAT, "flexframe": json.dumps(header, sort_keys=True)})
    os.replace(temporary, path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a model file; `ConfigError` says what is wrong with a broken or foreign one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            [(str(path), f"is not a whole safetensors file ({error}); fetch or train it again")]
        ) from None
    if metadata.get("format") != FORMAT:
        raise ConfigError([(str(path), f"is no flexframe model: its metadata names no format {FORMAT!r}")])
    text = metadata.get("flexframe", "")
    if len(text) > MAX_CONFIG:
        raise ConfigError([(str(path), f"its config has {len(text)} characters; at most {MAX_CONFIG} are read")])
    try:
        header = json.loads(text)
        return {"config": header["config"], "sampling": header["sampling"], "about": header["about"]}, state
    except (ValueError, KeyError, TypeError) as error:
        text = f"its metadata holds no whole config ({error}); fetch or train it again"
        raise ConfigError([(str(path), text)]) from None


def load_file(path: Path, *, device: str | torch.device = "cpu") -> Tokenizer:
    """A tokenizer from a model file, in evaluation mode. Tensors left over, missing or misshapen are all listed."""
    header, state = read(path)
    tokenizer = Tokenizer(TokenizerConfig.read(header["config"], str(path)), header["sampling"])
    own = tokenizer.state_dict()
    problems = [f"missing {name}" for name in own.keys() - state.keys()]
    problems += [f"left over {name}" for name in state.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if problems:
        raise ConfigError([(str(path), "its tensors do not fit its config: " + "; ".join(sorted(problems)))])
    tokenizer.load_state_dict(state)
    return tokenizer.eval().to(device)


def find(where: str | Path) -> Path:
    """The model file that a name stands for: a card's id, else a file, else a model's or a run's folder."""
    path = Path(where)
    if isinstance(where, str) and where in cards().files:
        return cards().get(where).weights_path()
    if path.is_file():
        return path
    if path.is_dir():
        checkpoints = sorted((path / "checkpoints").glob("step-*/ema.safetensors"))
        candidates = [path / "model.safetensors", path / "ema.safetensors", *reversed(checkpoints)]
        found = next((c for c in candidates if c.is_file()), None)
        if found is None:
            raise ConfigError([(str(path), "holds no model.safetensors and no whole checkpoint")])
        return found
    try:
        cards().get(str(where))
    except LookupError as error:
        raise ConfigError([("", f"{error}; and there is no such file or folder")]) from None
    raise ConfigError([(str(path), "is no file or folder; give a card's id as a string, not as a path")])


def load(where: str | Path, *, device: str | torch.device = "cpu") -> Tokenizer:
    """A trained tokenizer, ready for use.

    Args:
        where: a card's id (`flextok/digits-tiny`), a model file, or the folder of a model or a training run. A card's
            id comes first; write `./name` for a path that looks like one.
        device: where to put it.

    Raises:
        ConfigError: an unknown name, a file that is broken or of another format, tensors that do not fit.
    """
    tokenizer = load_file(find(where), device=device)
    if isinstance(where, str) and where in cards().files:
        kind = tokenizer.config.decoder.sampling
        tokenizer.sampling = kind.read(cards().get(where).file.sampling, f"{where}: sampling")
    return tokenizer
