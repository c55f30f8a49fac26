"""MAR's importer, on checkpoints that this file makes itself, against a second form of the model written here."""

import json
import math
import re
from argparse import Namespace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.v2.functional import pil_to_tensor

from flexframe.models.generator import Generator
from flexframe.nn.init import redraw_zeros
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.testing.refusals import parametrize_refusals
from flexframe_priors.denoising_configs import MARSampling
from flexframe_registry import ConfigError, GeneratorConfig

LENGTH, DIM, CLASSES, BUFFER, HEADS = 9, 3, 4, 5, 4
BACK = (
    (r"^input\.", "z_proj."),
    (r"^input_norm\.", "z_proj_ln."),
    (r"^between\.", "decoder_embed."),
    (r"^places$", "diffusion_pos_embed_learned"),
    (r"^(encoder|decoder)_positions$", r"\1_pos_embed_learned"),
    (r"^(encoder|decoder)\.", r"\1_blocks."),
    (r"\.attn\.in_proj\.", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.(fc[12])\.", r".mlp.\1."),
    (r"^head\.layers\.(\d+)\.norm\.", r"diffloss.net.res_blocks.\1.in_ln."),
    (r"^head\.layers\.(\d+)\.modulation\.", r"diffloss.net.res_blocks.\1.adaLN_modulation.1."),
    (r"^head\.layers\.", "diffloss.net.res_blocks."),
    (r"^head\.time\.", "diffloss.net.time_embed."),
    (r"^head\.said\.", "diffloss.net.cond_embed."),
    (r"^head\.input\.", "diffloss.net.input_proj."),
    (r"^head\.output\.", "diffloss.net.final_layer.linear."),
    (r"^head\.modulation\.", "diffloss.net.final_layer.adaLN_modulation.1."),
)


def model_of(width=32, seed=5, **changed):
    torch.manual_seed(seed)
    prior = {"type": "mar", "width": width, "depth": 2, "heads": HEADS, "buffer": BUFFER, "head_width": 24}
    raw = {"length": LENGTH, "dim": DIM, "classes": CLASSES, "mean": [0.0], "deviation": [1.0], **changed}
    model = Generator(GeneratorConfig.read({**raw, "prior": {**prior, "head_depth": 2}}))
    redraw_zeros(model)
    for parameter in model.prior.parameters():  # norms and biases too
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def exported(model):
    state = {}
    for name, tensor in model.prior.state_dict().items():
        for pattern, replacement in BACK:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor[None].clone() if name.endswith("_embed_learned") else tensor.clone()
    table = state.pop("classes.weight")
    state |= {"class_emb.weight": table[:-1].clone(), "fake_latent": table[-1:].clone()}
    state["mask_token"] = state.pop("mask")[None, None]
    return state


def written(folder, state, config=None):
    """A folder with the state by itself, as it is published a second time; `config` says the heads where None is."""
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"encoder_num_heads": HEADS} if config is None else config))
    return folder


@pytest.fixture(scope="module")
def model():
    return model_of()


# --- a second form -----------------------------------------------------------------------------------------------


class Plain:
    """MAR by its tensors' published names, row by row, without the tokens that are masked."""

    def __init__(self, state):
        self.state = state

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x if name is None else x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def block(self, name, x):
        rows, width = x.shape
        parts = self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x)).view(rows, 3, HEADS, width // HEADS)
        mixed = torch.empty(rows, HEADS, width // HEADS)
        for h in range(HEADS):
            query, key, value = parts[:, :, h].unbind(1)
            mixed[:, h] = (query @ key.T / math.sqrt(width // HEADS)).softmax(-1) @ value
        x = x + self.linear(f"{name}.attn.proj", mixed.reshape(rows, width))
        h = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x))
        h = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))
        return x + self.linear(f"{name}.mlp.fc2", h)

    def z(self, tokens, masked, label):
        """Vectors of one row's tokens, of which those not `masked` are seen; `label` is None for no class."""
        state, count = self.state, len(tokens)
        said = state["fake_latent"][0] if label is None else state["class_emb.weight"][label]
        x = torch.cat([said.expand(BUFFER, -1), self.linear("z_proj", tokens)])
        x = self.norm("z_proj_ln", x + state["encoder_pos_embed_learned"][0])
        seen = torch.cat([torch.arange(BUFFER), BUFFER + torch.arange(count)[~masked]])
        x = x[seen]
        for i in range(2):
            x = self.block(f"encoder_blocks.{i}", x)
        x = self.linear("decoder_embed", self.norm("encoder_norm", x))
        whole = state["mask_token"][0].repeat(BUFFER + count, 1)
        whole[seen] = x
        whole = whole + state["decoder_pos_embed_learned"][0]
        for i in range(2):
            whole = self.block(f"decoder_blocks.{i}", whole)
        return self.norm("decoder_norm", whole)[BUFFER:] + state["diffusion_pos_embed_learned"][0]

    def head(self, x, time, z):
        """Noise and share of the variance of tokens at one of the 1000 steps."""
        angles = time * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        times = torch.cat([angles.cos(), angles.sin()])
        times = self.linear(f"{NET}.time_embed.mlp.2", F.silu(self.linear(f"{NET}.time_embed.mlp.0", times)))
        by = F.silu(times + self.linear(f"{NET}.cond_embed", z))
        x = self.linear(f"{NET}.input_proj", x)
        for i in range(2):
            name = f"{NET}.res_blocks.{i}"
            shift, scale, gate = self.linear(f"{name}.adaLN_modulation.1", by).chunk(3, -1)
            h = self.norm(f"{name}.in_ln", x) * (1 + scale) + shift
            x = x + gate * self.linear(f"{name}.mlp.2", F.silu(self.linear(f"{name}.mlp.0", h)))
        shift, scale = self.linear(f"{NET}.final_layer.adaLN_modulation.1", by).chunk(2, -1)
        return self.linear(f"{NET}.final_layer.linear", self.norm(None, x) * (1 + scale) + shift).chunk(2, -1)

    def chain(self, x, z, free, guidance, noise, times):
        """Tokens of a chain through these of the 1000 steps, the first last, by noise of each step."""
        kept = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
        bars = torch.tensor([1 - min(1 - b / a, 0.999) for a, b in pairwise(kept)]).double()
        bars = bars.cumprod(0)[times].tolist()
        for i in reversed(range(len(times))):
            before = bars[i - 1] if i else 1.0
            beta = 1 - bars[i] / before
            eps, share = self.head(x, times[i], z)
            if free is not None:
                other, _ = self.head(x, times[i], free)
                eps = other + guidance * (eps - other)
            data = (x - math.sqrt(1 - bars[i]) * eps) / math.sqrt(bars[i])
            x = (math.sqrt(before) * beta * data + math.sqrt(1 - beta) * (1 - before) * x) / (1 - bars[i])
            if i:
                least = math.log(beta * (1 - before) / (1 - bars[i]))
                share = (share + 1) / 2
                x = x + torch.exp((share * math.log(beta) + (1 - share) * least) / 2) * noise[i]
        return x


NET = "diffloss.net"


@torch.no_grad()
def test_an_imported_trunk_says_what_the_second_form_does(model, tmp_path):
    state = exported(model)
    prior = load(written(tmp_path / "it", state), kind="generator").prior
    tokens = Rng(1, torch.arange(4)).normal("tokens", (LENGTH, DIM))
    masked = torch.zeros(4, LENGTH, dtype=torch.bool)
    masked[0], masked[1, [0, 4, 5]], masked[2, 1:] = True, True, True
    labels = [2, None, 0, None]
    rows = torch.tensor([CLASSES if label is None else label for label in labels])
    ours = prior.said(tokens, masked, torch.ones_like(masked), rows)
    theirs = torch.stack([Plain(state).z(*each) for each in zip(tokens, masked, labels, strict=True)])
    assert float((ours - theirs).abs().max()) < 2e-5
    other = Plain(state).z(tokens[0], masked[0], None)
    assert float((ours[0] - other).abs().max()) > 0.1  # the class is heard


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_imported_head_draws_what_the_second_form_does(guidance, model, tmp_path):
    state = exported(model)
    head = load(written(tmp_path / "it", state), kind="generator").prior.head
    z, free = Rng(2, torch.arange(2)).normal("z", (6, 32))
    noise = Rng(3, torch.arange(6)).normal("noise", (5, DIM))
    eps, share = Plain(state).head(noise[:, 0], 333.0, z)
    ours = head(noise[:, 0], torch.full((6,), 333.0), z)
    assert float((ours - torch.cat([eps, share], -1)).abs().max()) < 2e-5
    free = None if guidance == 1 else free
    sampling = MARSampling(steps=4, guidance=guidance)
    drawn = head.sample(z, free, guidance, noise, sampling)
    by_step = {3 - i: noise[:, 1 + i] for i in range(4)}
    wanted = Plain(state).chain(noise[:, 0], z, free, guidance, by_step, [0, 333, 666, 999])
    torch.testing.assert_close(drawn, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


# --- files -------------------------------------------------------------------------------------------------------


def same(found, model):
    assert found.config.prior == model.config.prior
    assert (found.config.mean, found.config.deviation) == ((0.0,), (1.0,))
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def published(path, model, **others):
    held = {"model": exported(model_of(seed=6)), "model_ema": exported(model), "epoch": 399, **others}
    torch.save({**held, "args": Namespace(model="mar_base", lr=None, betas=(0.9, 0.95))}, path)
    return path


def test_of_a_published_file_the_average_is_taken(model, tmp_path):
    path = published(tmp_path / "checkpoint-last.pth", model, optimizer={"state": {0: {"step": torch.ones(1)}}})
    found = load(path, kind="generator", assume={"encoder_num_heads": HEADS})
    same(found, model)
    assert found.about["import"]["notes"] == [
        "of its weights the running average, 'model_ema', is taken; --entry model takes the others",
        "nothing names its tokenizer: its tokens are the cells of a VAE, row by row, times 0.2325, which is the "
        "scaling_factor of its codec; name one of 9 tokens of 3 values",
    ]
    found = load(path, kind="generator", assume={"encoder_num_heads": HEADS}, entry="model")
    same(found, model_of(seed=6))


def test_a_file_without_an_average_says_so(model, tmp_path):
    torch.save({"model": exported(model), "args": Namespace()}, tmp_path / "checkpoint-last.pth")
    found = load(tmp_path / "checkpoint-last.pth", kind="generator", assume={"encoder_num_heads": HEADS})
    same(found, model)
    told = "it holds no running average of its weights, model_ema: these are as training's last step left them"
    assert found.about["import"]["notes"][0] == told


def test_a_state_by_itself_is_the_model(model, tmp_path):
    config = {"encoder_num_heads": HEADS, "decoder_num_heads": HEADS, "img_size": 48, "num_sampling_steps": "20"}
    found = load(written(tmp_path / "it", exported(model), config), kind="generator")
    same(found, model)
    assert (found.sampling.steps, found.sampling.passes, found.sampling.guidance) == (20, 64, 1.0)


def test_a_published_size_needs_nothing_said(tmp_path):
    torch.manual_seed(0)
    prior = {"type": "mar", "width": 768, "depth": 1, "heads": 12, "head_width": 24, "head_depth": 1}
    raw = {"length": 256, "dim": 16, "classes": 1000, "deviation": [1.0], "mean": [0.0], "prior": prior}
    model = Generator(GeneratorConfig.read(raw))
    save_file(exported(model), tmp_path / "model.safetensors")
    found = load(tmp_path / "model.safetensors", kind="generator")
    same(found, model)
    assert (found.sampling.steps, found.sampling.passes, found.sampling.guidance) == (100, 256, 2.9)
    assert found.config.tokenizer == "grid/kl16"
    assert found.about["import"]["notes"] == [
        "its tokenizer is taken to be grid/kl16: its tokens are the cells of a VAE, row by row, times 0.2325, which is "
        "the scaling_factor of its codec"
    ]
    found = load(tmp_path / "model.safetensors", kind="generator", assume={"scale_factor": 0.5})
    assert found.config.tokenizer is None  # another VAE's


@pytest.mark.slow
def test_an_import_is_shown_and_draws_digits_by_a_tokenizer_that_fits(command, tmp_path):
    path = published(tmp_path / "checkpoint-last.pth", model_of(length=4, dim=8, classes=10))
    done = command("import", path, "-o", tmp_path / "mar", "--assume", f"encoder_num_heads={HEADS}")
    assert done.code == 0, done.err
    shown = command("show", tmp_path / "mar")
    assert "the running average, 'model_ema', is taken" in " ".join(shown.out.split())
    given = ("--prior", tmp_path / "mar", "--class", "3", "--count", "2", "--seed", "0", "-o", tmp_path / "drawn")
    drawn = command(
        "generate", "-m", "grid/digits-tiny-kl", *given, "--set", "sampling.passes=2", "--set", "sampling.steps=2"
    )
    assert drawn.code == 0, drawn.err
    assert sorted(path.name for path in (tmp_path / "drawn" / "4").glob("*.png")) == ["00000.png", "00001.png"]


@pytest.mark.slow
@torch.no_grad()
def test_an_import_and_its_vae_by_itself_draw_pictures(command, tmp_path):
    """From two foreign files to pictures, which are those of the VAE's own decoder by its own scale."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 4),
        layers_per_block=1,
        latent_channels=DIM,
        norm_num_groups=2,
        scaling_factor=0.2325,
    ).eval()
    vae.save_pretrained(tmp_path / "vae")
    path = published(tmp_path / "checkpoint-last.pth", model_of())
    for words in (
        (tmp_path / "vae", "-o", tmp_path / "kl", "--as", "cells", "--assume", "image_size=12"),
        (path, "-o", tmp_path / "mar", "--assume", f"encoder_num_heads={HEADS}"),
    ):
        done = command("import", *words)
        assert done.code == 0, done.err
    few = ("--set", "sampling.passes=2", "--set", "sampling.steps=2", "--seed", "0")
    given = ("--prior", tmp_path / "mar", "--class", "3", "--count", "2", *few, "-o", tmp_path / "drawn")
    drawn = command("generate", "-m", tmp_path / "kl", *given)
    assert drawn.code == 0, drawn.err
    pictures = [pil_to_tensor(Image.open(each)) for each in sorted((tmp_path / "drawn" / "9").glob("*.png"))]
    generator = load(tmp_path / "mar", kind="generator")
    sampling = {"passes": 2, "steps": 2}
    cells = generator.sample(torch.tensor([3, 3]), rng=Rng(0, torch.arange(2)), sampling=sampling).codes
    theirs = vae.decode(cells.mT.unflatten(-1, (3, 3)) / 0.2325).sample / 2 + 0.5
    difference = torch.stack(pictures).float() - 255 * theirs.clamp(0, 1)
    assert float(difference.abs().max()) < 0.51  # rounded
    assert float(theirs.clamp(0, 1).std()) > 0.01


# --- what does not fit -------------------------------------------------------------------------------------------


def spoilt(state, change):
    for name, tensor in change.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fake_latent": None}, r"has no tensor 'fake_latent', so it is not of the form it claims$"),
        ({"encoder_norm.bias": None}, r"its tensors do not fit its config: missing prior.encoder_norm.bias$"),
        ({"fake_latent": torch.zeros(1, 31)}, r"fake_latent: is of shape \(1, 31\); expected 1 x 32$"),
        ({"mask_token": torch.zeros(32)}, r"mask_token: is of shape \(32,\); expected 1 x 1 x 32$"),
        ({"z_proj.weight": torch.zeros(32, 4)}, r"\(there z_proj.weight\) is \(32, 4\), not \(32, 3\)$"),
        ({"encoder_pos_embed_learned": torch.zeros(1, 9, 32)}, r"has 9 rows for 9 tokens and the copies of a class"),
        ({"decoder_blocks.2.norm1.bias": torch.zeros(32)}, r"2 blocks of its encoder and 3 of its decoder; only as"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, told, model, tmp_path):
    folder = written(tmp_path / "it", spoilt(exported(model), change))
    with pytest.raises(ConfigError, match=told) as refused:
        load(folder, kind="generator")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, r"encoder_num_heads: is not given, and no published one is 32 wide; --assume encoder_num_heads=N$"),
        ({"encoder_num_heads": 5}, r"width 32 is not divisible by its 5 heads$"),
        ({"encoder_num_heads": 4, "decoder_num_heads": 2}, r"decoder_num_heads: is not encoder_num_heads, 4; one is"),
        ({"encoder_num_heads": 4, "buffer_size": 64}, r"buffer_size: is 64, but the tensors have 5; one of the two is"),
        ({"encoder_num_heads": 4, "class_num": 10}, r"class_num: is 10, but the tensors have 4; one of the two is wr"),
        ({"encoder_num_heads": 4, "mlp_ratio": 3.0}, r"mlp_ratio: is 3.0, which is not supported"),
        ({"encoder_num_heads": 4, "scale_factor": 0.0}, r"scale_factor: is 0; expected the number above 0 that laten"),
        ({"encoder_num_heads": 4, "num_sampling_steps": "ddim50"}, r"num_sampling_steps: is 'ddim50'; expected a wh"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, told, model, tmp_path):
    folder = written(tmp_path / "it", exported(model), config)
    with pytest.raises(ConfigError, match=told) as refused:
        load(folder, kind="generator")
    assert len(str(refused.value).splitlines()) == 1


@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, model, tmp_path):
    refusal(written(tmp_path / "it", exported(model)))
