"""Known ways to get preprocessing, tokenizing and comparing wrong: steps taken otherwise."""

from __future__ import annotations

import math
from typing import Any

from ..restated import preprocessing, tokenizer
from .fault import Fault, Place


def _fault(place: Place, id: str, claim: str, title: str, **steps: Any) -> Fault:
    return Fault(id, claim, title, (place,), steps)


PREPROCESS = tuple(
    _fault("preprocess", *fault, **steps)
    for fault, steps in (
        (("crop-floor", "IMG-5", "the crop offset floored"), {"offset": preprocessing.floor_half}),
        (
            ("crop-ceil", "IMG-5", "the crop offset with halves rounded up"),
            {"offset": lambda margin: (margin + 1) // 2},
        ),
        (("crop-corner", "IMG-5", "the crop at the top left"), {"offset": lambda margin: 0}),
        (
            ("long-side-rounded", "IMG-1", "the long side rounded to nearest"),
            {"long_side": lambda side, long, short: round(side * long / short)},
        ),
        (
            ("long-side-ceil", "IMG-1", "the long side rounded up"),
            {"long_side": lambda side, long, short: math.ceil(side * long / short)},
        ),
        (
            ("long-side-by-a-factor", "IMG-1", "the long side as int(R / short * long)"),
            {"long_side": lambda side, long, short: int(side / short * long)},
        ),
        (
            ("long-side-by-the-ratio", "IMG-1", "the long side as int(long / short * R)"),
            {"long_side": lambda side, long, short: int(long / short * side)},
        ),
        (
            ("long-side-divided", "IMG-1", "the long side as int(long / (short / R))"),
            {"long_side": lambda side, long, short: int(long / (short / side))},
        ),
        (("squashed", "IMG-1", "both sides resized, and no crop"), {"squash": True}),
        (("crop-first", "IMG-1", "the crop before the resize"), {"square": "before"}),
        (("crop-fractional", "IMG-5", "the crop as a box with fractions, resized at once"), {"square": "box"}),
        (("palette-as-grey", "IMG-4", "a palette's indices taken for levels of grey"), {"grey_indices": True}),
        (("exif-turned", "IMG-9", "the image turned as EXIF says"), {"turned": True}),
        (("transparent-colour", "IMG-10", "a transparent colour made an alpha channel"), {"alpha": True}),
        (("rgb-first", "IMG-4", "the conversion to RGB before the resize"), {"rgb": "first"}),
        (("on-white", "IMG-4", "what is transparent put on white before the resize"), {"rgb": "first, on white"}),
        (("thumbnail-first", "IMG-2", "a thumbnail of 512 pixels made first"), {"thumbnail": 512}),
        (("boxes-first", "IMG-2", "boxes averaged before the filter (reducing_gap)"), {"reducing_gap": 2.0}),
        (("bilinear", "IMG-2", "a bilinear filter"), {"filter": "BILINEAR"}),
        (("nearest", "IMG-2", "the nearest pixel and no filter"), {"filter": "NEAREST"}),
        (("lanczos", "IMG-2", "Lanczos' filter"), {"filter": "LANCZOS"}),
        (("box", "IMG-2", "the mean of the area"), {"filter": "BOX"}),
        (("no-antialias", "IMG-2", "a filter that doesn't widen when it shrinks"), {"antialias": False}),
        (("torch-resize", "IMG-3", "torch's resize of 8 bits, not Pillow's"), {"resampler": "torch"}),
        (
            ("torch-no-antialias", "IMG-2", "torch's resize of 8 bits without antialias"),
            {"resampler": "torch", "antialias": False},
        ),
        (("vertical-first", "IMG-3", "the vertical pass first"), {"vertical_first": True}),
        (("floats-between", "IMG-3", "no rounding between the passes"), {"floats": "between"}),
        (("floats-throughout", "IMG-3", "a resize of floats, never rounded to 8 bits"), {"floats": "throughout"}),
        (("bgr", "IMG-7", "the channels in the order blue, green, red"), {"bgr": True}),
        (("axes-exchanged", "IMG-7", "rows and columns exchanged"), {"upright": False}),
        (("imagenet-mean", "IMG-6", "ImageNet's mean"), {"mean": (0.485, 0.456, 0.406)}),
        (("imagenet-std", "IMG-6", "ImageNet's standard deviation"), {"std": (0.229, 0.224, 0.225)}),
        (
            ("imagenet", "IMG-6", "ImageNet's mean and standard deviation"),
            {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        ),
        (
            ("half", "IMG-6", "mean and standard deviation 0.5"),
            {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        ),
        (
            ("constants-rounded", "IMG-6", "mean and standard deviation of three digits"),
            {"mean": (0.481, 0.458, 0.408), "std": (0.269, 0.261, 0.276)},
        ),
        (("not-normalised", "IMG-6", "neither mean nor standard deviation"), {"mean": (0, 0, 0), "std": (1, 1, 1)}),
        (("to-255", "IMG-6", "pixels of 0 to 255 instead of 0 to 1"), {"scale": 1.0}),
        (("by-256", "IMG-6", "a division by 256"), {"scale": 256.0}),
    )
)

_WITHOUT = tokenizer.Steps()
TOKENIZE = tuple(
    _fault("tokenize", *fault, **steps)
    for fault, steps in (
        (("no-ftfy", "TOK-1", "text not repaired by ftfy"), {"repaired": False}),
        (("no-unescape", "TOK-2", "HTML not unescaped"), {"unescaped": 0}),
        (("unescape-once", "TOK-2", "HTML unescaped once, not twice"), {"unescaped": 1}),
        (
            ("spaces-as-signs", "TOK-3", "white space taken for punctuation"),
            {"pattern": _WITHOUT.pattern.replace(r"[^\s\p{L}\p{N}]", r"[^\p{L}\p{N}]")},
        ),
        (("no-lower", "TOK-4", "text not lower-cased"), {"lowered": False}),
        (
            ("digits-together", "TOK-5", "digits kept together"),
            {"pattern": _WITHOUT.pattern.replace(r"[\p{N}]", r"[\p{N}]+")},
        ),
        (
            ("no-contractions", "TOK-5", "English contractions not split off"),
            {"pattern": _WITHOUT.pattern.replace("'s|'t|'re|'ve|'m|'ll|'d|", "")},
        ),
        (
            ("ascii-words", "TOK-5", "only the letters a to z taken as letters"),
            {"pattern": _WITHOUT.pattern.replace(r"\p{L}", "a-zA-Z")},
        ),
        (("split-at-spaces", "TOK-5", "words split at white space alone"), {"pattern": r"\S+"}),
        (("specials-as-text", "TOK-10", "names of special tokens taken as text"), {"specials": False}),
        (
            ("specials-split", "TOK-10", "names of special tokens split like any text"),
            {"pattern": _WITHOUT.pattern.replace(tokenizer.SPECIALS, "")},
        ),
        (
            ("specials-spelt-otherwise", "TOK-10", "special tokens spelt <start_of_text> and <end_of_text>"),
            {
                "pattern": _WITHOUT.pattern.replace(tokenizer.SPECIALS, "<start_of_text>|<end_of_text>|"),
                "spelling": ("<start_of_text>", "<end_of_text>"),
            },
        ),
        (("no-end-of-word", "TOK-6", "words without their </w>"), {"ends_of_words": False}),
        (
            ("merges-from-the-left", "TOK-6", "pairs merged from the left, whatever their rank"),
            {"merges": "from the left"},
        ),
        (("no-merges", "TOK-6", "nothing merged"), {"merges": "none"}),
        (("last-merge-missing", "TOK-6", "the last merge of the table left out"), {"left_out": 1}),
        (("no-start", "TOK-7", "no start-of-text token"), {"start": False}),
        (("no-end", "TOK-7", "no end-of-text token"), {"end": False}),
        (("padded-with-the-end", "TOK-8", "padding with 49407"), {"padding": 49407}),
        (("length-fixed", "TOK-8", "77 ids, whatever context length is asked for"), {"length": 77}),
        (("end-cut-off", "TOK-9", "a truncation that drops the end-of-text token"), {"cut": "drop the end"}),
        (("cut-from-the-left", "TOK-9", "a truncation that keeps the end of the text"), {"cut": "from the left"}),
    )
)

SIMILARITY = tuple(
    _fault("similarity", *fault, **steps)
    for fault, steps in (
        (("scale-missing-in-logits", "SIM-2", "no logit scale"), {"scale": "none"}),
        (("scale-not-exponentiated", "SIM-2", "the logit scale not exponentiated"), {"scale": "logarithm"}),
        (("scale-divides", "SIM-2", "a division by the logit scale"), {"scale": "divided"}),
        (("scale-at-most-100", "SIM-2", "a logit scale of at most 100"), {"scale": "at most 100"}),
        (("length-plus-epsilon", "SIM-1", "1e-8 added to lengths"), {"epsilon": 1e-8}),
        (("image-not-normalised", "SIM-1", "images not normalised"), {"image_normalised": False}),
        (("text-not-normalised", "SIM-1", "texts not normalised"), {"text_normalised": False}),
        (("dot-products", "SIM-1", "dot products of what isn't normalised"),
         {"image_normalised": False, "text_normalised": False}),
        (("logits-transposed", "SIM-3", "texts in rows and images in columns"), {"transposed": True}),
        (("probabilities", "SIM-2", "a softmax over the logits"), {"softmax": True}),
    )
)  # fmt: skip
