"""Names of a denoising head's tensors in the code bases that took theirs from MAR's."""

from __future__ import annotations

import re

from flexframe.importing import Foreign

HEAD = (
    (r"^diffloss\.net\.time_embed\.", "head.time."),
    (r"^diffloss\.net\.cond_embed\.", "head.said."),
    (r"^diffloss\.net\.input_proj\.", "head.input."),
    (r"^diffloss\.net\.final_layer\.linear\.", "head.output."),
    (r"^diffloss\.net\.final_layer\.adaLN_modulation\.1\.", "head.modulation."),
    (r"^diffloss\.net\.res_blocks\.", "head.layers."),
    (r"\.in_ln\.", ".norm."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
)
"""Patterns and what replaces them, applied in order."""


def count(source: Foreign, pattern: str) -> int:
    """Different beginnings of tensors' names that match: layers, where a pattern ends with their number."""
    return len({found[0] for name in source.tensors if (found := re.match(pattern, name))})
