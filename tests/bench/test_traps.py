"""Ways to get another number for one model, all seen in public: each moves a number here, and is named by `explain`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from flexframe.bench import runner
from flexframe.bench.causes import CAUSES
from flexframe.bench.explain import Explanation, explain
from flexframe.bench.runner import run
from flexframe_registry import SuiteConfig, catalogue

pytestmark = pytest.mark.slow


def value(results: Mapping[str, Any], measure: str, budget: int = 8) -> float:
    (model,) = results["models"].values()
    return float(model["budgets"][str(budget)]["metrics"][measure]["value"])


def found(explanation: Explanation, measure: str) -> list[str]:
    return [difference.cause.name for difference, names in explanation.differences if measure in names]


@pytest.fixture
def trap(tmp_path: Path) -> Any:
    """Runs one suite twice, and checks that the number moves and which cause is named for it, and no other."""
    number = count()

    def trap(
        measure: str,
        first: tuple[SuiteConfig, Any],
        second: tuple[SuiteConfig, Any],
        *names: str,
        comparable: bool = False,
        least: float = 1e-3,
    ) -> Explanation:
        results = []
        for suite, model in (first, second):
            out = tmp_path / str(next(number))
            run(suite, [("model", model)], out, batch_size=20)
            results.append(json.loads((out / "results.json").read_text()))
        a, b = (value(each, measure) for each in results)
        assert abs(a - b) > least * max(abs(a), abs(b)), (a, b)
        explanation = explain(*results)
        assert found(explanation, measure) == list(names)
        pairs = [pair for pair in explanation.pairs if pair.measure == measure]
        assert pairs
        assert all(pair.comparable == comparable for pair in pairs)
        assert explain(results[0], results[0]).differences == []
        return explanation

    return trap


@pytest.fixture
def files(tmp_path: Path, photographs: Any) -> Any:
    """Writes photographs of 24 x 32 pixels into folders of classes, each darker than the one before it."""

    def write(suffix: str = ".png", classes: int = 1, size: tuple[int, int] = (24, 32), **options: Any) -> str:
        folder = tmp_path / f"files-{suffix}-{classes}"
        for i, image in enumerate(photographs(60, size).images):
            label = i * classes // 60
            path = folder / f"class-{label}" / f"{i:02d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image // (1 + label)).permute(1, 2, 0).numpy()).save(path, **options)
        return str(folder)

    return write


def over(data: Any, *metrics: Any, **fields: Any) -> SuiteConfig:
    return SuiteConfig.read({"data": data, "metrics": metrics or ("psnr",), "budgets": [8], **fields})


def distance(inception: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "frechet", "layer": "64", "weights": inception(), "few": True, **fields}


# --- the reference ---------------------------------------------------------------------------------------------------


def test_another_crop_of_the_reference(trap: Any, tokenizer: Any, files: Any, inception: Any) -> None:
    # D-AR #3, RAE #11, LlamaGen #34: the reference's resize is not the one that the model's images had
    data, other = (
        {"type": "folder", "path": files(), "resize": f"torchvision-{way}"} for way in ("bicubic", "bilinear")
    )
    trap(
        "fid@64", (over(data, distance(inception, reference=data)), tokenizer()),
        (over(data, distance(inception, reference=other)), tokenizer()), "resize and crop of the reference",
    )  # fmt: skip


def test_another_resize_of_all_images(trap: Any, tokenizer: Any, files: Any) -> None:
    ways = [{"type": "folder", "path": files(), "resize": f"torchvision-{way}"} for way in ("bicubic", "bilinear")]
    trap("psnr", (over(ways[0]), tokenizer()), (over(ways[1]), tokenizer()), "resize and crop")


def test_rfid_is_not_gfid(trap: Any, tokenizer: Any, inception: Any) -> None:
    # 1d-tokenizer #46: the same reconstructions, against the images themselves and against a training set
    data, train = {"type": "digits", "split": "val"}, {"type": "digits", "split": "train"}
    told = trap(
        "fid@64", (over(data, distance(inception), count=100), tokenizer()),
        (over(data, distance(inception, reference=train), count=100), tokenizer()), "reference images",
    )  # fmt: skip
    assert "rFID" in told.differences[0][0].cause.size


# --- how many, and which ---------------------------------------------------------------------------------------------


def test_fewer_images(trap: Any, tokenizer: Any, suite: Any, inception: Any) -> None:
    few = [suite(distance(inception), budgets=[8], count=count) for count in (300, 70)]
    trap("fid@64", (few[0], tokenizer()), (few[1], tokenizer()), "number of images", least=0.01)


def test_precision_and_recall_of_other_counts_and_neighbours(
    trap: Any, tokenizer: Any, suite: Any, inception: Any
) -> None:
    # ADM takes 10,000 and 50,000 images; torch-fidelity k = 3
    model = tokenizer(sampling={"noise": 0.1})
    metric = {"type": "precision-recall", "layer": "64", "weights": inception(), "few": True}
    base = suite(metric, budgets=[8], count=200)
    trap("recall@64", (base, model), (suite(metric, budgets=[8], count=60), model), "number of images")
    other = suite({**metric, "k": 5}, budgets=[8], count=200)
    trap("recall@64", (base, model), (other, model), "settings of precision and recall")


def test_codebook_use_of_other_counts(trap: Any, tokenizer: Any, suite: Any) -> None:
    counts = [suite("codebook", budgets=[8], count=count) for count in (300, 5)]
    trap("usage", (counts[0], tokenizer()), (counts[1], tokenizer()), "number of images")


def test_too_few_images_give_no_number_where_one_came_out_negative_or_nan(
    tokenizer: Any, suite: Any, inception: Any, tmp_path: Path
) -> None:
    # torch-fidelity #44, pytorch-fid #105, TTUR #43
    metric = {"type": "frechet", "layer": "64", "weights": inception()}
    results = [
        run(suite(metric, budgets=[8], count=count), [("a", tokenizer())], tmp_path / str(count)).results
        for count in (70, 64)
    ]
    explanation = explain(*results)
    (pair,) = explanation.pairs
    assert pair.first["value"] > 0
    assert "needs more than 64 images, and there are 64" in pair.second["why"]
    assert not pair.comparable
    assert "number of images" in found(explanation, "fid@64")


def test_classes_that_are_not_sampled_alike(
    trap: Any, tokenizer: Any, files: Any, photographs: Any, tmp_path: Path
) -> None:
    # latent-diffusion #262; here the first images of a folder in the order of its classes, or in a mixed order
    for number in range(60):
        index = number % 3 * 20 + number // 3
        image = (photographs(60, (24, 32)).images[index] // (1 + index // 20)).permute(1, 2, 0).numpy()
        (tmp_path / "mixed").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "mixed" / f"{number:02d}.png")
        (tmp_path / "mixed" / f"{number:02d}.json").write_text(json.dumps({"label": index // 20}))
    pair = [over({"type": "folder", "path": path}, count=30) for path in (files(classes=3), str(tmp_path / "mixed"))]
    told = trap("psnr", (pair[0], tokenizer()), (pair[1], tokenizer()), "balance of classes")
    assert ("classes.least", "10", "10") not in told.differences[0][0].details
    assert ("classes.classes", "2", "3") in told.differences[0][0].details


def test_jpeg_for_png(trap: Any, tokenizer: Any, files: Any) -> None:
    png, jpeg = files(".png"), files(".jpg", quality=60)
    pair = [{"type": "folder", "path": path} for path in (png, jpeg)]
    trap("psnr", (over(pair[0]), tokenizer()), (over(pair[1]), tokenizer()), "file format")


def test_the_same_names_and_other_pixels(
    trap: Any, tokenizer: Any, files: Any, photographs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, calls, check = over({"type": "folder", "path": files()}), [], runner.common_size

    def darken_before_the_second(models: Any) -> Any:
        calls.append(models)
        if len(calls) == 2:
            for path in Path(data.data.path).rglob("*.png"):
                Image.open(path).point(lambda v: v // 2).save(path)
        return check(models)

    monkeypatch.setattr(runner, "common_size", darken_before_the_second)
    trap("psnr", (data, tokenizer()), (data, tokenizer()), "content of the images")


# --- how it is measured ----------------------------------------------------------------------------------------------


def test_other_weights_of_the_extractor(trap: Any, tokenizer: Any, suite: Any, inception: Any) -> None:
    # pytorch-fid #14: TensorFlow's Inception is not torchvision's
    metrics = [distance(inception, weights=inception(seed)) for seed in (0, 1)]
    pair = [suite(metric, budgets=[8], count=100) for metric in metrics]
    told = trap("fid@64", (pair[0], tokenizer()), (pair[1], tokenizer()), "weights of the extractor")
    assert [name for name, _, _ in told.differences[0][0].details] == ["measured.weights_sha256"]


@pytest.mark.parametrize("field", ["rounded", "rounding"])
def test_rounding_to_8_bits(trap: Any, tokenizer: Any, suite: Any, field: str) -> None:
    # imeanflow #5: 127.5 x + 128 and (x + 1) / 2 * 255
    rounded = suite({"type": "psnr", "rounded": True}, budgets=[8])
    other = suite("psnr", budgets=[8]) if field == "rounded" else suite(*rounded.metrics, budgets=[8], rounding="down")
    trap("psnr", (rounded, tokenizer()), (other, tokenizer()), "rule for 8 bits", least=1e-6)


def test_another_subset_size_of_the_kernel_distance(trap: Any, tokenizer: Any, suite: Any, inception: Any) -> None:
    metric = {"type": "kid", "layer": "64", "weights": inception(), "subsets": 3}
    pair = [suite({**metric, "subset_size": size}, budgets=[8], count=60) for size in (50, 20)]
    trap("kid@64", (pair[0], tokenizer()), (pair[1], tokenizer()), "settings of the metric")


# --- how the model is used, and which it is --------------------------------------------------------------------------


def test_the_decoders_seed(trap: Any, tokenizer: Any, suite: Any) -> None:
    noisy = {"noise": 0.3}
    pair = [(suite("psnr", budgets=[8], seed=seed), tokenizer(sampling=noisy)) for seed in (0, 1)]
    trap("psnr", *pair, "seed of the decoder", comparable=True, least=1e-5)


def test_sampling_settings(trap: Any, tokenizer: Any, suite: Any) -> None:
    # 1d-tokenizer #11, #65
    pair = [(suite("psnr", budgets=[8]), tokenizer(sampling={"noise": noise})) for noise in (0.0, 0.2)]
    trap("psnr", *pair, "sampling settings", comparable=True)


def test_averaged_weights_or_the_last_ones(trap: Any, tokenizer: Any, suite: Any) -> None:
    models = [tokenizer(), tokenizer()]
    with torch.no_grad():
        models[1].encoder.basis.mul_(1.05)
    for model, ema in zip(models, (0.999, 0.0), strict=True):
        model.about = {"step": 100, "run": {"ema": ema}}
    pair = [(suite("psnr", budgets=[8]), model) for model in models]
    trap("psnr", *pair, "averaging of weights (EMA)", comparable=True)


def test_another_checkpoint_of_the_name(trap: Any, tokenizer: Any, suite: Any) -> None:
    # flex_gen #2
    models = [tokenizer(), tokenizer()]
    with torch.no_grad():
        models[1].encoder.basis.mul_(1.05)
    told = trap("psnr", *[(suite("psnr", budgets=[8]), m) for m in models], "checkpoint", comparable=True)
    assert told.differences[0][0].details[0][0] == "fingerprint"


def test_another_resolution(trap: Any, tokenizer: Any, suite: Any) -> None:
    # SEED-Voken #13
    models = [tokenizer(), tokenizer(size=32)]
    told = trap("ssim", *[(suite("ssim", budgets=[8]), m) for m in models], "resolution", "resolution")
    assert {difference.half for difference, _ in told.differences} == {"measure", "model"}


def test_borders_of_ssim(trap: Any, tokenizer: Any, suite: Any) -> None:
    # scikit-image against torchmetrics: one name, two numbers
    mirrored, model = suite({"type": "ssim", "borders": "mirror"}, budgets=[8]), tokenizer()
    trap("ssim", (mirrored, model), (suite("ssim", budgets=[8]), model), "borders of SSIM")


def test_another_architecture(trap: Any, tokenizer: Any, suite: Any) -> None:
    models = [tokenizer(), tokenizer(quantizer={"type": "toy-round", "levels": 4})]
    trap("psnr", *[(suite("psnr", budgets=[8]), m) for m in models], "architecture", comparable=True)


def test_each_cause_says_its_size_and_has_patterns() -> None:
    for cause in CAUSES:
        assert len(cause.size) > 10 or cause.moves == "nothing"
        assert all(path.split(".")[0] in ("measure", "use", "model") for path in cause.paths)
    common = {cause.name for cause in CAUSES}
    assert len(common) == len(CAUSES)
    assert all(set(cause.follows) < common for cause in CAUSES)


@pytest.mark.parametrize("name", catalogue().names("metric"))
def test_each_cause_of_a_metric_is_of_its_settings(name: str) -> None:
    config, common = catalogue().get("metric", name).config, {cause.name for cause in CAUSES}
    for cause in config.causes:
        assert cause.size or cause.name in common, f"{cause.name!r} has no words"
        assert all(path.partition(".")[0] in ("metric", "measured") for path in cause.paths)
    fields = [path.partition(".")[2].rstrip("*") for cause in config.causes for path in cause.paths]
    own = {path for path in fields if f"metric.{path}" in {p for c in config.causes for p in c.paths}}
    assert own <= set(config.model_fields)


def test_parts_that_moved_to_another_distribution_are_told_as_that(tokenizer: Any, suite: Any, tmp_path: Path) -> None:
    now = json.loads(json.dumps(run(suite("psnr", count=8), [("a", tokenizer("full"))], tmp_path).results))
    before = json.loads(json.dumps(now))
    for record in before["protocols"].values():
        record["use"]["providers"] = sorted([*record["use"]["providers"], "flexframe-lengths 0.1.0"])
    ((difference, _),) = explain(before, now).differences
    assert difference.cause.name == "who provides a part"
    assert "`full`, `mse` and `l1` are flexframe's own now" in difference.cause.size
    assert difference.details == [("providers.flexframe-lengths", "0.1.0", "(not said)")]
    assert all(pair.comparable for pair in explain(before, now).pairs)
    for record in now["protocols"].values():
        record["use"]["providers"] = [each.replace(" 0.1.0", " 0.2.0") for each in record["use"]["providers"]]
    assert [d.cause.name for d, _ in explain(before, now).differences] == ["versions", "who provides a part"]


def test_settings_of_a_metric_that_is_not_installed_are_told_as_such(
    tokenizer: Any, suite: Any, tmp_path: Path
) -> None:
    first = json.loads(json.dumps(run(suite("psnr", count=8), [("a", tokenizer())], tmp_path).results))
    second = json.loads(json.dumps(first))
    for results, rounded in ((first, False), (second, True)):
        for record in results["protocols"].values():
            record["measure"]["metric"] = {"type": "strange", "rounded": rounded}
    ((difference, _),) = explain(first, second).differences
    assert difference.cause.name == "settings of the metric"
    assert difference.forbids
