"""Roboflow's preprocessing for CLIP, of inference-models: arrays of three channels, resized by torchvision."""

import importlib.util
import io
import sys
import types

import numpy as np
import torch
from PIL import Image

# The package itself needs all that its other models need; this module needs torch and torchvision.
package = types.ModuleType("inference_models")
package.__path__ = list(importlib.util.find_spec("inference_models").submodule_search_locations)
sys.modules["inference_models"] = package
from inference_models.models.clip.preprocessing import create_clip_preprocessor  # noqa: E402


class Engine:
    def __init__(self, folder):
        pass

    def preprocess(self, image, resolution):
        # Arrays are what it takes: whoever calls it has opened the file, and dropped what isn't RGB.
        array = np.array(Image.open(io.BytesIO(image)).convert("RGB"))
        return create_clip_preprocessor(resolution)(array, "rgb", torch.device("cpu"))[0].numpy()
