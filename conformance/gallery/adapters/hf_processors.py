"""hf-processors-rs: transformers' processors in Rust, of either kind."""

import hf_processors_rs

CONFIG = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True, "do_normalize": True,
    "do_rescale": True, "do_convert_rgb": True, "resample": 3, "rescale_factor": 1 / 255,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


class Pil:
    backend = "pil"

    def __init__(self, folder):
        pass

    def preprocess(self, image, resolution):
        square = {"height": resolution, "width": resolution}
        config = {**CONFIG, "size": {"shortest_edge": resolution}, "crop_size": square}
        return hf_processors_rs.AutoImageProcessor.from_dict(config, backend=self.backend)(image)[0]


class Torchvision(Pil):
    backend = "torchvision"
