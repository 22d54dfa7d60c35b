"""sentence-transformers' CLIPModel, from files and texts to embeddings. Needs transformers_clip.py beside it."""

import io
import tempfile

import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CLIPModel
from transformers_clip import model_of, tokenizer


class Engine:
    def __init__(self, folder):
        if folder is None:
            raise NotImplementedError("embeddings only")
        model = model_of(folder)
        side = model.config.vision_config.image_size
        square = {"height": side, "width": side}
        processor = transformers.CLIPProcessor(
            transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square), tokenizer()
        )
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            processor.save_pretrained(scratch)
            self.model = SentenceTransformer(modules=[CLIPModel(scratch)], device="cpu")

    def embed_image(self, image):
        return self.model.encode([Image.open(io.BytesIO(image))])

    def embed_text(self, texts):
        return self.model.encode(texts)
