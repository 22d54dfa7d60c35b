"""Clients that exist, unmodified, against a live server: their vectors are the model object's.

openai and chromadb are installed for this by `.ci/run slow`; inference_sdk, which brings OpenCV, where it is at hand.
"""

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel

from .live_server import Live, picture
from .tolerances import cosines

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]

MODEL = "clipref/shapes-vit"
TEXTS = ["a red circle", "two small blue stars", "a green ring"]
PICTURES = [picture(0), picture(1, (40, 90)), picture(2, (120, 61))]


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModel.from_pretrained(MODEL, backend="reference", upright=True)


def test_openai(server: Live, model: Any) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    found = client.embeddings.create(model=MODEL, input=TEXTS)  # in base64, as it asks for by default
    expected = model.embed_text(TEXTS, normalize=True)
    assert (np.array([entry.embedding for entry in found.data], np.float32) == expected).all()
    assert client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float").usage.total_tokens == 5
    uris = ["data:image/png;base64," + base64.b64encode(data).decode() for data in PICTURES]
    found = client.embeddings.create(model=MODEL, input=uris)
    images = model.embed_images(PICTURES, normalize=True)
    assert (np.array([entry.embedding for entry in found.data], np.float32) == images).all()
    with pytest.raises(openai.NotFoundError, match="this server has: clipref/shapes-vit"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] is empty"):
        client.embeddings.create(model=MODEL, input=["a", ""])
    assert [entry.id for entry in client.models.list()] == [MODEL]


def test_openai_async(server: Live, model: Any) -> None:
    openai = pytest.importorskip("openai")

    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in TEXTS))

    found = [reply.data[0].embedding for reply in asyncio.run(ask())]
    assert (np.array(found, np.float32) == model.embed_text(TEXTS, normalize=True)).all()


def test_chromadb(server: Live, model: Any) -> None:
    functions = pytest.importorskip("chromadb.utils.embedding_functions")
    embed = functions.RoboflowEmbeddingFunction(api_key="none", api_url=server.url)
    assert (np.array(embed(TEXTS[:2]), np.float32) == model.embed_text(TEXTS[:2])).all()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (found,) = embed([pixels])
    (expected,) = model.embed_image(jpeg(pixels))  # it sends a JPEG
    assert (np.array(found, np.float32) == expected).all()


def jpeg(pixels: np.ndarray) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def test_inference_sdk(server: Live, model: Any, tmp_path: Path) -> None:
    sdk = pytest.importorskip("inference_sdk")
    paths = []
    for i, data in enumerate(PICTURES):
        paths.append(str(tmp_path / f"{i}.png"))
        Path(paths[-1]).write_bytes(data)
    client = sdk.InferenceHTTPClient(api_url=server.url, api_key=None)
    assert client.get_server_info().name == "clipref"

    seen: list[bytes] = []
    core = server.server.core
    decoded = core.image_embeddings

    async def recorded(model: Any, pictures: Any, share: Any) -> Any:
        seen.extend(picture.data for picture in pictures)
        return await decoded(model, pictures, share)

    core.image_embeddings = recorded

    def check(found: Any, expected: Any) -> None:
        """Embeddings in their order, each exactly that of what was sent: a JPEG that the client made of the file."""
        listed = found if isinstance(found, list) else [found]
        vectors = np.array([row for entry in listed for row in entry["embeddings"]], np.float32)
        assert vectors.shape == expected.shape and (cosines(vectors, expected) > 0.9).all()
        sent = model.embed_images(seen)
        assert all((sent == vector).all(axis=1).any() for vector in vectors) and len(sent) == len(vectors)
        seen.clear()

    texts = client.get_clip_text_embeddings(TEXTS)
    assert (np.array(texts["embeddings"], np.float32) == model.embed_text(TEXTS)).all()
    images = model.embed_images(PICTURES)
    check(client.get_clip_image_embeddings(paths[0]), images[:1])
    check(client.get_clip_image_embeddings(paths), images)
    with client.use_configuration(sdk.InferenceConfiguration(max_batch_size=3)):
        check(client.get_clip_image_embeddings(paths), images)
    check(asyncio.run(client.get_clip_image_embeddings_async(paths)), images)
    found = client.clip_compare(subject=paths[0], prompt=TEXTS)
    assert np.allclose(found["similarity"], model.compare(PICTURES[0], TEXTS), atol=0.1)
    found = client.clip_compare(subject=TEXTS[0], prompt=TEXTS, subject_type="text")
    assert found["similarity"] == model.compare(TEXTS[0], TEXTS, "text")
    errors = pytest.importorskip("inference_sdk.http.errors")
    with pytest.raises(errors.HTTPCallErrorError, match="this server has"):
        client.get_clip_text_embeddings("a", clip_version="ViT-B-16")
