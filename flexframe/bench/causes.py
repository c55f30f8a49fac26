"""What moves a number beside the model, how it is recognised in a protocol, and by how much it usually does.

Sizes are of public discussions between authors and users (repository and thread), or measured here where it says so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One thing that moves numbers."""

    name: str
    paths: tuple[str, ...]
    """Patterns of the settings that show it, the first part being `measure`, `use` or `model`."""
    size: str
    """How much it usually moves what."""
    small: bool = False
    """Whether it moves last digits only, so that numbers compare all the same."""


TASKS = "reconstructions or samples"
CAUSES = (
    # the first whose pattern fits
    Cause(
        "versions",
        (
            "measure.versions*",
            "measure.providers",
            "use.providers",
            "use.prior.providers",
            "measure.images.pillow",
            "measure.images.renderer",
            "measure.measured.trained_on.images.pillow",
            "measure.measured.torchmetrics",
            "measure.measured.torchvision",
            "measure.measured.torch-fidelity",
            "measure.measured.scikit-learn",
        ),
        "usually the last digits; where a library changed a resize or a metric, its changelog says so",
        small=True,
    ),
    Cause(
        "device",
        ("use.device", "measure.measured.extracted_on*"),
        "the last digits",
        small=True,
    ),
    Cause(
        TASKS,
        ("measure.task", "measure.measured.samples", "measure.labels"),
        "other tasks: what a tokenizer rebuilds is near an image that it saw, what a prior draws is near none. No "
        "number of the one compares with one of the other, whatever they are called",
    ),
    Cause(
        "reference images",
        ("measure.measured.reference*", "measure.metric.reference*"),
        "an rFID is taken against the very images that were rebuilt, a gFID against a training set: they never compare "
        "(1d-tokenizer #46). One model, two references: FID 4.28 and 2.19 (LlamaGen #34), 2.70 and 0.92 "
        "(guided-diffusion #161), 1.90 and 0.58 (RAE #11)",
    ),
    Cause(
        "resolution",
        ("measure.image_size", "model.config.image_size"),
        "another task: FID, PSNR and bits of different sizes do not compare (SEED-Voken #13)",
    ),
    Cause(
        "resize and crop",
        (
            "measure.images.resize",
            "measure.images.crop",
            "measure.data.resize",
            "measure.data.crop",
            "measure.images.colour",
        ),
        "rFID 2.2 and 1.5 of one model by the crop of the reference (D-AR #3)",
    ),
    Cause(
        "number of images",
        ("measure.count", "measure.images.left out*"),
        "FID falls as images grow in number: 6.87 where 2.77 was published, of fewer than 50,000 or sampled otherwise "
        "(1d-tokenizer #11); below the feature width it is refused here, for it may come out negative or as NaN "
        "(torch-fidelity #44, pytorch-fid #105). "
        "Precision, recall, codebook use and perplexity depend on it too; ADM takes 10,000 and 50,000. Per-image means "
        "(PSNR, SSIM, LPIPS) move by their sampling error only",
    ),
    Cause(
        "balance of classes",
        ("measure.classes*", "use.prior.classes"),
        "50 images of every class, or classes at random: different gFID (latent-diffusion #262)",
    ),
    Cause(
        "file format",
        ("measure.files*",),
        "JPEG's losses are in the images that a model sees, or they are not; the better the model, the more it moves",
    ),
    Cause(
        "data set or split",
        ("measure.data.*",),
        "other images altogether: no number compares (SEED-Voken #13: a wrong test split)",
    ),
    Cause(
        "content of the images",
        ("measure.data_sha256",),
        "data, size and resizing are called the same and pixels are not: other files, a library of another version, or "
        "files that were written anew as JPEG",
    ),
    Cause(
        "extractor",
        (
            "measure.measured.extractor",
            "measure.measured.layer",
            "measure.metric.layer",
            "measure.metric.net",
            "measure.measured.net",
        ),
        "distances in different features have different units: they never compare",
    ),
    Cause(
        "weights of the extractor",
        ("measure.measured.*_sha256", "measure.measured.weights*"),
        "TensorFlow's Inception and torchvision's are other networks: their FIDs never compare (pytorch-fid #14, #16)",
    ),
    Cause(
        "rule for 8 bits",
        ("measure.uint8", "measure.metric.rounded", "measure.measured.reconstructions"),
        "127.5 x + 128 and (x + 1) / 2 * 255 differ in FID (imeanflow #5). On uncorrelated errors, rounding adds 1/12 "
        "of a squared step to the error and cutting off adds 1/3: PSNR falls by 0.2 dB at 40 dB, by 0.02 dB at 30 dB",
    ),
    Cause(
        "training images of the classifier",
        ("measure.measured.trained_on*", "measure.measured.training_images"),
        "another classifier, which reads other labels off the same images: no number of its compares",
    ),
    Cause(
        "what the classifier reads off the originals",
        ("measure.measured.accuracy_on_originals_percent",),
        "the same originals read otherwise, so another classifier; files of before its training images were hashed "
        "show it by this alone",
    ),
    Cause(
        "settings of precision and recall",
        ("measure.metric.k",),
        "more neighbours are larger balls: both rise with k",
    ),
    Cause(
        "settings of the metric",
        ("measure.metric.*", "measure.measured.*"),
        "definitions differ under one name; numbers of different settings do not compare",
    ),
    Cause(
        "seed of the decoder",
        ("use.seed",),
        "a decoder that draws: FID by up to 0.3 (DetailFlow's own warning); one that does not draw: nothing",
    ),
    Cause(
        "sampling settings",
        ("use.sampling.*",),
        "steps, guidance, temperature: gFID 6.87 and 8.7 where 2.77 was published (1d-tokenizer #11, #65)",
    ),
    Cause("number of tokens", ("use.budget",), "another point of the model's curve"),
    Cause(
        "tokenizer under the prior",
        ("use.tokenizer.*",),
        "a sample is at best what its decoder makes of it: another decoder over the same codes is another model",
    ),
    Cause(
        "precision of the model",
        ("use.precision", "use.matmul*", "use.prior.precision"),
        "bf16 or TF32 in the place of fp32: last digits of pixels, and some token ids, which move more",
    ),
    Cause(
        "averaging of weights (EMA)",
        ("model.trained.run.ema",),
        "averaged and last weights are two models (semanticist's README tells which its numbers are of)",
    ),
    Cause(
        "training",
        ("model.trained.*",),
        "another checkpoint of the run, or another run",
    ),
    Cause(
        "architecture",
        ("model.config.*",),
        "another model",
    ),
    Cause(
        "checkpoint",
        ("model.fingerprint",),
        "other weights of the same architecture: a variant of the same name, another step, or averaging on and off "
        "(flex_gen #2)",
    ),
)
OTHER = Cause("another setting", ("*",), "not known; until it is, numbers do not compare")
IGNORED = (
    "measure.suite",  # a name
    "measure.data.path",  # schema 1 named it; the content is hashed
    "measure.metric.weights",
    "measure.metric.backbone",
    "measure.metric.linear",
    "model.trained.commit",
    "measure.measured.accuracy_on_originals_percent.*",  # a consequence of the images; the classifier's file is hashed
)
FOLLOWS = {
    # what is no cause of its own where one of these is there
    "content of the images": (
        "resolution",
        "resize and crop",
        "number of images",
        "balance of classes",
        "file format",
        "data set or split",
    ),
    "balance of classes": ("number of images", "data set or split", TASKS),
    "what the classifier reads off the originals": (
        "content of the images",
        "resolution",
        "resize and crop",
        "number of images",
        "file format",
        "data set or split",
        "training images of the classifier",
        "settings of the metric",
    ),
    "checkpoint": ("averaging of weights (EMA)", "training", "architecture", "resolution", TASKS),
    **dict.fromkeys(
        (
            "settings of the metric",
            "rule for 8 bits",
            "sampling settings",
            "tokenizer under the prior",
            "precision of the model",
            "averaging of weights (EMA)",
            "training",
            "architecture",
            "resolution",
        ),
        (TASKS,),  # a tokenizer and a prior have next to no setting in common
    ),
}
