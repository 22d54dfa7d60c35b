"""fastembed's preprocessing, with the configuration of its CLIP model, Qdrant/clip-ViT-B-32-vision."""

import io

from fastembed.image.transform.operators import Compose
from PIL import Image

CONFIG = {
    "do_resize": True, "do_center_crop": True, "do_normalize": True, "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


class Engine:
    def __init__(self, folder):
        pass

    def preprocess(self, image, resolution):
        square = {"height": resolution, "width": resolution}
        transform = Compose.from_config({**CONFIG, "size": {"shortest_edge": resolution}, "crop_size": square})
        return transform([Image.open(io.BytesIO(image))])[0]
