"""OpenAI's code, as clip-anytorch has it, with torchvision beside it."""

import io
import json

import clip
import torch
from clip.clip import _transform
from clip.model import CLIP, VisionTransformer
from PIL import Image
from safetensors.torch import load_file


class Engine:
    """Its own constructor takes 64 channels a head; tiny models have others, so that heads are set here."""

    def __init__(self, folder):
        if folder is None:
            return
        config = json.loads((folder / "config.json").read_text())
        vision, text, width = config["vision"], config["text"], config["embed_dim"]
        if {text["activation"], vision.get("activation", "quick_gelu")} != {"quick_gelu"} or any(
            part.get("mlp_width", 4 * part["width"]) != 4 * part["width"] for part in (vision, text)
        ):
            raise NotImplementedError("MLPs are four times as wide, and QuickGELU's")
        resnet = vision["kind"] == "resnet"
        self.model = CLIP(
            width, vision["resolution"], vision["layers"] if resnet else 1, vision["width"] if resnet else 64,
            None if resnet else vision["resolution"], text["context_length"], text["vocab_size"], text["width"],
            text["heads"], text["layers"],
        )  # fmt: skip
        if resnet:
            self.model.visual.attnpool.num_heads = vision["heads"]
        else:
            names = ("resolution", "patch_size", "width", "layers", "heads")
            self.model.visual = VisionTransformer(*(vision[name] for name in names), width)
        state = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        self.model.load_state_dict(state, strict=False)
        self.model.eval()

    def encode_image(self, pixels):
        with torch.inference_mode():
            return self.model.encode_image(torch.from_numpy(pixels)).numpy()

    def encode_text(self, ids):
        with torch.inference_mode():
            return self.model.encode_text(torch.from_numpy(ids)).numpy()

    def tokenize(self, texts, context_length, truncate):
        return clip.tokenize(texts, context_length, truncate).numpy()

    def preprocess(self, image, resolution):
        return _transform(resolution)(Image.open(io.BytesIO(image))).numpy()
