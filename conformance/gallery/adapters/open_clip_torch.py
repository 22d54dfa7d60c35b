"""open_clip: its CLIP class, its tokenizer, and its transform for evaluation."""

import io
import json

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import load_file


class Engine:
    exact_gelu = False

    def __init__(self, folder):
        if folder is None:
            self.tokenizer = open_clip.SimpleTokenizer()
            return
        config = json.loads((folder / "config.json").read_text())
        vision, text = config["vision"], config["text"]
        if vision["kind"] == "resnet":
            tower = {"layers": vision["layers"], "head_width": vision["width"] * 32 // vision["heads"]}
        else:
            tower = {
                "layers": vision["layers"], "head_width": vision["width"] // vision["heads"],
                "patch_size": vision["patch_size"], "mlp_ratio": vision["mlp_width"] / vision["width"],
            }  # fmt: skip
        names = ("context_length", "vocab_size", "width", "heads", "layers")
        self.model = CLIP(
            config["embed_dim"],
            CLIPVisionCfg(image_size=vision["resolution"], width=vision["width"], **tower),
            CLIPTextCfg(**{name: text[name] for name in names}, mlp_ratio=text["mlp_width"] / text["width"]),
            quick_gelu=text["activation"] == "quick_gelu" and not self.exact_gelu,
        ).eval()
        self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)

    def encode_image(self, pixels):
        with torch.inference_mode():
            return self.model.encode_image(torch.from_numpy(pixels)).numpy()

    def encode_text(self, ids):
        with torch.inference_mode():
            return self.model.encode_text(torch.from_numpy(ids)).numpy()

    def tokenize(self, texts, context_length, truncate):
        return self.tokenizer(texts, context_length).numpy()

    def preprocess(self, image, resolution):
        return open_clip.image_transform(resolution, is_train=False)(Image.open(io.BytesIO(image))).numpy()


class ExactGelu(Engine):
    """As of a model's name that doesn't end with -quickgelu, whatever the weights were trained with."""

    exact_gelu = True
