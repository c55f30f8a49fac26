"""Metrics, a file each, with the config of each beside it. Imports no torch."""

from __future__ import annotations

from flexframe_registry import Component
from flexframe_standard.metrics.asked_text_config import AskedTextConfig
from flexframe_standard.metrics.bits_config import BitsConfig
from flexframe_standard.metrics.classifier_config import ClassifierConfig
from flexframe_standard.metrics.codebook_config import CodebookConfig
from flexframe_standard.metrics.coded_bits_config import CodedBitsConfig
from flexframe_standard.metrics.dists_config import DistsConfig
from flexframe_standard.metrics.fid_config import FrechetConfig
from flexframe_standard.metrics.inception_score_config import InceptionScoreConfig
from flexframe_standard.metrics.kid_config import KidConfig
from flexframe_standard.metrics.lpips_config import LpipsConfig
from flexframe_standard.metrics.ms_ssim_config import MsSsimConfig
from flexframe_standard.metrics.plausible_config import PlausibleConfig
from flexframe_standard.metrics.precision_recall_config import PrecisionRecallConfig
from flexframe_standard.metrics.psnr_config import PsnrConfig
from flexframe_standard.metrics.remade_config import ReEncodingConfig, SeedSpreadConfig
from flexframe_standard.metrics.ssim_config import SsimConfig
from flexframe_standard.metrics.vision_config import CmmdConfig, FdDinov2Config

COMPONENTS = [
    Component(PsnrConfig, "flexframe_standard.metrics.psnr:Psnr"),
    Component(SsimConfig, "flexframe_standard.metrics.ssim:Ssim"),
    Component(MsSsimConfig, "flexframe_standard.metrics.ms_ssim:MsSsim"),
    Component(ReEncodingConfig, "flexframe_standard.metrics.remade:ReEncoding"),
    Component(SeedSpreadConfig, "flexframe_standard.metrics.remade:SeedSpread"),
    Component(CodebookConfig, "flexframe_standard.metrics.codebook:Codebook"),
    Component(ClassifierConfig, "flexframe_standard.metrics.classifier:Classifier"),
    Component(AskedTextConfig, "flexframe_standard.metrics.asked_text:AskedText"),
    Component(PlausibleConfig, "flexframe_standard.metrics.plausible:Plausible"),
    Component(FrechetConfig, "flexframe_standard.metrics.fid:Frechet"),
    Component(KidConfig, "flexframe_standard.metrics.kid:Kid"),
    Component(PrecisionRecallConfig, "flexframe_standard.metrics.precision_recall:PrecisionRecall"),
    Component(InceptionScoreConfig, "flexframe_standard.metrics.inception_score:InceptionScore"),
    Component(LpipsConfig, "flexframe_standard.metrics.lpips:Lpips"),
    Component(DistsConfig, "flexframe_standard.metrics.dists:Dists"),
    Component(FdDinov2Config, "flexframe_standard.metrics.vision:FdDinov2"),
    Component(CmmdConfig, "flexframe_standard.metrics.vision:Cmmd"),
    Component(BitsConfig, "flexframe_standard.metrics.bits:Bits"),
    Component(CodedBitsConfig, "flexframe_standard.metrics.coded_bits:CodedBits"),
]
