"""A codec by itself: its latents are the tokens, to the bit; what does not fit; loading, importing and using it."""

import hashlib
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import flexframe
from flexframe.bench.reconstructions import is_codec
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.load import load
from flexframe_registry import ConfigError, TokenizerConfig

TAEF2 = {"type": "taef2", "channels": 4, "width": 8, "blocks": 1}


def raw(codec="identity", size=(8, 16), length=8, channels=3, patch=4, **changed):
    parts = {"encoder": {"type": "cells", "channels": channels, "patch": patch}, "quantizer": "none"}
    parts["decoder"] = {"type": "cells", "patch": patch}
    return {"image_size": size, "length": length, "codec": codec, **parts, **changed}


def model_of(*given, **changed):
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig.read(raw(*given, **changed))).eval()


def pictures(height=8, width=16, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


# --- numbers -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_cells_channels_are_a_tokens_values_row_by_row():
    model, images = model_of(TAEF2, (16, 24), 6, 4, 1), pictures(16, 24)
    latents = model.codec.encode(images, rng=None)
    tokens = model.encode(images)
    assert tokens.values.shape == (2, 6, 4)
    assert torch.equal(tokens.values[:, 4], latents[:, :, 1, 1])
    assert torch.equal(tokens.codes, tokens.values)
    assert torch.equal(model.decode(tokens), model.codec.decode(latents).clamp(0, 1))
    assert torch.equal(model.decode(model.tokens(tokens.codes)), model.decode(tokens))


@torch.no_grad()
def test_a_patch_is_channel_by_channel_and_then_row_by_row():
    model, images = model_of(), pictures()
    values = model.encode(images).values
    assert values.shape == (2, 8, 48)
    assert torch.equal(values[:, 5].unflatten(1, (3, 4, 4)), images[:, :, 4:8, 4:8])  # second row, second column
    assert torch.equal(model.decode(model.encode(images)), images)


@torch.no_grad()
@pytest.mark.parametrize("masker", ["full", "uniform"])
def test_an_absent_cell_is_the_middle_of_the_range_or_nought(masker):
    images = pictures()
    model = model_of(masker=masker)
    decoded = model.decode(model.encode(images, lengths=4))
    assert torch.equal(decoded[:, :, :4], images[:, :, :4])
    assert bool((decoded[:, :, 4:] == 0.5).all())
    assert torch.equal(model.decode(model.encode(images, lengths=[4, 8]))[0], decoded[0])
    model = model_of(TAEF2, (16, 24), 6, 4, 1, masker=masker)
    tokens = model.encode(pictures(16, 24), lengths=3)
    whole = torch.cat([tokens.values, torch.zeros(2, 3, 4)], 1)
    assert torch.equal(model.decode(tokens), model.decode(model.tokens(whole)))


def test_nothing_has_parameters_but_the_codec():
    model = model_of(TAEF2, (16, 24), 6, 4, 1)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"codec"}
    model = model_of()
    assert not model.state_dict()
    assert (model.device, model.precision) == (torch.device("cpu"), "float32")


def test_it_is_the_ceiling_of_what_works_on_its_codec():
    alone = model_of(TAEF2, (16, 24), 6, 4, 1)
    part = {"type": "vqgan", "hidden": 32, "multipliers": (1,), "blocks": 1}
    above = model_of(TAEF2, (16, 24), 6, 4, 1, encoder=part, quantizer="vq", decoder=part)
    above.codec.load_state_dict(alone.codec.state_dict())
    assert is_codec(alone, above)
    assert not is_codec(above, alone)
    next(above.codec.parameters()).data += 1
    assert not is_codec(alone, above)


# --- what does not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"length": 9}, r"^encoder: latents of 8 x 16 in patches of 4 x 4 are 2 x 4 tokens: set length to 8, not 9$"),
        ({"channels": 16}, r"^encoder: the latents have 3 channels: set `channels` to that$"),
        ({"patch": 3}, r"^encoder: latents of 8 x 16 are not divided by patches of 3 x 3; change `patch` or the image"),
        (
            {"quantizer": {"type": "kl", "dim": 12}},
            r"^decoder: 3 channels in patches of 4 x 4 are 48 values a token, and tokens have 12; take quantizer none, "
            r"or set its dim to 48$",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(changed, told):
    with pytest.raises(ConfigError, match=told):
        model_of(**changed)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"reads latents of shape \(3, 8, 16\), not \(3, 16, 16\); resize them"):
        model_of().encode(pictures(16, 16))
    with pytest.raises(ValueError, match="its grid is fixed"):
        model_of().decode(model_of().encode(pictures()), size=(16, 16))


# --- use ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def card(tmp_path):
    """A card file of a tokenizer of 16-pixel images without any number of its own, and how to train it."""
    path = tmp_path / "pixels.yaml"
    run = {"data": {"type": "digits", "split": "train"}, "steps": 2, "batch_size": 4}
    whole = {"summary": "pixels", "kind": "tokenizer", "model": raw(size=16, length=16), "run": run}
    path.write_text(json.dumps(whole))
    return path


@pytest.mark.slow
def test_there_is_nothing_to_train_and_that_is_told(card, command, tmp_path):
    done = command("train", card, "-o", tmp_path / "run")
    assert done.code == 2
    told = "model: has nothing to train: no part has parameters but the codec, which is frozen; use it as it is, or ta"
    assert told in done.err
    assert not (tmp_path / "run").exists() or not [*(tmp_path / "run").iterdir()]
    shown = command("show", card)
    assert shown.code == 0, shown.err
    assert "train cannot be measured: there is nothing to train" in shown.out


@pytest.mark.slow
def test_with_a_quantizer_that_learns_it_is_trained(card, command, tmp_path):
    settings = ("quantizer={type: kl, dim: 48}", "run.objectives=[mse]")
    done = command("train", card, *settings, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    names = {name for name, _ in load(tmp_path / "run").named_parameters()}
    assert names == {"quantizer.project.weight", "quantizer.project.bias"}


@pytest.mark.slow
def test_a_model_without_parameters_goes_through_every_command(card, command, tmp_path):
    model, picture = tmp_path / "model", tmp_path / "in" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (16, 16), (255, 128, 0)).save(picture)
    for words in (
        ("init", card, "-o", model),
        ("show", model),
        ("encode", "-m", model, picture.parent, "-o", tmp_path / "tokens.safetensors"),
        ("decode", "-m", model, tmp_path / "tokens.safetensors", "-o", tmp_path / "decoded"),
        ("reconstruct", "-m", model, picture, "-o", tmp_path / "again.png"),
        ("bench", "digits-smoke", model, "count=4", "-o", tmp_path / "bench"),
    ):
        done = command(*words)
        assert done.code == 0, (words, done.err)
    assert Image.open(next((tmp_path / "decoded").rglob("*.png"))).getpixel((0, 0)) == (255, 128, 0)
    results = json.loads((tmp_path / "bench" / "results.json").read_text())
    found = results["models"]["model"]
    assert found["parameters"] == dict.fromkeys(("total", "encoder", "quantizer", "decoder", "codec"), 0)
    assert found["budgets"]["16"]["metrics"]["psnr"]["value"] == 100  # the cap of what is equal


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_card_is_the_codec_that_ships():
    model, codec = flexframe.load("grid/taef2-cells"), flexframe.load("grid/taef2", kind="codec")
    assert model.config.codec == codec.config.codec
    assert model.state_dict().keys() == codec.state_dict().keys()
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in model.state_dict().items())
    images = pictures(256, 256, 1)
    assert torch.equal(model.decode(model.encode(images)), codec.decode(codec.encode(images)))


@pytest.fixture
def vae(tmp_path):
    """A folder of diffusers with a random VAE of 4-fold downsampling to 3 channels."""
    import diffusers  # seconds to import

    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 4),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=2,
        scaling_factor=0.2325,
    ).eval()
    model.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.mark.slow
@torch.no_grad()
def test_a_codec_of_another_format_is_imported_as_a_tokenizer(vae, command, tmp_path):
    done = command("import", vae, "-o", tmp_path / "tokenizer", "--as", "cells", "--assume", "image_size=12x20")
    assert done.code == 0, done.err
    assert "its config does not say whether the posterior is sampled; here its mode is taken" in done.err
    model, codec = load(tmp_path / "tokenizer"), load(vae, kind="codec")
    assert (model.config.length, model.spec.tokens.dim) == (15, 3)
    images = pictures(12, 20)
    latents = codec.encode(images)
    assert torch.equal(model.encode(images).values, latents.flatten(2).mT)
    assert torch.equal(model.decode(model.encode(images)), codec.decode(latents.contiguous()))
    done = command("import", vae, "-o", tmp_path / "other", "--as", "cells", "--assume", "image_size=10")
    assert done.code == 2
    assert "image_size: images of 10 x 10 must divide by 4, the codec's downsampling; --assume image_size=SIDE" in (
        " ".join(done.err.split())
    )


@pytest.mark.slow
def test_a_card_describes_a_tokenizer_around_a_codecs_weights(vae, tmp_path):
    weights = vae / "diffusion_pytorch_model.safetensors"
    card = tmp_path / "card.yaml"

    def described(**changed):
        codec = {"type": "vae", "channels": 3, "widths": [4, 4, 4], "layers": 1, "groups": 2}
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        whole = {"summary": "its own", "kind": "tokenizer", "model": raw(codec, 12, 9, 3, 1, **changed)}
        card.write_text(json.dumps({**whole, "weights": {"path": f"vae/{weights.name}", "sha256": sha256}}))
        return card

    model = load(described())
    assert model.config.codec.scaling_factor == 0.2325  # the checkpoint's, and the card's is 1
    told = "its config is not the card's, and counts: codec.scaling_factor 0.2325 (card: 1.0)"
    assert told in model.about["import"]["notes"]
    part = {"type": "vqgan", "hidden": 32, "multipliers": [1], "blocks": 1}
    with pytest.raises(ConfigError, match="its tensors do not fit its config: missing encoder"):
        load(described(encoder=part, quantizer={"type": "kl", "dim": 3}))


def test_what_is_no_codec_is_not_made_one(command, tmp_path):
    save_file({"nobody.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    done = command("import", tmp_path, "-o", tmp_path / "out", "--as", "cells")
    assert done.code == 2
    assert "is of no format known here" in done.err
    done = command("import", "grid/taef2", "-o", tmp_path / "out", "--as", "cells")
    assert done.code == 2
    assert "is a model of our own format: it has nothing to assume" in " ".join(done.err.split())
