"""Checkpoints from the Hugging Face hub, at a recorded revision.

The commit of a repository's first download is recorded in `$FLEXFRAME_HOME/revisions.json` (`~/.cache/flexframe`), and
later loads take that commit: a name means the same weights tomorrow. `@revision` asks for another.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flexframe.files import write_bytes
from flexframe_registry import ConfigError
from flexframe_registry.files import read_json

log = logging.getLogger("flexframe")
ANEW = "delete it, and revisions are recorded anew"
LONGEST = 1 << 16
"""Characters of the fields of a repository's page that are read."""
CONFIGS = ["config.json", "config.yaml", "*.safetensors.index.json", "*.bin.index.json"]


def home() -> Path:
    """The folder of what is recorded and cached: `$FLEXFRAME_HOME`, or `~/.cache/flexframe`."""
    return Path(os.environ.get("FLEXFRAME_HOME") or Path.home() / ".cache" / "flexframe")


def keep(name: str, content: bytes) -> Path:
    """Write a file below `home`, and give its place: where that cannot be written, it is in a folder that goes with
    this process, which is told once."""
    path = home() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        path = Path(not_kept(str(home()), error.strerror or str(error))) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    return path


def not_kept(place: str, why: str) -> str:
    """Say once that `home` cannot be written, and why; gives the folder that serves this process instead."""
    return _spare(place, why).name


@cache
def _spare(place: str, why: str) -> TemporaryDirectory[str]:
    told = f"FLEXFRAME_HOME, {place}, cannot be written ({why}): each command computes anew what would be kept there"
    log.warning("%s; set FLEXFRAME_HOME to a folder that can be written", told)
    return TemporaryDirectory(prefix="flexframe-")


def recorded(repo: str) -> str | None:
    """The commit of this repository's first download here.

    Raises:
        ConfigError: the record is broken.
    """
    path = home() / "revisions.json"
    if not path.is_file():
        return None
    commit = read_json(path, ANEW).get(repo)
    return commit if isinstance(commit, str) else None


def record(repo: str, commit: str) -> None:
    """Keep the commit of a first download."""
    path = home() / "revisions.json"
    known = read_json(path, ANEW) if path.is_file() else {}
    if repo not in known:
        text = json.dumps({**known, repo: commit}, indent=1, sort_keys=True) + "\n"  # no checksum: commits are hashes
        keep("revisions.json", text.encode())


def fetch(
    repo: str, revision: str | None = None, file: str | None = None, also: Sequence[str] = ()
) -> tuple[Path, str]:
    """A repository's checkpoint on this disk, and its commit.

    Args:
        revision: a commit, branch or tag; None takes the recorded commit, or the newest if there is none yet.
        file: the one weights file to fetch; None takes all safetensors, and a pickled file only where there is none.
        also: patterns of other files that are wanted, as far as they are there.

    Raises:
        ConfigError: there is no such repository, revision or file, or it cannot be fetched.
    """
    wanted = revision or recorded(repo) or "main"
    patterns = [file] if file else ["*.safetensors"]
    folder = _snapshot(repo, wanted, [*CONFIGS, *also, *patterns])
    if file is None and not list(folder.glob("*.safetensors")):
        folder = _snapshot(repo, wanted, [*CONFIGS, *also, "*.bin"])
    if file is not None and not (folder / file).is_file():
        raise ConfigError.at(f"hf:{repo}", f"has no file {file!r} at revision {wanted}")
    commit = folder.name
    if revision is None:
        record(repo, commit)
    return (folder / file if file else folder), commit


def said(repo: str, revision: str) -> dict[str, str]:
    """What the repository's own page says at this commit, of `licence` and `base_model`; empty where it says nothing,
    has no page, or cannot be reached."""
    from huggingface_hub import hf_hub_download

    try:
        page = Path(hf_hub_download(repo, "README.md", revision=revision)).read_text(encoding="utf-8", errors="replace")
    except Exception:  # whatever the client or its transport raises: a page is a courtesy
        return {}
    front = re.match(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", page, re.DOTALL)
    try:
        held = YAML(typ="safe", pure=True).load(front[1]) if front and len(front[1]) < LONGEST else None
    except YAMLError:
        return {}
    fields: dict[str, Any] = held if isinstance(held, dict) else {}
    licence = fields.get("license_name") if fields.get("license") in (None, "other") else fields["license"]
    base = fields.get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    told = {"licence": licence or fields.get("license"), "base_model": base}
    return {key: str(value) for key, value in told.items() if value}


def _snapshot(repo: str, revision: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"hf:{repo}@{revision}"
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError:
        text = "is gated: accept its terms on huggingface.co, then `hf auth login`"
        raise ConfigError.at(where, text) from None
    except RepositoryNotFoundError:
        text = "there is no such repository on the hub, or it is private and you are not logged in (`hf auth login`)"
        raise ConfigError.at(where, text) from None
    except RevisionNotFoundError:
        raise ConfigError.at(where, "the repository has no such revision") from None
    except HFValidationError as error:
        raise ConfigError.at(where, f"is no repository's name: {error}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = str(error).strip().splitlines()[0][:160]
        text = f"cannot be fetched and is not cached ({why}); check the network, or give path:FOLDER of a copy"
        raise ConfigError.at(where, text) from None
