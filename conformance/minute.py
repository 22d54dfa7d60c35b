"""The minute: a few of the questions, whose right answers take numpy and safetensors alone.

Chosen by `python -m clipref.conformance.coverage --choose`: every known fault, and each profile of preprocessing that
is taken for another, fails in two of them, and every claim is asked by two, or by as many as the whole suite has.
tests/test_conformance_minute.py holds that.
"""

from __future__ import annotations

from collections.abc import Sequence

from .protocol import Question

MINUTE = frozenset((
    "describe/vit-a", "describe/vit-b", "tokenize/words", "tokenize/repaired", "tokenize/unescaped",
    "tokenize/spaces", "tokenize/upper case", "tokenize/last merges", "tokenize/special", "tokenize/mixed",
    "tokenize/to the brim", "tokenize/too long", "tokenize/context of 20", "tokenize/refused",
    "preprocess/I;16 50x40 to 24", "preprocess/RGB 44x55 to 24", "preprocess/RGB 35x28 to 24",
    "preprocess/RGB 56x61 to 56", "preprocess/RGB with EXIF 50x40 to 24", "preprocess/RGB 1400x1100 to 32",
    "preprocess/RGBA 308x230 to 224", "preprocess/P 308x230 to 224", "preprocess/I;16 230x305 to 224",
    "preprocess/RGB with EXIF 308x230 to 224", "preprocess/RGB with tRNS 230x305 to 224",
    "preprocess/P with tRNS 308x230 to 224", "preprocess/RGB 1400x1090 to 224", "operations/linear",
    "operations/linear without bias", "operations/layer_norm", "operations/layer_norm nearly constant",
    "operations/quick_gelu", "operations/quick_gelu large", "operations/softmax", "operations/softmax large",
    "operations/attention", "operations/attention causal", "operations/conv2d of patches",
    "operations/conv2d strided", "operations/batch_norm", "operations/batch_norm of little variance",
    "operations/avg_pool", "towers/vit-a plain/image", "towers/vit-a plain/text", "towers/vit-a trained/image",
    "towers/vit-a trained/text", "towers/vit-gelu plain/image", "towers/vit-gelu plain/text",
    "towers/vit-gelu trained/image", "towers/vit-gelu trained/text", "towers/rn-a plain/image",
    "towers/rn-a trained/image", "similarity/2 images 6 texts of 17", "similarity/5 images 3 texts of 29",
    "properties/vit-a in reverse/image", "properties/vit-a many/image", "properties/vit-a once/image",
    "properties/vit-a again/image", "properties/vit-a extremes/image", "properties/vit-a once/text",
    "properties/vit-a again/text", "properties/vit-a extremes/text",
))  # fmt: skip


def among(asked: Sequence[Question], profile: str) -> int:
    """The number of all questions, in a profile of preprocessing, of which these are the minute's; 0 if they aren't.

    Full sizes aren't counted. A few levels of the minute are the minute's, too.
    """
    from .questions import questions

    every = list(questions(profile=profile))
    levels = {question.level for question in asked}
    whole = {question.id for question in every if question.level in levels}
    return len(every) if {question.id for question in asked} == whole & MINUTE != whole else 0
