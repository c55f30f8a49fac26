"""Causes that move a number beside the model: how each is recognised in a protocol, and by how much it usually does.

What the settings of a metric do is said by its config (`MetricConfig.causes`).

Sizes are of public discussions between authors and users (repository and thread), or measured here where it says so.
"""

from __future__ import annotations

from flexframe_registry.kinds import Cause

TASKS = "reconstructions or samples"
ELSEWHERE = "who provides a part"
"""Of a distribution that only one of two results names; of one that both name, it is a matter of versions."""
CAUSES = (
    # the first whose pattern fits, after the metric's own
    Cause("the name of the suite", ("measure.suite",), "none", moves="nothing"),
    Cause("where images lay", ("measure.data.path",), "none: their content is hashed", moves="nothing"),  # schema 1
    Cause("the commit of the training", ("model.trained.commit",), "none: weights are hashed", moves="nothing"),
    Cause(
        ELSEWHERE,
        ("measure.provided.*", "use.provided.*", "use.prior.provided.*"),
        "nothing, where the code moved as it was: `full`, `mse` and `l1` are flexframe's own now, and came from "
        "flexframe-lengths and flexframe-objectives",
        moves="digits",
        follows=("architecture", "settings of the metric", TASKS),
    ),
    Cause(
        "versions",
        (
            "measure.versions*",
            "measure.providers.*",
            "use.providers.*",
            "use.prior.providers.*",
            "measure.images.pillow",
            "measure.images.renderer",
        ),
        "usually the last digits; where a library changed a resize or a metric, its changelog says so",
        moves="digits",
    ),
    Cause(
        "device",
        ("use.device",),
        "the last digits",
        moves="digits",
    ),
    Cause(
        TASKS,
        ("measure.task", "measure.labels"),
        "other tasks: what a tokenizer rebuilds is near an image that it saw, what a prior draws is near none. No "
        "number of the one compares with one of the other, whatever they are called",
    ),
    Cause(
        "resolution",
        ("measure.image_size", "model.config.image_size"),
        "another task: FID, PSNR and bits of different sizes do not compare (SEED-Voken #13)",
        follows=(TASKS,),
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
        follows=("number of images", "data set or split", TASKS),
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
        follows=(
            "resolution",
            "resize and crop",
            "number of images",
            "balance of classes",
            "file format",
            "data set or split",
        ),
    ),
    Cause(
        "rule for 8 bits",
        ("measure.uint8",),
        "127.5 x + 128 and (x + 1) / 2 * 255 differ in FID (imeanflow #5). On uncorrelated errors, rounding adds 1/12 "
        "of a squared step to the error and cutting off adds 1/3: PSNR falls by 0.2 dB at 40 dB, by 0.02 dB at 30 dB",
        follows=(TASKS,),
    ),
    Cause(
        "settings of the metric",
        ("measure.metric.*", "measure.measured.*"),
        "definitions differ under one name; numbers of different settings do not compare",
        follows=(TASKS,),
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
        follows=(TASKS,),
    ),
    Cause("number of tokens", ("use.budget",), "another point of the model's curve"),
    Cause(
        "tokenizer under the prior",
        ("use.tokenizer.*",),
        "a sample is at best what its decoder makes of it: another decoder over the same codes is another model",
        follows=(TASKS,),
    ),
    Cause(
        "precision of the model",
        ("use.precision", "use.matmul*", "use.prior.precision"),
        "bf16 or TF32 in the place of fp32: last digits of pixels, and some token ids, which move more",
        follows=(TASKS,),
    ),
    Cause(
        "averaging of weights (EMA)",
        ("model.trained.run.ema",),
        "averaged and last weights are two models (semanticist's README tells which its numbers are of)",
        follows=(TASKS,),
    ),
    Cause(
        "training",
        ("model.trained.*",),
        "another checkpoint of the run, or another run",
        follows=(TASKS,),
    ),
    Cause(
        "architecture",
        ("model.config.*",),
        "another model",
        follows=(TASKS,),
    ),
    Cause(
        "checkpoint",
        ("model.fingerprint",),
        "other weights of the same architecture: a variant of the same name, another step, or averaging on and off "
        "(flex_gen #2)",
        follows=("averaging of weights (EMA)", "training", "architecture", "resolution", TASKS),
    ),
)
OTHER = Cause("another setting", ("*",), "not known; until it is, numbers do not compare")
