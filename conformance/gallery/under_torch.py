"""Rows of outsiders under torch: who was asked what, and what people found in the code of those who differ."""

from __future__ import annotations

from . import places
from .table import Asked, Difference, Line, Outsider

_TOWERS = ("tokenize", "towers", "properties")

UNDER_TORCH: tuple[Outsider, ...] = (
    Outsider(
        "openai", "OpenAI's code", "clip-anytorch", places.TORCH, "openai_clip.py:Engine",
        "The original, packed for the package index; all nine models.",
        (Asked(("tokenize", "preprocess", "towers", "properties")),),
    ),
    Outsider(
        "openai-pillow-13", "OpenAI's code with Pillow 13", "clip-anytorch", places.PILLOW_13, "openai_clip.py:Engine",
        "The same with the newest Pillow. It takes the vertical pass first where a picture that shrinks is more than "
        "twice as high as wide, and gives other levels then (drawn ones: 1080x2400 to 224 one level in 13 % of "
        "values, 55x129 to 48 up to 20 in 31 %). No picture that is asked is so high.",
        (Asked(("preprocess",)),),
    ),
    Outsider(
        "open-clip", "open_clip", "open_clip_torch", places.TORCH, "open_clip_torch.py:Engine",
        "An open source implementation of CLIP, OpenAI's models and its own. The activation is the checkpoint's here.",
        (Asked(("tokenize", "preprocess", "towers", "properties")),),
        (
            Difference(
                "tokenize", "special tokens are spelt <start_of_text> and <end_of_text>: their names in OpenAI's "
                "spelling are text here, and open_clip's become ids", "choice",
                Line("open_clip/tokenizer.py", 151, "<start_of_text>"),
                "read SimpleTokenizer; both spellings tried, their ids as the suite has them",
                ("specials-spelt-otherwise",),
            ),
            Difference(
                "tokenize", "what is too long is always truncated, and nothing refused", "choice",
                Line("open_clip/tokenizer.py", 261, "tokens[:context_length]"),
                "read __call__, which has no other way",
            ),
        ),
    ),
    Outsider(
        "open-clip-gelu", "open_clip without -quickgelu", "open_clip_torch", places.TORCH,
        "open_clip_torch.py:ExactGelu",
        "The same class as a model's name without -quickgelu makes it, given weights that were trained with QuickGELU.",
        (Asked(("towers",), only="vit-b"),),
        (
            Difference(
                "towers", "the activation is the exact GELU unless quick_gelu is set; the factory warns of a "
                "mismatch, and goes on", "choice", Line("open_clip/model.py", 145, "QuickGELU if quick_gelu"),
                "read, and line 451 of factory.py, which warns; right with quick_gelu set, as the row above",
                ("gelu-exact",),
            ),
        ),
    ),
    Outsider(
        "transformers-5", "transformers 5: CLIPModel and tokenizer", "transformers", places.TORCH,
        "transformers_clip.py:Engine",
        "OpenAI's ViTs; the tokenizer is its Rust library's.",
        (Asked(_TOWERS),),
        (
            Difference(
                "tokenize", "neither repaired by ftfy nor unescaped: NFC, white space and lower case are all",
                "limit",
                Line("transformers/models/clip/tokenization_clip.py", 91, "normalizers.NFC()"),
                "read; '&amp;' has the ids of '&', 'amp' and ';'. Texts of 'mixed' get longer than 77 by it",
                ("no-ftfy",),
            ),
            Difference(
                "tokenize", "special tokens' names count in lower case only: <|ENDOFTEXT|> is text", "limit",
                Line("transformers/models/clip/tokenization_clip.py", 98, "endoftext"),
                "read: they are looked for before the text is lower-cased; one text of nine",
            ),
            Difference(
                "tokenize", "what is too long and not to be truncated gets a warning and all its ids", "choice",
                Line("transformers/tokenization_utils_base.py", 3014, "Token indices sequence length"),
                "read; padding, which is the end of text by default and changes no embedding, is looked past",
            ),
        ),
    ),
    Outsider(
        "transformers-5-pil", "transformers 5: processor with Pillow", "transformers", places.TORCH,
        "transformers_images.py:Pil", "CLIPImageProcessorPil.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-5")),
        (
            Difference(
                "preprocess", "the crop's offset is floored, RGB comes before the resize, what is transparent is put "
                "on white first, from 5.21 on", "choice", Line("transformers/image_transforms.py", 496, "// 2"),
                "read center_crop(), and line 783, which composes on white; right in its own profile",
                ("transformers-5",),
            ),
        ),
    ),
    Outsider(
        "transformers-5-torchvision", "transformers 5: processor with torchvision", "transformers",
        places.TORCH, "transformers_images.py:Torchvision",
        "CLIPImageProcessor, the default where torchvision is installed.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-5-torchvision")),
        (
            Difference(
                "preprocess", "torchvision's resize of 8 bits; the crop's offset floored, RGB before the resize, "
                "what is transparent on white, from 5.21 on", "choice",
                Line("transformers/image_processing_backends.py", 395, "/ 2.0"),
                "read center_crop(), and resize(), which calls torchvision's; right in its own profile",
                ("transformers-5-torchvision",),
            ),
        ),
    ),
    Outsider(
        "sentence-transformers", "sentence-transformers: CLIPModel", "sentence-transformers", places.TORCH,
        "sentence_transformers_clip.py:Engine", "Images and texts to embeddings.",
        (Asked(("pipeline",)), Asked(("pipeline",), "transformers-5-torchvision")),
        (
            Difference(
                "pipeline", "images are prepared by transformers' processor with torchvision",
                "choice",
                Line("transformers/image_processing_backends.py", 395, "/ 2.0"),
                "the three images pass with --profile transformers-5-torchvision",
            ),
            Difference(
                "pipeline", "texts are tokenised by transformers, which doesn't unescape the '&amp;' of one", "limit",
                Line("transformers/models/clip/tokenization_clip.py", 91, "normalizers.NFC()"),
                "the row of transformers' tokenizer; the towers are right there",
            ),
        ),
    ),
    Outsider(
        "transformers-4", "transformers 4: CLIPModel and tokenizer", "transformers", places.TRANSFORMERS_4,
        "transformers_clip.py:Engine", "OpenAI's ViTs.",
        (Asked(_TOWERS),),
        (
            Difference(
                "tokenize", "where ftfy isn't installed, which it doesn't ask for, BERT's BasicTokenizer prepares the "
                "text: nothing is repaired or unescaped, Chinese characters are split apart, joiners dropped", "limit",
                Line("transformers/models/clip/tokenization_clip.py", 303, "BasicTokenizer"),
                "read, and line 462, which chooses; the ids of a Japanese text are those of its characters one by one",
                ("no-ftfy", "no-unescape"),
            ),
            Difference(
                "tokenize", "what is too long and not to be truncated gets a warning and all its ids", "choice",
                Line("transformers/tokenization_utils_base.py", 4150, "Token indices sequence length"),
                "read; padding, which is the end of text by default and changes no embedding, is looked past",
            ),
        ),
    ),
    Outsider(
        "transformers-4-slow", "transformers 4: slow processor", "transformers", places.TRANSFORMERS_4,
        "transformers_images.py:Pil", "CLIPImageProcessor, which stands on Pillow.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4")),
        (
            Difference(
                "preprocess", "the crop's offset is floored, and RGB comes before the resize", "choice",
                Line("transformers/image_transforms.py", 503, "// 2"),
                "read center_crop() and CLIPImageProcessor, which converts first; right in its own profile",
                ("transformers-4",),
            ),
            Difference(
                "preprocess", "a picture of one pixel is refused: its array of [1, 1, 3] is taken for channels first",
                "mistake", Line("transformers/image_utils.py", 328, "image.shape[first_dim] in num_channels"),
                "read infer_channel_dimension_format(), which looks for 1 or 3 at the front before the end",
            ),
        ),
    ),
    Outsider(
        "transformers-4-fast", "transformers 4: fast processor", "transformers", places.TRANSFORMERS_4,
        "transformers_images.py:Torchvision", "CLIPImageProcessorFast, which stands on torchvision.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4-torchvision")),
        (
            Difference(
                "preprocess", "torchvision's resize of 8 bits; the crop's offset floored, RGB before the resize",
                "choice", Line("transformers/image_processing_utils_fast.py", 515, "/ 2.0"),
                "read center_crop() and resize(), which calls torchvision's; right in its own profile",
                ("transformers-4-torchvision",),
            ),
        ),
    ),
    Outsider(
        "flax", "transformers 4: FlaxCLIPModel", "flax", places.TRANSFORMERS_4, "flax_clip.py:Engine",
        "OpenAI's ViTs in JAX.",
        (Asked(("towers", "properties")),),
    ),
    Outsider(
        "roboflow", "Roboflow's inference-models: preprocessing", "inference-models", places.TORCH,
        "roboflow_images.py:Engine", "The logic of the original preprocessing, on tensors.",
        (Asked(("preprocess",)),),
        (
            Difference(
                "preprocess", "tensors are resized by torchvision in floats, rounded once, where Pillow rounds each "
                "pass; its docstring says that numbers differ a little", "choice",
                Line("inference_models/models/clip/preprocessing.py", 78, "Resize(image_size"),
                "read, and torchvision's _functional_tensor.py, which casts to floats and rounds behind it",
                ("floats-between",),
            ),
            Difference(
                "preprocess", "it takes arrays of three channels: transparent pictures, palettes and grey ones are RGB "
                "before the resize, whoever calls it", "limit",
                Line("inference_models/models/clip/preprocessing.py", 152, "image.shape[-1] != 3"),
                "read input_to_tensor(); the adapter converts, as a caller has to",
            ),
        ),
    ),
)  # fmt: skip
