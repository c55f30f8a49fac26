"""GPT: digits, likelihoods, prefixes, sampling and its cache, against what they are said to be."""

import pytest
import torch
from torch.nn import functional as F

from flexframe.models.generator import Generator
from flexframe.models.modelfile import save
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.testing.tables import TableRng
from flexframe.tokens import Codes, Condition, prefix
from flexframe_priors import GPTSampling, compiled
from flexframe_priors.cache import Cache
from flexframe_priors.drawing import Chooser, Reader, fill, truncate
from flexframe_registry import ConfigError, GeneratorConfig

LENGTH, CODES, CLASSES = 5, 12, 3
ROWS = torch.arange(4)
LABELS = ROWS % CLASSES
FORMS = {
    "plain": {},
    "split": {"split": [3, 4]},
    "all": {"codebooks": 2, "split": [3, 4], "positions": "rope"},
}


def generator(codebooks=1, classes=CLASSES, **prior):
    torch.manual_seed(3)
    raw = {"length": LENGTH, "codebook_size": CODES, "codebooks": codebooks, "classes": classes}
    shape = {"type": "gpt", "width": 24, "depth": 2, "heads": 3, "dropout": 0.0}
    model = Generator(GeneratorConfig.read({**raw, "prior": {**shape, **prior}})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def model(request):
    return generator(**request.param)


def codes_of(model, lengths=(LENGTH,) * 4):
    ids = Rng(9, ROWS).integers("ids", CODES, (LENGTH, model.spec.codebooks))
    return Codes(ids, prefix(torch.tensor(lengths), LENGTH))


def condition(labels=LABELS):
    return Condition(torch.zeros(len(labels), dtype=torch.bool), labels=labels)


# --- likelihoods -------------------------------------------------------------------------------------------------


def test_digits_are_codes_again(model):
    codes = codes_of(model).codes
    digits = model.prior.digits(codes)
    radices = torch.tensor(model.prior.radices * LENGTH)
    assert digits.shape == (4, LENGTH * len(model.prior.radices))
    assert (digits < radices).all()
    assert torch.equal(model.prior.codes(digits), codes)


def test_the_least_significant_digit_is_first():
    prior = generator(split=[3, 4]).prior
    assert prior.digits(torch.tensor([[[7], [11], [2]]])).tolist() == [[1, 2, 2, 3, 2, 0]]


def test_the_loss_is_the_sum_of_likelihoods_a_token(model):
    codes = codes_of(model, (5, 4, 1, 5))
    with torch.no_grad():
        loss = model(codes, condition(), rng=Rng(0, ROWS))["codes"]
    found = model.prior.log_prob(codes, condition())
    assert (found[~codes.keep] == 0).all()
    torch.testing.assert_close(-found.sum(1) / codes.keep.sum(1), loss)


def test_likelihoods_are_those_of_the_logits(model):
    """Digit by digit, by the pass that sampling uses."""
    codes, period = codes_of(model), len(model.prior.radices)
    digits = model.prior.digits(codes.codes)
    with torch.no_grad():
        each = [
            -F.cross_entropy(model.prior.next_logits(digits[:, :m], LABELS), digits[:, m], reduction="none")
            for m in range(digits.shape[1])
        ]
    expected = torch.stack(each, 1).unflatten(1, (-1, period)).sum(-1)
    torch.testing.assert_close(model.prior.log_prob(codes, condition()), expected, atol=1e-5, rtol=1e-5)


def test_absent_tokens_do_not_matter(model):
    codes = codes_of(model, (5, 4, 1, 2))
    other = Codes(torch.where(codes.keep[..., None], codes.codes, CODES - 1 - codes.codes), codes.keep)
    torch.testing.assert_close(
        model.prior.log_prob(other, condition()), model.prior.log_prob(codes, condition()), rtol=0, atol=0
    )
    short = Codes(codes.codes[1:2, :4], codes.keep[1:2, :4])
    found = model.prior.log_prob(short, condition(LABELS[1:2]))
    torch.testing.assert_close(found, model.prior.log_prob(codes, condition())[1:2, :4], atol=1e-5, rtol=1e-5)


# --- training ----------------------------------------------------------------------------------------------------


def test_training_may_cut_rows_to_prefixes():
    model, rows = generator(prefixes=True, class_dropout=0.0).train(), torch.arange(700)
    ids = Rng(9, rows).integers("ids", CODES, (LENGTH, 1))
    codes = Codes(ids, torch.ones(700, LENGTH, dtype=torch.bool))
    with torch.no_grad():
        found = model(codes, None, rng=Rng(5, rows))["codes"]
        each = model.prior.log_prob(codes, None)
    means = -each.cumsum(1) / torch.arange(1, LENGTH + 1)
    nearest = (means - found[:, None]).abs().argmin(1)
    assert (means - found[:, None]).abs().amin(1).max() < 1e-4, "a loss is of no prefix"
    assert nearest.bincount(minlength=LENGTH).min() > 60, "lengths are not drawn evenly"
    torch.testing.assert_close(model.eval()(codes, None, rng=Rng(5, rows))["codes"], means[:, -1])


def test_training_hides_classes():
    model = generator(class_dropout=1.0)
    codes = codes_of(model)
    with torch.no_grad():
        hidden = model.train()(codes, condition(), rng=Rng(0, ROWS))["codes"]
        without = model(codes, None, rng=Rng(0, ROWS))["codes"]
    torch.testing.assert_close(hidden, without)


@pytest.mark.slow
def test_it_learns_which_class_has_which_codes():
    torch.manual_seed(0)
    raw = {"size": "tiny", "length": LENGTH, "codebook_size": CODES, "classes": CLASSES}
    model = Generator(GeneratorConfig.read({**raw, "prior": {"type": "gpt", "split": [4, 3]}})).train()
    wanted = Rng(1, torch.arange(CLASSES)).integers("wanted", CODES, (LENGTH,))
    rows = torch.arange(24)
    labels = rows % CLASSES
    codes = Codes(wanted[labels][..., None], torch.ones(24, LENGTH, dtype=torch.bool))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(50):
        loss = model(codes, condition(labels), rng=Rng(0, rows, step))["codes"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval().sample(torch.arange(CLASSES), sampling={"guidance": 2.0, "temperature": 0.5})
    assert (found.codes[..., 0] == wanted).float().mean() > 0.9


# --- sampling ----------------------------------------------------------------------------------------------------

SETTINGS = [{"guidance": 3.0}, {"guidance": 1.5, "temperature": 0.8, "top_k": 5, "top_p": 0.9}, {"temperature": 0}]


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_cache_moves_no_code(model, settings):
    model, lengths = model.double(), torch.tensor([5, 4, 1, 3])
    cached = model.sample(LABELS, lengths=lengths, sampling=settings)
    plain = model.sample(LABELS, lengths=lengths, sampling={**settings, "cache": False})
    assert torch.equal(cached.codes, plain.codes)
    assert torch.equal(cached.keep, plain.keep)
    assert cached.codes.unique().numel() > 1


def test_cached_logits_are_the_others(model):
    digits = model.prior.digits(codes_of(model).codes)
    caches = [Cache(digits.shape[1]) for _ in model.prior.blocks]
    with torch.no_grad():
        for m in range(digits.shape[1]):
            cached = model.prior.next_logits(digits[:, :m], LABELS, caches)
            torch.testing.assert_close(cached, model.prior.next_logits(digits[:, :m], LABELS), atol=1e-5, rtol=1e-5)
    assert caches[0].keys.shape == (4, 3, digits.shape[1], 8)


@pytest.mark.usefixtures("worth")
def test_sampling_leaves_the_weights_as_they_are(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.sample(LABELS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def drafting(model, tmp_path, noise=0.0, name="draft"):
    """A prior like the model, its weights moved a little, as a file."""
    state = {key: value + noise * torch.randn_like(value) for key, value in model.state_dict().items()}
    save(state, model.config, tmp_path / f"{name}.safetensors")
    return str(tmp_path / f"{name}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_draft_moves_no_code(model, tmp_path, settings):
    """A digit's noise is its own, so that a draft is exact to the code, not only in distribution."""
    model = model.double()
    expected = model.sample(LABELS, sampling=settings).codes
    for noise in (0.05, 1.0):
        draft = {"draft": drafting(model, tmp_path, noise, str(noise)), "draft_length": 3}
        assert torch.equal(model.sample(LABELS, sampling={**settings, **draft}).codes, expected)
        alone = model.sample(LABELS[2:3], sampling={**settings, **draft}, rng=Rng(0, ROWS[2:3])).codes
        assert torch.equal(alone, expected[2:3])


@pytest.mark.parametrize(("noise", "most"), [(0.0, 2), (3.0, LENGTH)])
def test_what_the_draft_draws_is_kept_where_it_is_right(noise, most, tmp_path):
    model = generator().double()
    draft = load(drafting(model, tmp_path, noise), kind="generator").double()
    sampling, digits, drawn = GPTSampling(guidance=2.0), torch.zeros(4, LENGTH, dtype=torch.long), []
    readers = [Reader(each.prior, condition(), sampling, digits) for each in (model, draft)]
    calls = []

    def read(given):
        calls.append(given.shape[1])
        return readers[0](given)

    read.back = readers[0].back
    choose = Chooser((CODES,), LENGTH, sampling, Rng(0, ROWS))
    fill(digits, read, choose, drawn.append, readers[1], 3)
    assert drawn == list(range(1, LENGTH + 1))
    assert torch.equal(digits, model.sample(LABELS, sampling=sampling).codes[..., 0])
    assert len(calls) <= most
    assert noise == 0 or len(calls) > 2


@pytest.fixture
def made(monkeypatch):
    """What the compiler is told, which then is not run."""
    made = []
    monkeypatch.setattr(torch, "compile", lambda step, **how: made.append(how) or step)
    monkeypatch.setattr(compiled, "need_compiler", lambda: None)
    return made


@pytest.mark.usefixtures("worth")
@pytest.mark.parametrize("settings", SETTINGS[1:], ids=str)
def test_what_is_compiled_moves_no_code(model, settings, made):
    """The step that is given to the compiler, by itself; the compiler is in plugins/tests/test_compile.py."""
    model = model.double()
    expected = model.sample(LABELS, sampling=settings).codes
    assert not made
    for length in (LENGTH, 2, LENGTH):
        found = model.sample(LABELS, lengths=length, sampling={**settings, "compile": True}).codes
        assert torch.equal(found, expected[:, :length])
    assert made == [{"fullgraph": True, "dynamic": False}]


def test_a_step_is_compiled_once_for_the_same_weights_and_rows(model, made):
    def draw(rows=4, **settings):
        model.sample(LABELS[:rows], rng=Rng(0, ROWS[:rows]), sampling={"compile": True, **settings})
        return len(made)

    assert [draw(), draw(), draw(guidance=2.0), draw(3), draw()] == [1, 1, 2, 3, 3]
    with torch.no_grad():
        model.prior.blocks[0].fc1.weight.mul_(0.5)
    assert [draw(), draw()] == [4, 4]
    changed = list(model.parameters())
    for parameter in changed:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(changed, lr=0.1, fused=True).step()  # leaves no trace but in the values
    assert [draw(), draw()] == [5, 5]
    model.prior.blocks[0].fc1.weight.data.mul_(0.5)
    assert [draw(), draw()] == [6, 6]
    assert [each["options"] for each in made] == [compiled.KERNELS] * 6


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    from torch._inductor import cpp_builder

    monkeypatch.setattr(cpp_builder.config.cpp, "cxx", (None, "/no/such/g++"))
    model = generator()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^sampling.compile: needs a C\+\+ compiler; install g\+\+"):
            model.sample(LABELS, sampling={"compile": True})


@pytest.mark.parametrize(
    ("prior", "told"),
    [
        ({"split": [3, 4]}, "is of other codes than this prior"),
        ({"classes": 2}, "knows 2 classes, this prior 3"),
        ({"type": "rar", "hidden": 24}, "is no prior 'gpt'"),
    ],
)
def test_drafts_that_do_not_fit_are_refused(prior, told, tmp_path):
    draft = drafting(generator(**prior), tmp_path)
    with pytest.raises(ConfigError, match=rf"^sampling.draft: .*{told}"):
        generator().sample(LABELS, sampling={"draft": draft})


def test_a_draft_without_a_cache_is_refused():
    with pytest.raises(ConfigError, match="ahead of a cache"):
        GPTSampling.read({"draft": "a", "cache": False}, "sampling")
    with pytest.raises(ConfigError, match="leave cache at true"):
        GPTSampling.read({"compile": True, "cache": False}, "sampling")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_below_single_precision_draw_as_well(model, dtype):
    found = model.to(dtype).sample(LABELS, sampling={"guidance": 2.0})
    assert ((found.codes >= 0) & (found.codes < CODES)).all()


def test_a_shorter_sample_is_the_beginning_of_a_longer_one(model):
    long = model.sample(LABELS, sampling={"guidance": 2.0})
    for length in (1, 3):
        short = model.sample(LABELS, lengths=length, sampling={"guidance": 2.0})
        assert torch.equal(short.codes, long.codes[:, :length])


def test_a_row_does_not_depend_on_its_batch(model):
    model = model.double()
    whole = model.sample(LABELS, sampling={"guidance": 2.0}, rng=Rng(4, ROWS)).codes
    for some in ([2], [3, 1]):
        rows = torch.tensor(some)
        alone = model.sample(LABELS[rows], sampling={"guidance": 2.0}, rng=Rng(4, rows)).codes
        assert torch.equal(alone, whole[rows])


def test_samples_have_the_models_frequencies():
    model, rows = generator(split=[3, 4]), torch.arange(20_000)
    found = model.sample(torch.zeros(len(rows), dtype=torch.long), lengths=1).codes
    every = Codes(torch.arange(CODES)[:, None, None], torch.ones(CODES, 1, dtype=torch.bool))
    chances = model.prior.log_prob(every, condition(torch.zeros(CODES, dtype=torch.long))).exp()[:, 0]
    assert 0.1 < chances.max() < 0.9
    assert (found.flatten().bincount(minlength=CODES) / len(rows) - chances).abs().max() < 0.02


def test_guidance_moves_logits_away_from_the_unconditional_ones():
    model = generator()
    found = model.sample(LABELS, sampling={"temperature": 0, "guidance": 4.0}).codes[..., 0]
    nulls = torch.full((4,), CLASSES)
    with torch.no_grad():
        for k in range(LENGTH):
            given = model.prior.next_logits(found[:, :k], LABELS)
            free = model.prior.next_logits(found[:, :k], nulls)
            assert torch.equal((free + 4 * (given - free)).argmax(-1), found[:, k])


def test_top_k_and_top_p():
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]]))

    def left(top_k=None, top_p=1.0):
        return [row.isfinite().nonzero().flatten().tolist() for row in truncate(logits, top_k, top_p)]

    assert left() == left(top_k=9) == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert left(top_k=2)[0] == [1, 3]
    assert left(top_p=0.6) == [[1, 3], [0]]
    assert left(top_p=0.8)[0] == [1, 2, 3]
    assert left(top_p=0.01) == [[1], [0]]
    assert left(top_k=2, top_p=0.5)[0] == [1]  # of the two that are left, 4 in 7


def test_draws_are_taken_from_the_rng_digit_by_digit():
    almost = torch.full((4, CODES), 0.5)
    almost[:, 11] = 1 - 2**-24  # a draw so near 1 wins everything
    tables = {f"gpt/digit.{i}": almost for i in range(LENGTH)}
    assert (generator().sample(LABELS, rng=TableRng(tables, 4)).codes == 11).all()


def test_without_classes_it_is_unconditional_and_guidance_has_nothing_to_do():
    model = generator(classes=None)
    found = model.sample(count=3, sampling={"guidance": 5.0}).codes
    assert torch.equal(found, model.sample(count=3).codes)
    with pytest.raises(ValueError, match="knows no classes"):
        model.sample(LABELS)


# --- configs, files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "told"),
    [
        ({"width": 25}, "width 25 is not divisible by its 3 heads"),
        ({"width": 9, "positions": "rope"}, "heads of width 3 have an odd one left"),
        ({"split": [3, 5]}, r"^prior: split is 3 x 5 = 15; its factors must be 2 or more and give .* 12 entries"),
        ({"split": [12, 1]}, "its factors must be 2 or more"),
    ],
)
def test_what_cannot_be_built_is_refused(prior, told):
    with pytest.raises(ConfigError, match=told):
        generator(**prior)


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}, {"temperature": -1}, {"steps": 4}])
def test_settings_that_are_refused(settings):
    with pytest.raises(ConfigError, match=f"^sampling.{next(iter(settings))}: "):
        GPTSampling.read(settings, "sampling")


def test_labels_without_a_class_are_refused():
    model = generator()
    with pytest.raises(ValueError, match="needs a label"):
        model(codes_of(model), Condition(torch.zeros(4, dtype=torch.bool)), rng=0)


def test_a_file_comes_back(model, tmp_path):
    save(model.state_dict(), model.config, tmp_path / "prior.safetensors", sampling={"guidance": 2.0})
    found = load(tmp_path / "prior.safetensors", kind="generator")
    assert (found.config, found.sampling.guidance) == (model.config, 2.0)
    assert torch.equal(found.sample(LABELS).codes, model.sample(LABELS, sampling={"guidance": 2.0}).codes)


def test_sizes_are_those_of_the_published_ones():
    """FlexTok's stage 2: 12 w^2 a layer, beside the tables; d10 49M, d12 85M, d20 393M."""
    for size, millions in (("small", 49), (None, 85), ("large", 393)):
        raw = {"size": size, "length": 256, "codebook_size": 64_000, "classes": 1000, "prior": {"type": "gpt"}}
        with torch.device("meta"):
            prior = Generator(GeneratorConfig.read(raw)).prior
        count = sum(p.numel() for p in prior.blocks.parameters())
        assert round(count / 1e6) == millions
