"""Text encoders with random weights, as folders that transformers reads; both ways of holding weights in use."""

import pytest
import torch

WORDS = ("<pad>", "</s>", "<s>", "<unk>", "a", "red", "blue", "star", "ring", "large", "small", "left", "of")
SHAPE = {"vocab_size": len(WORDS), "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}


def make(folder, kind, seed=0, projection=16):
    """A folder with a `t5`, `clip` or `minilm` 16 wide and a tokenizer of whole words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(seed)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    begin = "" if kind == "t5" else "<s> "
    words.post_processor = processors.TemplateProcessing(f"{begin}$A </s>", special_tokens=[("<s>", 2), ("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    ).save_pretrained(folder)
    if kind == "t5":
        shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": len(WORDS)}
        encoder = transformers.T5EncoderModel(transformers.T5Config(**shape))
    elif kind == "clip":
        shape = {**SHAPE, "num_hidden_layers": 2, "projection_dim": projection}
        config = transformers.CLIPTextConfig(hidden_size=16, max_position_embeddings=8, eos_token_id=1, **shape)
        encoder = transformers.CLIPTextModelWithProjection(config)
    else:
        encoder = transformers.BertModel(transformers.BertConfig(hidden_size=16, **SHAPE))
    encoder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Folders by kind; `other` is a `t5` with other weights, `wide` a `clip` that projects to another width."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("encoders")
    made = {kind: make(root / kind, kind) for kind in ("t5", "clip", "minilm")}
    return {**made, "other": make(root / "other", "t5", seed=1), "wide": make(root / "wide", "clip", projection=24)}


@pytest.fixture(params=[0, 10**9], ids=["laid", "in place"])
def worth(request, monkeypatch):
    """Weights are copied before they are used, or are not."""
    from flexframe_priors import steps

    monkeypatch.setattr(steps, "WORTH", request.param)
