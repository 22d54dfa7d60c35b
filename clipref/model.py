"""The user's object: images and texts in, embeddings, cosines and probabilities out, whatever engine computes them.

`embed_image`, `embed_text` and `compare` take the arguments of the CLIP of https://github.com/roboflow/inference, and
`embed_images` and `embed_text` those of its inference_models, which has `compare_embeddings` besides. What they return
are numpy's arrays and Python's numbers, never torch's. Embeddings are raw, as CLIP returns them, unless
`normalize=True`.

Images are whatever `clipref.preprocess` takes: a path, bytes, a PIL image, an array (BGR unless
`input_color_format="rgb"`), a torch tensor (RGB unless "bgr").
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from .backends import make_engine
from .config import Activation, ClipConfig
from .engine import Engine, ReferenceEngine, checked_pixels, is_count
from .errors import ClipError, InputError, TextError
from .hub import locate
from .lazy import available_threads, once
from .ops import softmax
from .preprocessing import preprocess
from .tokenizer import Tokenizer
from .trees import plant
from .weights import Checkpoint, DType

Array: TypeAlias = NDArray[Any]
T = TypeVar("T")
Kind: TypeAlias = Literal["image", "text"]
Cosines: TypeAlias = list[float] | dict[str, float]

# Embeddings of texts that a model keeps: at 1024 float32 each, 16 MB.
REMEMBERED_TEXTS = 4096
# Texts in a call of an engine that knows no trees.
TEXT_BATCH = 64


class AutoModel:
    """Makes a CLIP from a model id, a folder or a file."""

    @staticmethod
    def from_pretrained(
        name: str | os.PathLike[str],
        *,
        backend: str | Sequence[str] = "auto",
        dtype: DType = "float32",
        config: ClipConfig | None = None,
        activation: Activation | None = None,
        revision: str | None = None,
        digest: str | None = None,
        **options: Any,
    ) -> CLIP:
        """Open a checkpoint; its weights are read when a tower is first used.

        `name`: a published id ("clip/ViT-B-32"), an embedded model ("clipref/shapes-vit"), a folder with
        `model.safetensors`, or a `.safetensors` file. `backend`: "auto" takes the fastest installed, a list of names
        the first that runs; see `clipref.backends`, which `options` (`precision=` among them) are passed to. `dtype`:
        "float32", or "float64" for the reference.
        `config` overrides what the checkpoint says of itself, for instance heads or activation.

        Raises ModelNotFound, ConfigError, WeightsError or BackendError.
        """
        if dtype not in ("float32", "float64"):
            raise InputError(f"dtype is {dtype!r}; expected 'float32' or 'float64'.")
        path, known = locate(name, activation=activation, revision=revision, digest=digest)
        return CLIP(Checkpoint(path, config or known), backend, dtype, **options)


class CLIP:
    """A CLIP behind one engine. Safe to call from several threads."""

    def __init__(
        self, checkpoint: Checkpoint, backend: str | Sequence[str] = "auto", dtype: DType = "float32", **options: Any
    ) -> None:
        self.config = checkpoint.config
        self.dtype: DType = dtype
        self.logit_scale = checkpoint.logit_scale
        self.engine: Engine
        self.backend, self.engine, self.precision, self.fidelity = make_engine(backend, checkpoint, dtype, **options)
        self._tokenizer = once(
            lambda: Tokenizer.default() if checkpoint.merges is None else Tokenizer.from_file(checkpoint.merges)
        )
        self._embedded: dict[tuple[int, ...], Array] = {}
        self._lock = threading.Lock()
        # For trace; shares no memory with another engine, but takes none until it is used.
        self._reference = (
            self.engine if isinstance(self.engine, ReferenceEngine) else ReferenceEngine(checkpoint, dtype)
        )

    def __repr__(self) -> str:
        vision = type(self.config.vision).__name__.removesuffix("Config")
        return f"CLIP({vision} at {self.config.vision.resolution} px, backend={self.backend!r}, dtype={self.dtype!r})"

    def encode_image(self, pixels: Array) -> Array:
        """Preprocessed pixels [N, 3, R, R] float, all finite -> embeddings [N, E]. Raises InputError."""
        return self.engine.encode_image(checked_pixels(pixels, self.config.vision.resolution, self.dtype))

    def encode_text(self, ids: Array) -> Array:
        """Token ids [N, T] int, T at most the context length -> embeddings [N, E]. Raises InputError."""
        return self.engine.encode_text(self._checked_ids(ids))

    def _checked_ids(self, ids: Array) -> Array:
        ids = np.asarray(ids)
        text = self.config.text
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size or ids.shape[1] > text.context_length:
            raise InputError(
                f"ids are {ids.dtype} of shape {ids.shape}; expected integers [N, T], T up to {text.context_length}."
            )
        if ids.min() < 0 or ids.max() >= text.vocab_size:
            raise InputError(
                f"ids reach from {ids.min()} to {ids.max()}; the vocabulary has 0 to {text.vocab_size - 1}."
            )
        return ids

    def tokenize(self, texts: str | Iterable[str], truncate: bool = False) -> NDArray[np.int32]:
        """Texts -> token ids [N, T] int32 in this model's vocabulary. Raises TextError."""
        tokenizer: Tokenizer = self._tokenizer()
        if tokenizer.vocab_size != self.config.text.vocab_size:
            raise InputError(
                f"The merges give {tokenizer.vocab_size} tokens, but the model has {self.config.text.vocab_size}: "
                f"put the model's own merges.txt beside its weights."
            )
        return tokenizer(texts, self.config.text.context_length, truncate)

    def embed_image(self, image: Any, *, normalize: bool = False, input_color_format: str | None = None) -> Array:
        """One image -> [1, E]; a list of images -> [N, E], as `embed_images`. Raises ImageError."""
        images = image if isinstance(image, list | tuple) else [image]
        return self.embed_images(images, normalize=normalize, input_color_format=input_color_format)

    def embed_images(
        self,
        images: Iterable[Any],
        *,
        normalize: bool = False,
        input_color_format: str | None = None,
        batch_size: int = 32,
        progress: bool = False,
        workers: int | None = None,
    ) -> Array:
        """Any iterable of images, or an array of them [N, H, W, C] -> [N, E].

        Paths and bytes are read and preprocessed by `workers` threads (as many as there are processors) while the
        engine is at work. No more than two batches are in memory at a time. `progress` shows a bar on standard error.
        An error names the image, counted from 0. Raises ImageError, or InputError if there are none.
        """
        _check_count("batch_size", batch_size)
        if workers is not None:
            _check_count("workers", workers)
        if _is_one_image(images):
            images = [images]
        if isinstance(images, Mapping | set | frozenset):
            raise InputError(f"The images are a {type(images).__name__}; expected an image, or a list of images.")
        images = _with_progress(images) if progress else images
        pixels = self._preprocessed(images, input_color_format, workers or available_threads(), batch_size)
        batches = [self.encode_image(np.stack(batch)) for batch in _batches(pixels, batch_size)]
        if not batches:
            raise InputError("No images were given; expected at least one.")
        return _finish(np.concatenate(batches), normalize)

    def _preprocessed(
        self, images: Iterable[Any], input_color_format: str | None, workers: int, ahead: int
    ) -> Iterator[Array]:
        """Pixels of each image, in order, at most `ahead` of what is taken."""
        settings = dataclasses.asdict(self.config.preprocess)

        def pixels(i: int, image: Any) -> Array:
            side = self.config.vision.resolution
            try:
                return preprocess(image, side, input_color_format=input_color_format, **settings)
            except ClipError as error:
                raise type(error)(f"image {i}: {error}") from error

        pending: deque[Future[Array]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="clipref") as pool:
            try:
                for i, image in enumerate(images):
                    if isinstance(image, str | os.PathLike | bytes):
                        pending.append(pool.submit(pixels, i, image))
                    else:  # may change as soon as the next one is asked for, like the buffer of a video's frames
                        pending.append(_done(pixels, i, image))
                    if len(pending) > ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def embed_text(
        self,
        text: str | Iterable[str] | None = None,
        *,
        texts: str | Iterable[str] | None = None,
        normalize: bool = False,
        truncate: bool = False,
    ) -> Array:
        """One text -> [1, E]; several -> [N, E]. `texts` is another name for `text`, which inference_models has.

        A text that was there before is not computed again; what texts begin with in common is computed once, unless the
        reference computes it. Raises TextError if a text is empty, or longer than the context and not to be truncated.
        """
        given = [x for x in (text, texts) if x is not None]
        if len(given) != 1:
            raise InputError(f"The texts are {given or None}; expected a text, or a list of texts, given once.")
        ids = self.tokenize(given[0], truncate)
        empty = np.flatnonzero(ids[:, 1] == self.config.text.vocab_size - 1)
        if empty.size:
            raise TextError(
                f"text {empty[0]} is empty, and an empty text has no meaning to embed; "
                f"encode_text(tokenize('')) gives its vector nevertheless."
            )
        ends = ids.argmax(axis=1)
        return _finish(
            self._encode_texts([tuple(row[: end + 1]) for row, end in zip(ids.tolist(), ends, strict=True)]), normalize
        )

    def _encode_texts(self, texts: list[tuple[int, ...]]) -> Array:
        """Embeddings [N, E] of rows of token ids, each computed once; the last ones are remembered."""
        with self._lock:
            known = {text: self._embedded[text] for text in set(texts) if text in self._embedded}
        missing = list({text: None for text in texts if text not in known})
        for rows, embeddings in self._computed(missing):
            known |= {missing[i]: embedding for i, embedding in zip(rows, embeddings, strict=True)}
        with self._lock:
            for text in missing:
                self._embedded[text] = known[text]
            while len(self._embedded) > REMEMBERED_TEXTS:
                self._embedded.pop(next(iter(self._embedded)))
        return np.stack([known[text] for text in texts])

    def _computed(self, texts: list[tuple[int, ...]]) -> Iterator[tuple[list[int], Array]]:
        """Which texts, and their embeddings, some at a time: as trees if the engine has them, else by length."""
        if hasattr(self.engine, "encode_tree"):
            for tree in plant(texts):
                yield tree.texts, self.engine.encode_tree(tree.ids, tree.positions, tree.visible, tree.ends)[0]
            return
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for rows in _batches(order, TEXT_BATCH):
            ids = np.zeros((len(rows), len(texts[rows[-1]])), np.int64)
            for row, i in zip(ids, rows, strict=True):
                row[: len(texts[i])] = texts[i]
            yield rows, self.engine.encode_text(ids)

    def compare(
        self,
        subject: Any,
        prompt: Any,
        subject_type: Kind = "image",
        prompt_type: Kind = "text",
        *,
        input_color_format: str | None = None,
    ) -> Any:
        """Cosines of a subject with prompts, either side image or text.

        A prompt, or several (a list, or another iterable), gives a list of floats; a dict of prompts gives a dict with
        its keys. Several subjects give a list of those.
        """
        names = list(prompt) if isinstance(prompt, Mapping) else None
        prompts = list(prompt.values()) if isinstance(prompt, Mapping) else prompt
        subjects = self._embed(subject, subject_type, "subject_type", input_color_format)
        against = self._embed(prompts, prompt_type, "prompt_type", input_color_format)
        # A subject at a time, so that its cosines don't depend on the others.
        cosines = [(against @ subject).tolist() for subject in subjects]
        rows = [row if names is None else dict(zip(names, row, strict=True)) for row in cosines]
        return rows[0] if _is_one(subject, subject_type) else rows

    def _embed(self, items: Any, kind: Kind, argument: str, input_color_format: str | None) -> Array:
        if kind == "image":
            return self.embed_images(items, normalize=True, input_color_format=input_color_format)
        if kind == "text":
            return self.embed_text(items, normalize=True)
        raise InputError(f"{argument} is {kind!r}; expected 'image' or 'text'.")

    def classify(
        self,
        image: Any,
        labels: Iterable[str],
        templates: Iterable[str] = ("a photo of a {}",),
        top_k: int = 5,
        *,
        input_color_format: str | None = None,
    ) -> Any:
        """Zero-shot classification: the `top_k` most probable (label, probability), best first.

        A label's embedding is the mean of its normalised embeddings in all templates, as in the CLIP paper, section
        3.1.4; probabilities come from the checkpoint's own logit scale. A list of images gives a list of those.
        """
        labels = _listed("labels", labels)
        _check_count("top_k", top_k)
        images = self.embed_images(image, normalize=True, input_color_format=input_color_format)
        classes = self.label_embeddings(labels, templates)
        probabilities = [softmax(self.logit_scale * (classes @ embedding)) for embedding in images]
        rows = [[(labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top_k]] for row in probabilities]
        return rows[0] if _is_one(image, "image") else rows

    def label_embeddings(self, labels: Iterable[str], templates: Iterable[str] = ("a photo of a {}",)) -> Array:
        """Unit vectors [N, E] of labels, each the mean over the templates, in which `{}` stands for the label."""
        labels = _listed("labels", labels)
        templates = _listed("templates", [templates] if isinstance(templates, str) else templates)
        if not all("{}" in template for template in templates):
            raise InputError(f"templates are {templates!r}; expected at least one, each with a {{}} for the label.")
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        embeddings = self.embed_text(prompts, normalize=True)
        return _finish(embeddings.reshape(len(labels), len(templates), -1).mean(axis=1), normalize=True)

    def search(
        self,
        query: Any,
        embeddings: Array,
        top_k: int = 10,
        query_type: Kind = "text",
        *,
        input_color_format: str | None = None,
    ) -> list[tuple[int, float]]:
        """Semantic search: the rows of `embeddings` [N, E] nearest to the query, as (index, cosine), best first.

        Raises InputError for more queries than one, and for a row that is zero or not finite.
        """
        embeddings = np.asarray(embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.embed_dim or embeddings.dtype.kind not in "fiu":
            raise InputError(
                f"embeddings are {embeddings.dtype} of shape {embeddings.shape}; expected "
                f"[N, {self.config.embed_dim}] numbers, as embed_images gives them."
            )
        _check_count("top_k", top_k)
        queries = self._embed(query, query_type, "query_type", input_color_format)
        if len(queries) > 1:
            raise InputError(f"The query is {len(queries)} items; expected one. Search for each by itself.")
        rows = embeddings.astype(np.result_type(embeddings, np.float32), copy=False)  # float16 can't hold the squares
        with np.errstate(over="ignore"):
            lengths = np.linalg.norm(rows, axis=1)
        wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if wrong.size:
            raise InputError(
                f"Row {wrong[0]} of the embeddings is zero or not finite, and has no direction to compare "
                f"({wrong.size} such rows of {len(rows)}); leave it out, or embed its item again."
            )
        cosines = (rows / lengths[:, None]) @ queries[0]
        return [(int(i), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")[:top_k]]

    def trace(
        self, image: Any = None, text: str | None = None, *, input_color_format: str | None = None
    ) -> dict[str, Array]:
        """Every named activation of one image or one text or both, computed by the reference.

        Names are the checkpoint's module paths, such as `visual.transformer.resblocks.3.mlp`. Of the last block only
        the pooled position is there, because nothing else is computed.
        """
        if image is None and text is None:
            raise InputError("Nothing to trace; give an image, a text or both.")
        seen: dict[str, Array] = {}

        def tap(name: str, x: Array) -> Array:
            seen[name] = np.array(x)
            return x

        if image is not None:
            pixels = np.stack(list(self._preprocessed([image], input_color_format, 1, 1)))
            self._reference.encode_image(tap("pixels", pixels.astype(self.dtype)), tap)
        if text is not None:
            self._reference.encode_text(tap("ids", self.tokenize([text])), tap)
        return seen


def _done(function: Callable[..., Array], *arguments: Any) -> Future[Array]:
    """A call that is made at once, as if a pool had made it."""
    future: Future[Array] = Future()
    try:
        future.set_result(function(*arguments))
    except ClipError as error:
        future.set_exception(error)
    return future


def _is_one_image(images: Any) -> bool:
    """Whether this is one image, not several: a path, bytes, a file, a PIL image, an array of up to three axes."""
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike) or not isinstance(images, Iterable):
        return True
    return getattr(images, "ndim", 4) < 4 or hasattr(images, "read")


def _is_one(items: Any, kind: Kind) -> bool:
    return isinstance(items, str) if kind == "text" else _is_one_image(items)


def _listed(name: str, texts: Any) -> list[str]:
    """The texts of an argument, in their order. Raises InputError."""
    expected = "expected a list of at least one text"
    if isinstance(texts, str | Mapping | set | frozenset) or not isinstance(texts, Iterable):
        raise InputError(f"{name} are {texts!r}; {expected}.")
    listed = list(texts) if getattr(texts, "ndim", 1) else []
    other = [text for text in listed if not isinstance(text, str)]
    if other or not listed:
        raise InputError(f"{name} are {other[:1] or listed!r}; {expected}.")
    return listed


def _check_count(name: str, value: Any) -> None:
    if not is_count(value):
        raise InputError(f"{name} is {value!r}; expected a whole number, at least 1.")


def _finish(embeddings: Array, normalize: bool) -> Array:
    if not normalize:
        return embeddings
    unit: Array = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return unit


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _with_progress(items: Iterable[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, unit="image")
    return bar
