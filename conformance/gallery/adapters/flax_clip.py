"""transformers' FlaxCLIPModel, which version 5 no longer has. Needs transformers_clip.py beside it."""

import tempfile

import numpy as np
from transformers import FlaxCLIPModel
from transformers_clip import model_of


class Engine:
    def __init__(self, folder):
        if folder is None:
            raise NotImplementedError("towers only")
        with tempfile.TemporaryDirectory() as scratch:
            model_of(folder).save_pretrained(scratch, safe_serialization=False)
            self.model = FlaxCLIPModel.from_pretrained(scratch, from_pt=True)

    def encode_image(self, pixels):
        return np.asarray(self.model.get_image_features(pixels))

    def encode_text(self, ids):
        return np.asarray(self.model.get_text_features(ids.astype(np.int32)))
