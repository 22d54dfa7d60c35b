"""transformers' two image processors, that with Pillow and that with torchvision, by their names in 4 and in 5."""

import io

import transformers
from PIL import Image


class Pil:
    """The "slow" one of 4; a class of its own in 5."""

    kinds = ("CLIPImageProcessorPil", "CLIPImageProcessor")

    def __init__(self, folder):
        self.kind = next(kind for name in self.kinds if (kind := getattr(transformers, name, None)))

    def preprocess(self, image, resolution):
        square = {"height": resolution, "width": resolution}
        processor = self.kind(size={"shortest_edge": resolution}, crop_size=square)
        return processor(Image.open(io.BytesIO(image)), return_tensors="pt")["pixel_values"][0].numpy()


class Torchvision(Pil):
    """The "fast" one of 4; in 5 the default where torchvision is installed."""

    kinds = ("CLIPImageProcessorFast", "CLIPImageProcessor")
