"""clippie, a CLIP in numpy: tokens, pixels, and both towers, from pictures and texts to embeddings."""

import io
import json

import numpy as np
from clippie import image as pictures
from clippie import model, tokeniser
from PIL import Image
from safetensors.numpy import load_file


class Engine:
    def __init__(self, folder):
        if folder is None:
            return
        config = json.loads((folder / "config.json").read_text())
        if config["vision"]["kind"] != "vit" or config["vision"]["activation"] != "quick_gelu":
            raise NotImplementedError("ViTs with QuickGELU only")
        w = {name: x.astype("f4") for name, x in load_file(folder / "model.safetensors").items()}
        self.text = model.TextEncoderWeights(
            w["token_embedding.weight"], w["positional_embedding"], _blocks(w, "", config["text"], True),
            _norm(w, "ln_final"), w["text_projection"],
        )  # fmt: skip
        self.image = model.ImageEncoderWeights(
            np.moveaxis(w["visual.conv1.weight"], 1, -1), w["visual.class_embedding"],
            w["visual.positional_embedding"], _norm(w, "visual.ln_pre"),
            _blocks(w, "visual.", config["vision"], False), _norm(w, "visual.ln_post"), w["visual.proj"],
        )  # fmt: skip

    def tokenize(self, texts, context_length, truncate):
        rows = np.zeros((len(texts), context_length), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [tokeniser.START_OF_TEXT_TOKEN, *tokeniser.encode(text), tokeniser.END_OF_TEXT_TOKEN]
            if len(ids) > context_length and truncate:
                raise NotImplementedError("it doesn't truncate")
            if len(ids) > context_length:
                raise model.TooManyTokensError(text)
            row[: len(ids)] = ids
        return rows

    def preprocess(self, image, resolution):
        picture = pictures.centre_crop_and_resize(Image.open(io.BytesIO(image)), resolution)
        return np.ascontiguousarray(pictures.image_to_scaled_array(picture).transpose(2, 0, 1))

    def embed_image(self, image):
        return model.encode_image([Image.open(io.BytesIO(image))], self.image)

    def embed_text(self, texts):
        return model.encode_text(texts, self.text)


class Tower(Engine):
    """Its image tower of pixels: its two steps of preprocessing, which are functions of the module, are passed over."""

    def encode_image(self, pixels):
        model.centre_crop_and_resize = lambda picture, side: picture
        model.image_to_scaled_array = lambda picture: picture
        return model.encode_image(list(pixels.transpose(0, 2, 3, 1)), self.image)


def _norm(w, name):
    return model.LayerNormalisationWeights(w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def _blocks(w, prefix, config, causal):
    blocks = []
    for i in range(config["layers"]):
        name = f"{prefix}transformer.resblocks.{i}"
        blocks.append(model.ResidualAttentionBlockWeights(
            _norm(w, f"{name}.ln_1"), config["heads"],
            w[f"{name}.attn.in_proj_weight"].T, w[f"{name}.attn.in_proj_bias"],
            w[f"{name}.attn.out_proj.weight"].T, w[f"{name}.attn.out_proj.bias"],
            causal, _norm(w, f"{name}.ln_2"),
            w[f"{name}.mlp.c_fc.weight"].T, w[f"{name}.mlp.c_fc.bias"],
            w[f"{name}.mlp.c_proj.weight"].T, w[f"{name}.mlp.c_proj.bias"],
        ))  # fmt: skip
    return blocks
