"""Write the random weights of the toys' cards anew, and their hashes into the cards."""

import hashlib
import re
from pathlib import Path

import torch

from flexframe.models import modelfile
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import cards

FOLDER = Path(__file__).parent / "flexframe_toy" / "cards" / "toy"

for seed, name in ((1, "digits-tiny"), (2, "plain")):
    torch.manual_seed(seed)
    card, weights = cards().get(f"toy/{name}"), FOLDER / f"{name}.safetensors"
    about = {"origin": f"random weights, seed {seed}"}
    modelfile.save(Tokenizer(card.model).state_dict(), card.model, weights, sampling=card.file.sampling, about=about)
    line = f"weights: {{path: {name}.safetensors, sha256: {hashlib.sha256(weights.read_bytes()).hexdigest()}}}\n"
    text = re.sub(r"^weights: .*\n", "", (FOLDER / f"{name}.yaml").read_text(), flags=re.MULTILINE)
    (FOLDER / f"{name}.yaml").write_text(text + line)
