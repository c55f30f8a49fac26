"""One side of a FlexTok config, encoder or decoder, read as data.

The reference's modules hand each other tensors by name, through one dictionary. `walk` goes through them in order and
keeps which role each name holds: names may be any, and a module may stand anywhere, but a wiring of another meaning is
refused where it departs. No name of a file is imported, called or built: it is compared with the lists here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from flexframe.importing import Settings
from flexframe_registry import ConfigError
from flexframe_registry.errors import nearest

WRAPPERS = ("FlexTok", "FlexTokFromHub")
OPERATIONS = ("channels_first_to_last", "channels_last_to_first")
ABSENT = (
    "MLPHead", "MaskTokenModule", "ZeroNullCond", "DictKeyFilter", "PerSampleReducer", "FlexTransformerDecoder",
    "sum_tensors",
)  # fmt: skip
"""Modules that are no part of a FlexTok tokenizer: heads of objectives, other models' modules."""
KNOWN = (
    *WRAPPERS, *OPERATIONS, *ABSENT, "StableDiffusionVAE", "SequentialModuleDictWrapper", "PerSampleOp",
    "PatchEmbedder", "PositionalEmbeddingAdder", "Registers1D", "BlockWiseSequencePacker", "FlexTransformer",
    "SequenceUnpacker", "LinearHead", "LinearLayer", "MaskedNestedDropout", "LearnedNullCond", "TimestepEmbedder",
    "ToPatchesLinearHead", "FSQ", "MinRFNoiseModule", "MinRFPipeline",
)  # fmt: skip
"""Every class and function that a FlexTok config may name, whatever its module's path within `flextok`."""

INERT = {
    "use_act_checkpoint": "saves memory in training; the numbers are the same",
    "pad_to_multiple": "what is padded is masked, and cut off again",
    "weight_init_style": "the weights are read from the file",
    "zero_init_query_proj": "the weights are read from the file",
    "return_materialized_mask": "how a mask is handed over, not what it lets through",
    "compile_block_mask": "how a mask is handed over, not what it lets through",
    "use_flex_attention": "which kernel computes the attention",
    "_convert_": "how a mapping is handed to a constructor; there is none here",
    "_recursive_": "how a mapping is handed to a constructor; there is none here",
}
"""Settings that change no number at use or in training here, and why."""
MOST = 1 << 16
"""The most of any count or width: no model has more, and a broken file should not fill the memory."""
NEUTRAL = {
    "qk_norm": True, "gated_mlp": True, "qkv_bias": False, "proj_bias": False, "mlp_bias": False, "dropout": 0,
    "drop": 0, "attn_drop": 0, "proj_drop": 0, "drop_path": 0, "drop_path_rate": 0,
}  # fmt: skip
"""Settings that a file may spell out, with the one value that says what is so anyway."""

Handler = Callable[[Settings, "Side"], None]


class Side:
    """Facts known of one side so far: the role of each data key, its facts, and where its tensors are.

    Args:
        name: `encoder` or `decoder`.
        held: the role of each data key before the first module.
    """

    def __init__(self, name: str, held: Mapping[str, str]) -> None:
        self.name, self.held = name, dict(held)
        self.facts: dict[str, Any] = {}
        self.tensors: dict[str, str] = {}
        """The file's name of each tensor of ours."""
        self.tables: dict[str, tuple[int, int, int]] = {}
        """Rows, columns and width of each table of positions that the file stores and that is computed here."""
        self.notes: list[str] = []
        self._from: dict[str, str] = {}

    # --- data keys -----------------------------------------------------------------------------------------------

    def reads(self, module: Settings, setting: str, *roles: str) -> str:
        """The role of the data key that a setting names; it must be one of `roles`."""
        return self.check(module.at(setting), module.take(setting, str), *roles)

    def check(self, path: str, key: str, *roles: str) -> str:
        """Check that a data key holds one of these roles; returns which.

        Raises:
            ConfigError: it holds another, or nothing.
        """
        role = self.held.get(key)
        if role in roles:
            assert role is not None
            return role
        holds = "which nothing before it writes" if role is None else f"which holds {role}"
        raise ConfigError.at(path, f"reads {key!r}, {holds}; expected {' or '.join(roles)}")

    def reads_all(self, module: Settings, setting: str, roles: Sequence[str]) -> None:
        """The data keys that a setting lists hold these roles, in this order.

        Raises:
            ConfigError: they hold others.
        """
        keys = pair(module, setting)
        held = [self.held.get(key) for key in keys]
        if held != list(roles):
            listed = ", ".join(f"{k!r} ({r or 'nothing'})" for k, r in zip(keys, held, strict=True))
            raise ConfigError.at(module.at(setting), f"is {listed}; expected {', then '.join(roles)}")

    def writes(self, module: Settings, setting: str, role: str) -> None:
        """The data key that a setting names holds this role from now on."""
        self.held[module.take(setting, str)] = role

    def writes_all(self, module: Settings, setting: str, roles: Sequence[str]) -> None:
        """Note that the two data keys that a setting lists hold these roles from now on."""
        self.held.update(zip(pair(module, setting), roles, strict=True))

    # --- facts ---------------------------------------------------------------------------------------------------

    def settle(self, fact: str, value: Any, path: str) -> None:
        """Keep a fact; where it is said again, it must be the same.

        Raises:
            ConfigError: it was said otherwise before.
        """
        if fact in self.facts and self.facts[fact] != value:
            before = f"{self._from[fact]} is {_plain(self.facts[fact])}"
            raise ConfigError.at(path, f"is {_plain(value)}, but {before}; they must agree")
        self.facts[fact] = value
        self._from.setdefault(fact, path)

    def where(self, fact: str) -> str:
        """The path of the setting that first said a fact."""
        return self._from[fact]

    def number(self, fact: str, module: Settings, setting: str, default: int | None = None) -> None:
        """Settle a fact by a setting that is a positive whole number.

        Raises:
            ConfigError: it is above what any model has, or was said otherwise before.
        """
        value = module.number(setting) if default is None else module.number(setting, default)
        if value > MOST:
            raise ConfigError.at(module.at(setting), f"is {value}; expected at most {MOST}")
        self.settle(fact, value, module.at(setting))

    def once(self, module: Settings, name: str) -> None:
        """Refuse a second module of a class of which a FlexTok has one.

        Raises:
            ConfigError: there was one before.
        """
        if name in self._from:
            raise ConfigError.at(module.path, f"is a second {name} after {self._from[name]}; a FlexTok has one")
        self._from[name] = module.path

    def named(self, module: Settings, tensors: Mapping[str, str]) -> None:
        """Note the tensors of a module: ours, and the file's below the module's own path."""
        self.tensors.update({ours: f"{module.path}.{theirs}" for ours, theirs in tensors.items()})


def pair(module: Settings, setting: str) -> list[str]:
    """A setting that lists two data keys.

    Raises:
        ConfigError: it does not list two different ones.
    """
    keys = module.take(setting, list)
    if len(keys) != 2 or not all(isinstance(key, str) for key in keys) or keys[0] == keys[1]:
        raise ConfigError.at(module.at(setting), f"is {keys!r}; expected two data keys")
    return keys


def _plain(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


# --- names of a file ---------------------------------------------------------------------------------------------


def check_names(data: Any) -> None:
    """Refuse a config that names anything, anywhere in it, that is not of FlexTok's library; all such are listed.

    Raises:
        ConfigError: there are any.
    """
    problems = []
    for at, name in _names(data, ""):
        if not (isinstance(name, str) and re.fullmatch(r"flextok(\.[A-Za-z_]\w*)+", name)):
            text = "is no module of FlexTok's; nothing that a file names is ever imported or run"
            problems.append((at, f"{_short(name)} {text}"))
        elif name.rpartition(".")[2] not in KNOWN:
            without = at.removesuffix("._target_")
            problems.append((at, f"{_short(name)} is not known here; --drop {without} to go without it"))
    if problems:
        raise ConfigError(problems)


def _names(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            at = f"{path}.{key}" if path else key
            if key == "_target_":
                yield at, value
            yield from _names(value, at)
    elif isinstance(data, (list, tuple)):
        for i, value in enumerate(data):
            yield from _names(value, f"{path}.{i}" if path else str(i))


def class_of(settings: Settings, expected: Collection[str]) -> str:
    """The class that a config names, without its module's path; it must be one of `expected`.

    Raises:
        ConfigError: it is another.
    """
    name = str(settings.take("_target_", str)).rpartition(".")[2]
    if name in expected:
        return name
    path = settings.at("_target_")
    if name in ABSENT and settings.path:
        text = f"is a {name}, which is no part of a FlexTok tokenizer; --drop {settings.path} to go without it"
        raise ConfigError.at(path, f"{text} and its tensors")
    raise ConfigError.at(path, f"is a {name}; expected {' or '.join(expected)}.{nearest(name, expected)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- the walk ----------------------------------------------------------------------------------------------------


def walk(settings: Settings, side: Side, handlers: Mapping[str, Handler], several: Collection[str]) -> None:
    """Read the modules of one side in order; `handlers` by class, `several` of which a FlexTok may have many."""
    class_of(settings, ("SequentialModuleDictWrapper",))
    modules = settings.child("module_dict")
    for key in modules:
        module = modules.child(key)
        name = class_of(module, tuple(handlers))
        if name not in several:
            side.once(module, name)
        handlers[name](module, side)
        finish(module, side)
    finish(settings, side)


def finish(module: Settings, side: Side) -> None:
    """Accept what changes nothing of what a module left unread: inert settings, and data keys that lead nowhere."""
    module.choice("_partial_", (False,), False)
    if module.choice("dtype_override", (None, "fp32"), None):
        side.notes.append(f"{module.path} computes in fp32 in the reference even under autocast; here it does not")
    module.ignore(*INERT)
    for name, value in NEUTRAL.items():
        module.choice(name, (value,), value)
    for path, value in module.unread():
        name = path.removeprefix(f"{module.path}.")
        if name.endswith("_write_key") and isinstance(value, str | None):
            module.ignore(name)  # that nothing reads it is checked where it would be read
            if value is not None:
                side.held[value] = f"the {name.removesuffix('_write_key')} of {module.path}"
        elif name.endswith("_read_key") and value is None:
            module.ignore(name)
