"""A suite over what priors draw: known answers, what moves no number, what is named and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from flexframe.bench import protocol, runner, samples
from flexframe.bench.explain import explain
from flexframe.bench.table import columns, print_table
from flexframe.commands.bench_samples import _as_they_are
from flexframe.data.source import AttributeClassifier, CaptionReader, Sample, Source
from flexframe.data.tokenfile import TokenFile
from flexframe.models import generator as generator_module
from flexframe.models import modelfile
from flexframe.models import tokenizer as tokenizer_module
from flexframe.models.fingerprint import fingerprint
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Decoder, Prior
from flexframe.tokens import Codes, Outputs, prefix
from flexframe.use.generate import generate
from flexframe_registry import (
    Component,
    ConfigError,
    DecoderConfig,
    GeneratorConfig,
    PriorConfig,
    SamplingConfig,
    SourceConfig,
    SuiteConfig,
    TokenizerConfig,
    catalogue,
)
from flexframe_registry import suite as shipped
from flexframe_registry.cards import with_codes
from flexframe_registry.catalogue import Catalogue
from flexframe_registry.files import read_json
from flexframe_standard.metrics import fid as metrics_frechet
from flexframe_standard.metrics.fid import frechet_distance
from flexframe_standard.metrics.inception import Moments

NAMES = ("ink", "slate", "ash", "chalk")
STEP = 60


class PaintConfig(DecoderConfig):
    type: Literal["paint"] = "paint"


class Paint(Decoder):
    """A picture of one grey: the first token's code, and a little noise of the sample's own."""

    def forward(self, tokens, batch, *, taps, rng):
        return Outputs({})

    def decode(self, tokens, *, condition, size, rng, sampling):
        grey = (tokens.codes[:, 0, 0].float() * STEP + 5 * rng.uniform("paint")) / 255
        return grey[:, None, None, None].expand(-1, 3, *size)


class FakeSampling(SamplingConfig):
    guidance: float = 1.0
    temperature: float = 1.0


class FakeConfig(PriorConfig):
    type: Literal["fake"] = "fake"
    sampling = FakeSampling
    texts = True


class Fake(Prior):
    """Its first code is the class asked for, and the next class in every fourth sample; the rest is drawn."""

    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, codes, condition, *, rng):
        return {}

    def sample(self, condition, lengths, *, rng, sampling, on_token=None):
        keep = prefix(lengths, int(lengths.max()))
        drawn = [rng.integers(f"fake/{k}", 4, (1,)) for k in range(keep.shape[1])]
        codes = torch.stack(drawn, 1)
        if condition is not None and condition.texts is not None:
            codes[:, 0, 0] = torch.tensor([NAMES.index(text.split()[-1]) for text in condition.texts])
        elif condition is not None:
            codes[:, 0, 0] = (condition.labels + (rng.index % 4 == 3)) % 4
        return Codes(codes, keep)


class GreysConfig(SourceConfig):
    type: Literal["greys"] = "greys"
    count: int = 40


class Reader(AttributeClassifier):
    label = "grey"
    values = {"grey": 4}

    def __call__(self, images):
        return {"grey": images[:, 0].float().mean((1, 2)).div(STEP).long().clamp(max=3)}

    def protocol(self):
        return {"classifier": "by the mean"}


class GreyReader(CaptionReader):
    """Pictures show their grey; and never a number, of which every third image has none."""

    forms = {"short": ("grey",), "long": ("grey", "number")}

    def __init__(self, source):
        self.source = source

    def truth(self, indices):
        return [{"grey": self.source[i].label, **({"number": i} if i % 3 else {})} for i in indices]

    def shown(self, images, asked):
        read = Reader()(images)["grey"].tolist()
        return [{"grey": grey == facts["grey"], "number": False} for grey, facts in zip(read, asked, strict=True)]

    def protocol(self):
        return {"reader": "by the mean"}


class Greys(Source):
    """Pictures of one grey, in an order of their own."""

    def __len__(self):
        return self.config.count

    def __getitem__(self, index):
        label = index * 7 // 5 % 4
        return Sample(torch.full((3, *self.size), label * STEP + index % 5, dtype=torch.uint8), label, str(index))

    def class_names(self):
        return NAMES

    def classifier(self):
        return Reader()

    def read_captions(self, indices):
        greys = [NAMES[self[i].label] for i in indices]
        return [{"short": grey, "long": f"number {i % 2} {grey}"} for i, grey in zip(indices, greys, strict=True)]

    def caption_reader(self):
        return GreyReader(self)

    def protocol(self) -> Mapping[str, Any]:
        return {"resize": "none"}


@pytest.fixture(autouse=True)
def fakes(toys: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {PaintConfig: "Paint", FakeConfig: "Fake", GreysConfig: "Greys"}
    found = Catalogue([*toys, *(Component(config, f"{__name__}:{name}") for config, name in mine.items())])
    registry = [sys.modules[f"flexframe_registry.{name}"] for name in ("manager", "slots")]
    for module in (*registry, tokenizer_module, generator_module, runner, protocol, samples, metrics_frechet):
        monkeypatch.setattr(module, "catalogue", lambda: found)


def tokenizer(masker: str = "toy") -> Tokenizer:
    torch.manual_seed(0)
    quantizer = {"type": "toy-round", "levels": 4}
    raw = {"image_size": 16, "length": 8, "encoder": {"type": "toy-pca", "parts": 1}, "quantizer": quantizer}
    found = Tokenizer(TokenizerConfig.read({**raw, "decoder": "paint", "masker": masker}))
    found.id = f"toy/{masker}"
    return found


def prior(**fields: Any) -> Generator:
    raw = {"length": 8, "codebook_size": 4, "classes": 4, "class_names": NAMES, "prior": "fake"}
    return Generator(GeneratorConfig.read({**raw, **fields}))


def greys(*metrics: Any, **fields: Any) -> SuiteConfig:
    wanted = metrics or ("classifier", "codebook", "bits")
    return SuiteConfig.read({"data": "greys", "metrics": wanted, "show": 5, **fields})


def settled(found: Any) -> Any:
    """Results without what no two runs have in common."""
    if isinstance(found, Mapping):
        return {key: settled(each) for key, each in found.items() if key not in ("speed", "manifest")}
    return [settled(each) for each in found] if isinstance(found, list) else found


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


def values(found: Any, name: str, measure: str) -> dict[str, float | None]:
    return {k: entry["metrics"][measure]["value"] for k, entry in found["models"][name]["budgets"].items()}


# --- known answers -----------------------------------------------------------------------------------------------


def test_the_share_of_samples_that_show_the_class_asked_for(tmp_path: Path) -> None:
    found = samples.run(greys(count=39), [("a", prior(), tokenizer())], tmp_path).results
    right = [float(i % 4 != 3) * 100 for i in range(39)]  # of 39, nine are of the next class
    assert values(found, "a", "accuracy") == dict.fromkeys(["1", "2", "4", "8"], pytest.approx(100 * 30 / 39))
    assert found["per_image"]["a"]["8"]["accuracy"] == right
    assert values(found, "a", "length") == {"1": 1, "2": 2, "4": 4, "8": 8}
    assert found["models"]["a"]["budgets"]["4"]["bits"] == 8
    assert read_json(tmp_path / "results.json") == json.loads(json.dumps(found))
    number = found["models"]["a"]["budgets"]["8"]["metrics"]["accuracy"]
    record = found["protocols"][number["protocol"]]
    assert record["measure"]["task"] == "samples of a prior"
    assert record["measure"]["count"] == 39
    assert "i mod the number of classes" in record["measure"]["labels"]
    assert record["use"]["sampling"] == {"prior": {"guidance": 1.0, "temperature": 1.0}, "decoder": {}}
    assert record["use"]["prior"]["classes"] == 4
    assert record["use"]["seed"] == 0
    height, width, _ = pixels(tmp_path / "samples" / "a-8.png").shape
    assert width > height  # five pictures: three, and two below


def test_the_frechet_distance_is_between_the_samples_and_the_suites_images(inception: Any, tmp_path: Path) -> None:
    frechet = {"type": "frechet", "layer": "64", "weights": inception(), "few": True}
    found = samples.run(greys(frechet), [("a", prior(), tokenizer())], tmp_path / "a", batch_size=7).results
    generate(prior(), tokenizer(), tmp_path / "g", classes=[0, 1, 2, 3], count=40, lengths=[8])
    read = [torch.from_numpy(pixels(tmp_path / "g" / f"8/{i:05d}.png").copy()) for i in range(40)]
    drawn = torch.stack(read).permute(0, 3, 1, 2)
    images = torch.stack([Greys(GreysConfig(), (16, 16))[i].image for i in range(40)])
    net = inception.net(Path(inception()).read_bytes(), ["64"])
    moments = []
    for each in (images, drawn):
        moments.append(Moments(64))
        moments[-1].add(net(each)[0])
    assert values(found, "a", "fid@64")["8"] == pytest.approx(frechet_distance(*moments), rel=1e-6)
    assert found["measures"]["fid@64"]["label"] == "gFID@64"


def test_a_reference_of_another_size_is_named(inception: Any, tmp_path: Path) -> None:
    reference = {"type": "greys", "count": 60}
    frechet = {"type": "frechet", "layer": "64", "weights": inception(), "few": True, "reference": reference}
    found = samples.run(greys(frechet, budgets=[8]), [("a", prior(), tokenizer())], tmp_path).results
    number = found["models"]["a"]["budgets"]["8"]["metrics"]["fid@64"]
    assert number["value"] > 0
    assert found["protocols"][number["protocol"]]["measure"]["measured"]["reference"]["count"] == 60


def test_samples_are_those_that_generate_draws(tmp_path: Path) -> None:
    found = samples.run(greys(seed=3, count=11), [("a", prior(), tokenizer())], tmp_path / "a").results
    generate(prior(), tokenizer(), tmp_path / "g", classes=[0, 1, 2, 3], count=11, lengths=[2, 8], seed=3)
    codes = TokenFile(tmp_path / "g" / "tokens.safetensors").rows(0, 22).codes
    for k, some in (("2", codes[:11, :2]), ("8", codes[11:])):
        chain = protocol.Chain()
        chain.add(some.long())
        assert found["codes_sha256"]["a"][k] == chain.link
    assert torch.equal(codes[:11, :2], codes[11:, :2])  # a shorter sample is the beginning of a longer one


def test_kid_precision_recall_and_inception_score_have_numbers(inception: Any, tmp_path: Path) -> None:
    few = {"weights": inception(), "few": True}
    metrics = [
        {"type": "kid", "layer": "64", "weights": inception(), "subsets": 3, "subset_size": 12},
        {"type": "precision-recall", "layer": "64", **few},
        {"type": "inception-score", "splits": 2, **few},
    ]
    found = samples.run(greys(*metrics, budgets=[8]), [("a", prior(), tokenizer())], tmp_path).results
    for name in ("kid@64", "precision@64", "recall@64", "is"):
        assert values(found, "a", name)["8"] is not None
    assert "samples" in found["measures"]["is"]["note"]


def worded(**fields: Any) -> Generator:
    return prior(classes=None, class_names=(), conditioner="toy", **fields)


def test_a_prior_of_texts_draws_from_the_captions_of_the_images(tmp_path: Path) -> None:
    suite = greys("asked", "classifier", budgets=[8], count=39)
    found = samples.run(suite, [("a", worded(), tokenizer())], tmp_path).results
    assert list(found["models"]) == ["a, short", "a, long", "toy/toy, real tokens"]
    shown = {name: [values(found, name, m)["8"] for m in ("asked_short", "asked_long", "asked_grey", "asked_number")]
             for name in found["models"]}  # fmt: skip
    assert shown["a, short"] == [100, None, 100, None]
    assert shown["a, long"] == [None, pytest.approx(100 / 3), 100, 0]
    assert shown["toy/toy, real tokens"][3] == 0  # all forms are asked of the images' own tokens
    assert None not in shown["toy/toy, real tokens"]
    long = found["models"]["a, long"]["budgets"]["8"]["metrics"]
    assert long["asked_grey"]["original"] == 100
    assert "do not ask it" in long["asked_short"]["why"]
    assert "reads texts" in long["accuracy"]["why"]
    record = found["protocols"][long["asked_long"]["protocol"]]
    assert record["use"]["texts"] == "long captions of the suite's images"
    labels = [i * 7 // 5 % 4 for i in range(39)]
    alike = sum(labels.count(label) - 1 for label in labels) / (39 * 38)
    assert found["measures"]["asked_grey"]["chance"] == pytest.approx(100 * alike)
    assert (tmp_path / "samples" / "a-long-8.png").is_file()


def test_a_caption_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = Greys.read_captions
    monkeypatch.setattr(Greys, "read_captions", lambda self, i: [{} if 3 in i else each for each in captions(self, i)])
    with pytest.raises(ConfigError, match=r"^data: image 0 has no caption of form 'short'"):
        samples.run(greys("asked", budgets=[8]), [("a", worded(), tokenizer())], tmp_path)


def test_captions_of_files_are_what_is_drawn_by(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"a {NAMES[number]}")
    given = {"data": {"type": "folder", "path": str(tmp_path)}, "metrics": ["codebook"], "budgets": [8]}
    suite, models = SuiteConfig.read(given), [("a", worded(), tokenizer())]
    found = samples.run(suite, models, tmp_path / "out").results
    assert list(found["models"]) == ["a", "toy/toy, real tokens"]
    assert caplog.messages == []
    (tmp_path / "0.txt").unlink()
    assert samples.forms_of(suite, models) == ()
    assert caplog.messages == ["data: the first image has no caption, so that priors that read texts draw without one"]


# --- what moves no number ----------------------------------------------------------------------------------------


def test_the_batch_moves_nothing(tmp_path: Path) -> None:
    found = {}
    for size in (3, 64):
        models = [("a", prior(), tokenizer()), ("b", prior(), tokenizer("full"))]
        report = samples.run(greys(), models, tmp_path / str(size), batch_size=size)
        found[size] = json.loads(json.dumps(settled(report.results)))
    assert found[3] == found[64]
    for name in ("a-1.png", "a-8.png", "b-8.png"):
        one, other = (tmp_path / str(size) / "samples" / name for size in (3, 64))
        assert one.read_bytes() == other.read_bytes()


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = samples.run(greys(), [("a", prior(), tokenizer())], tmp_path / "whole", batch_size=7)

    class Break(Exception):
        pass

    read = runner.Head.samples

    def stop(self: Any, indices: Any) -> Any:
        if 21 in indices:
            raise Break
        return read(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(runner.Head, "samples", stop)
        with pytest.raises(Break):
            samples.run(greys(), [("a", prior(), tokenizer())], tmp_path / "x", batch_size=7, save_seconds=0.0)
    with pytest.raises(
        ValueError, match=r"of another protocol: models\.a\.sampling\.prior\.guidance was 1\.0 and is 2"
    ):
        samples.run(greys(), [("a", prior(), tokenizer())], tmp_path / "x", sampling={"guidance": 2.0})
    again = samples.run(greys(), [("a", prior(), tokenizer())], tmp_path / "x", batch_size=5)
    assert settled(json.loads(json.dumps(again.results))) == settled(json.loads(json.dumps(whole.results)))
    assert torch.equal(again.images.fake["a"][8], whole.images.fake["a"][8])
    assert not (tmp_path / "x" / "partial").exists()


# --- what is between two results ---------------------------------------------------------------------------------


def test_explain_names_the_guidance(tmp_path: Path) -> None:
    one, two = (
        samples.run(greys(), [("a", prior(), tokenizer())], tmp_path / str(g), sampling={"guidance": g}).results
        for g in (1.0, 2.0)
    )
    found = explain(one, two)
    assert all(pair.comparable for pair in found.pairs)
    ((difference, _),) = found.differences
    assert difference.cause.name == "sampling settings"
    assert difference.details == [("sampling.prior.guidance", "1.0", "2.0")]


def test_reconstructions_and_samples_never_compare(tmp_path: Path) -> None:
    drawn = samples.run(greys(), [("a", prior(), tokenizer())], tmp_path / "s").results
    rebuilt = runner.run(greys("codebook", "bits"), [("a", tokenizer())], tmp_path / "r").results
    found = explain(rebuilt, drawn)
    assert {pair.measure for pair in found.pairs} == {"usage", "perplexity", "bits", "length"}
    assert not any(pair.comparable for pair in found.pairs)
    names = [difference.cause.name for difference, _ in found.differences]
    assert names == ["reconstructions or samples"]
    both = json.loads(json.dumps(drawn))
    both["models"]["rebuilt"] = rebuilt["models"]["a"]
    both["protocols"] |= rebuilt["protocols"]
    assert [name for name, _ in columns(both)].count("usage") == 2  # a column each


def test_another_decoder_is_named(tmp_path: Path) -> None:
    other = tokenizer()
    torch.nn.init.normal_(other.encoder.basis)
    results = [
        samples.run(greys(), [("a", prior(), each)], tmp_path / str(i)).results
        for i, each in enumerate((tokenizer(), other))
    ]
    names = [difference.cause.name for difference, _ in explain(*results).differences]
    assert names == ["tokenizer under the prior"]


# --- what is refused ---------------------------------------------------------------------------------------------


def test_metrics_that_compare_an_image_with_its_reconstruction_are_refused(tmp_path: Path) -> None:
    told = r"metrics: psnr, ssim, lpips: compares an image with its own reconstruction.* metrics='\[codebook\]'"
    with pytest.raises(ConfigError, match=told):
        samples.run(greys("psnr", "ssim", "lpips", "codebook"), [("a", prior(), tokenizer())], tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_few_samples_say_so(inception: Any, tmp_path: Path) -> None:
    frechet = {"type": "frechet", "weights": inception()}
    found = samples.run(greys(frechet), [("a", prior(), tokenizer())], tmp_path).results
    why = found["models"]["a"]["budgets"]["8"]["metrics"]["fid"]["why"]
    assert why.startswith("layer 2048 needs more than 2,048 images, and there are 40")


def test_token_counts_that_nobody_offers_are_refused(tmp_path: Path) -> None:
    models = [("a", prior(), tokenizer()), ("b", prior(), tokenizer("full"))]
    with pytest.raises(ConfigError, match=r"no prior offers 3, 16 tokens; offered: a 1, 2, 4, 8, b 8"):
        samples.run(greys(budgets=[3, 8, 16]), models, tmp_path)
    with pytest.raises(ConfigError, match=r"budgets: b offers 8, so that nothing is left to draw"):
        samples.run(greys(budgets=[4]), models, tmp_path)
    found = samples.run(greys(budgets=[4, 8]), models, tmp_path / "some").results
    assert {name: list(model["budgets"]) for name, model in found["models"].items()} == {"a": ["4", "8"], "b": ["8"]}
    short = [("a", prior(length=4), tokenizer())]
    found = samples.run(greys(), short, tmp_path / "short").results
    assert found["budgets"] == [1, 2, 4]
    with pytest.raises(ConfigError, match="b offers none of its tokenizer's"):
        samples.run(greys(), [*short, ("b", prior(length=4), tokenizer("full"))], tmp_path)


def test_a_prior_that_is_not_asked_for_the_suites_classes_has_no_share_of_them(tmp_path: Path) -> None:
    free = prior(classes=None, class_names=())
    other = prior(class_names=("a", "b", "c", "d"))
    few = prior(classes=3, class_names=())
    models = [("free", free, tokenizer()), ("other", other, tokenizer()), ("few", few, tokenizer())]
    found = samples.run(greys(budgets=[8]), models, tmp_path).results
    whys = {name: model["budgets"]["8"]["metrics"]["accuracy"].get("why") for name, model in found["models"].items()}
    assert whys["free"] == "the prior knows no classes, so that none was asked for"
    assert whys["other"] == (
        "the prior's classes (a, b, c, d) are not those of the suite's images (ink, slate, ash, chalk)"
    )
    assert whys["few"].startswith("the prior's classes (3) are not those")
    assert values(found, "free", "usage")["8"] == 100


def test_a_prior_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    other = prior(fingerprint="0" * 64)
    with pytest.raises(ConfigError, match="was trained on codes of another tokenizer than toy/toy"):
        samples.run(greys(), [("a", other, tokenizer())], tmp_path)
    with pytest.raises(ConfigError, match=r"sampling\.top_k: there is no such setting"):
        samples.run(greys(), [("a", prior(), tokenizer())], tmp_path, sampling={"top_k": 3})


# --- the command -------------------------------------------------------------------------------------------------


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    found = samples.run(greys(), [("a", prior(), tokenizer())], tmp_path).results
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(found, console)
    console.file.close()
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "asked for" in text
    assert "by chance 25.0" in text


def test_the_command(command: Any, tmp_path: Path) -> None:
    parts = {"encoder": "toy", "quantizer": {"type": "toy", "levels": [4, 4]}, "decoder": "toy-plain"}
    torch.manual_seed(0)
    tok = Tokenizer(TokenizerConfig.read({"size": "tiny", "image_size": 16, "length": 4, "masker": "toy", **parts}))
    modelfile.save(tok.state_dict(), tok.config, tmp_path / "tok.safetensors")
    raw = {"tokenizer": str(tmp_path / "tok.safetensors"), "classes": 10, "fingerprint": fingerprint(tok)}
    drawn = Generator(GeneratorConfig.read(with_codes("generator", {**raw, "prior": "toy"})))
    modelfile.save(drawn.state_dict(), drawn.config, tmp_path / "prior.safetensors")
    data = "{type: scenes, complexity: 0, count: 20}"
    (tmp_path / "suite.yaml").write_text(f"data: {data}\nmetrics: [classifier, codebook, psnr]\nshow: 4\n")
    args = ["bench-samples", tmp_path / "suite.yaml", tmp_path / "prior.safetensors", "count=12", "-o", tmp_path / "o"]
    answer = command(*args)
    assert answer.code == 2
    assert "metrics: psnr: compares an image with its own reconstruction" in answer.err
    more = ["metrics=[classifier, codebook]", "budgets=[2, 4]", "--guidance", 3, "--temperature", 0.9]
    answer = command(*args, *more, "--set", "sampling.steady=true")
    assert answer.code == 0, answer.err
    assert "prior.safetensors" in answer.out
    found = json.loads((tmp_path / "o" / "results.json").read_text())
    wanted = {"temperature": 0.9, "guidance": 3.0, "steady": True}
    assert found["models"]["prior.safetensors"]["sampling"]["prior"] == wanted
    assert found["budgets"] == [2, 4]
    assert found["protocol"]["count"] == 12
    pictures = sorted(path.name for path in (tmp_path / "o" / "samples").iterdir())
    assert pictures == ["prior.safetensors-2.png", "prior.safetensors-4.png"]
    answer = command("bench-samples", tmp_path / "suite.yaml", tmp_path / "tok.safetensors", "-o", tmp_path / "o")
    assert answer.code == 2
    assert "is no prior; `flexframe bench` measures tokenizers" in answer.err
    answer = command("bench-samples", tmp_path / "suite.yaml", "count=12", "-o", tmp_path / "o")
    assert answer.code == 2
    assert "name at least one model" in answer.err


def test_the_shipped_suite_is_of_metrics_that_samples_have() -> None:
    found = shipped("scenes-64-samples")
    assert found.count is None
    assert found.data.count == 1000
    assert {metric.type for metric in found.metrics} == {"classifier", "plausible", "codebook", "bits", "frechet"}


def test_results_of_other_samples_are_kept(tmp_path: Path) -> None:
    for _ in range(2):  # the same ones again may take the place of those before
        samples.run(greys(), [("a", prior(), tokenizer())], tmp_path)
    with pytest.raises(
        ConfigError, match=r"holds another benchmark.*: models\..*temperature was .* and is 0.5.*; choose another"
    ):
        samples.run(greys(), [("a", prior(), tokenizer())], tmp_path, sampling={"temperature": 0.5})


# --- samples that are there already ----------------------------------------------------------------------------------


def written(folder: Path, images: torch.Tensor, labels: Sequence[int] | None = None) -> dict[str, Path]:
    """Samples as other projects leave them: an array, a folder of files."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.savez(folder / "samples.npz", pixels, *([] if labels is None else [np.array(labels)]))
    (folder / "files").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "files" / f"{number:03d}.png")
    return {"array": folder / "samples.npz", "files": folder / "files"}


@pytest.mark.slow
def test_samples_of_files_are_measured_as_they_are(tmp_path: Path, inception: Any, photographs: Any) -> None:
    images = photographs(40, (24, 24), seed=3).images
    places = written(tmp_path, images)
    data = {"type": "folder", "path": str(places["files"]), "resize": "none"}
    distance = {"type": "frechet", "layer": "64", "weights": inception(), "few": True, "reference": "digits"}
    suite = SuiteConfig.read({"data": data, "metrics": [distance, "codebook", "bits"], "count": 30})
    given = [(name, _as_they_are(path)) for name, path in places.items()]
    results = samples.run(suite, [], tmp_path / "out", given=given).results
    (net,) = inception.net(Path(inception()).read_bytes(), ["64"])(images[:30])
    mine, theirs = Moments(64), Moments(64)
    mine.add(net)
    others = catalogue().build(SuiteConfig.read({"data": "digits", "metrics": []}).data, (24, 24))
    theirs.add(inception.net(Path(inception()).read_bytes(), ["64"])(all_images(others))[0])
    for name in places:
        numbers = results["models"][name]["budgets"]["0"]["metrics"]
        assert numbers["fid@64"]["value"] == pytest.approx(frechet_distance(theirs, mine), rel=1e-6)
        assert numbers["usage"]["why"] == numbers["bits"]["why"] == "these samples come without their tokens"
        assert results["models"][name]["budgets"]["0"]["bits"] is None
    assert len({model["fingerprint"] for model in results["models"].values()}) == 1
    printed = Console(record=True, width=100)
    print_table(results, printed)
    assert "not offered" not in printed.export_text()


def test_classes_of_an_array_are_those_asked_for(tmp_path: Path) -> None:
    labels = [i % 4 for i in range(12)]
    pictures = torch.stack([torch.full((3, 16, 16), (k if i < 9 else k + 1) % 4 * STEP) for i, k in enumerate(labels)])
    place = written(tmp_path, pictures.byte(), labels)["array"]
    with_classes = [("a", _as_they_are(place))]
    results = samples.run(greys(metrics=["classifier"], count=12), [], tmp_path / "out", given=with_classes).results
    assert results["models"]["a"]["budgets"]["0"]["metrics"]["accuracy"]["value"] == pytest.approx(75)


def test_too_few_samples_and_samples_of_another_size_are_refused(tmp_path: Path, photographs: Any) -> None:
    places = written(tmp_path, photographs(8).images)
    given = [("files", _as_they_are(places["files"]))]
    with pytest.raises(ConfigError, match=r"files: holds 8 samples, and the suite takes 40; say count=8 or fewer"):
        samples.run(greys(metrics=["plausible"]), [], tmp_path / "out", given=given)
    Image.new("RGB", (20, 16)).save(places["files"] / "005.png")
    with pytest.raises(ConfigError, match=r"resize: is none, and 005.png of .* is 16 x 20 pixels, not 16 x 16"):
        samples.run(greys(metrics=["plausible"], count=4), [], tmp_path / "out", given=given)


@pytest.mark.slow
def test_the_command_measures_an_array(command: Any, tmp_path: Path, photographs: Any) -> None:
    place = written(tmp_path, photographs(8).images)["array"]
    data = "{type: scenes, complexity: 0, count: 8}"
    (tmp_path / "suite.yaml").write_text(f"data: {data}\nmetrics: [plausible]\n")
    answer = command("bench-samples", tmp_path / "suite.yaml", f"path:{place}", "-o", tmp_path / "o")
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "o" / "results.json").read_text())
    assert list(found["models"]) == ["samples.npz"]
    assert found["protocol"]["image_size"] == [16, 16]
    answer = command("bench-samples", tmp_path / "suite.yaml", place, "-o", tmp_path / "o", "--guidance", 2)
    assert "settings of sampling are for priors" in answer.err


def all_images(source: Any) -> torch.Tensor:
    return torch.stack([source[i].image for i in range(len(source))])
