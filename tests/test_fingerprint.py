"""The hash under which token ids compare."""

import copy

import torch

from flexframe.models.fingerprint import fingerprint, weights
from flexframe.models.tokenizer import Tokenizer


def test_weights_are_hashed_with_values_names_shapes_and_types():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    assert weights(a) == weights(b)
    assert len(weights(a)) == 64
    with torch.no_grad():
        b.weight[1, 1] += 1e-6
    assert weights(a) != weights(b)
    assert weights(copy.deepcopy(a).half()) != weights(a)
    assert weights(torch.nn.ParameterDict({"x": torch.zeros(4)})) != weights(
        torch.nn.ParameterDict({"x": torch.zeros(2, 2)})
    )


def test_what_decides_an_id_decides_the_fingerprint(tiny):
    base = fingerprint(tiny)
    assert base == fingerprint(copy.deepcopy(tiny))
    for part in ("encoder", "quantizer"):
        other = copy.deepcopy(tiny)
        with torch.no_grad():
            next(getattr(other, part).parameters()).flatten()[0] += 1
        assert fingerprint(other) != base, part


def test_the_decoder_and_the_masker_are_left_out(tiny):
    config = tiny.config.model_dump()
    config |= {"masker": "full", "decoder": "toy-plain"}
    other = Tokenizer(type(tiny.config).read(config))
    assert fingerprint(other) != fingerprint(tiny)  # other weights
    for part in ("encoder", "quantizer"):
        getattr(other, part).load_state_dict(getattr(tiny, part).state_dict())
    assert fingerprint(other) == fingerprint(tiny)


def test_the_config_counts_where_weights_do_not_show_it(tiny):
    config = tiny.config.model_dump(mode="json")
    levels = config["quantizer"]["levels"]
    config["quantizer"]["levels"] = [levels[0] + 1, *levels[1:]]
    other = Tokenizer(type(tiny.config).read(config))
    for part in ("encoder", "quantizer"):
        getattr(other, part).load_state_dict(getattr(tiny, part).state_dict())
    assert weights(other.quantizer) == weights(tiny.quantizer)
    assert fingerprint(other) != fingerprint(tiny)
