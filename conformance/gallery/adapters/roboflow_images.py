"""Roboflow's preprocessing for CLIP, of inference-models: arrays of three channels, resized by torchvision."""

import io

import numpy as np
import torch
from inference_models.models.clip.preprocessing import create_clip_preprocessor
from PIL import Image


class Engine:
    def __init__(self, folder):
        pass

    def preprocess(self, image, resolution):
        # It takes arrays: whoever calls it has opened the file, and dropped what isn't RGB.
        array = np.array(Image.open(io.BytesIO(image)).convert("RGB"))
        return create_clip_preprocessor(resolution)(array, "rgb", torch.device("cpu"))[0].numpy()
