"""Fingerprints: one hash of what makes token ids of two models comparable."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Codec

DECIDING = ("codec", "encoder", "quantizer")
"""Parts that decide a token id, in the order in which they act."""


def weights(model: nn.Module) -> str:
    """sha256 over a model's state: names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def codec_fingerprint(codec: Codec) -> str:
    """sha256 over what decides latents: a codec's config and its weights."""
    record = {"config": codec.config.deciding(), "weights": weights(codec)}
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 over what decides a token id: the config and the weights of codec, encoder and quantizer.

    The decoder and the masker are left out: a model whose decoder alone was trained further (a second stage, a
    finetuned decoder) has the same token ids, and decodes the files of the first. A codec goes in whole, for
    its two directions cannot be told apart here. Weights of another precision are another model.
    """
    config = tokenizer.config
    sizes = config.model_dump(mode="json", include={"image_size", "length"})
    record = {
        "config": {**sizes, **{name: getattr(config, name).deciding() for name in DECIDING}},
        "weights": {name: weights(getattr(tokenizer, name)) for name in DECIDING},
    }
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
