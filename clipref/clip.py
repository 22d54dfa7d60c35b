"""The user's object: images and texts in, embeddings, cosines and probabilities out, whatever engine computes them.

`embed_image`, `embed_text` and `compare` take the arguments of the CLIP of https://github.com/roboflow/inference, and
`embed_images`, `embed_text` and `compare_embeddings` those of its inference_models. What they return are numpy's arrays
and Python's numbers, never torch's. Embeddings are raw, as CLIP returns them, unless `normalize=True`.

Images are whatever `clipref.preprocess` takes: a path, bytes, a PIL image, an array (BGR unless
`input_color_format="rgb"`), a torch tensor (RGB unless "bgr"). Where images or texts are compared, their embeddings
may be given instead: floats [E] or [N, E].

No answer is NaN or infinite: weights that lead there are a WeightsError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from .arguments import brief, check_choice, check_count, check_ordered, is_one, is_one_image, is_true, listed_texts
from .backends import make_engine
from .classifier import TEMPLATES, Classifier, label_embeddings, labels_and_templates
from .config import NoTower
from .directions import Kind, checked_embeddings, directions
from .engine import ReferenceEngine, checked_pixels
from .errors import ImageError, InputError
from .image_batches import embedded_batches
from .lazy import available_threads, once
from .loading import AN_IMAGE_OR_SEVERAL, import_libraries, preprocessed_batches, preprocessor, with_gaps
from .memory import Memory
from .similarity import cosines, finite_embeddings, nearest
from .texts import check_tokenizer, checked_ids, embed_rows, rows_of
from .tokenizer import Tokenizer
from .tracing import Trace, trace
from .weights import Checkpoint, DType

Array: TypeAlias = NDArray[Any]
OnError: TypeAlias = Literal["raise", "skip", "null"]

# Embeddings of texts that a model keeps: at 1024 float32 each, 16 MB.
REMEMBERED_TEXTS = 4096
# Sets of labels whose embeddings a model keeps: at 1,000 labels of 1024 float32 each, 32 MB.
REMEMBERED_LABEL_SETS = 8
# The most labels of a set that is remembered although whoever asked for its embeddings has them: 64 MB, likewise.
REMEMBERED_LABELS = 16384


class CLIP:
    """A CLIP behind one engine. Safe to call from several threads.

    `AutoModel.from_pretrained` opens one. Its `config` has the sizes: E is `embed_dim`, R the images' resolution in
    pixels, T at most the texts' context length. `backend`, `precision` and `fidelity` say what computes, in what, and
    how near it comes; `logit_scale`, a float, is what cosines are multiplied by to be logits.

    >>> from clipref import AutoModel
    >>> from clipref.weights_tools.shapes.world import scene
    >>> model = AutoModel.from_pretrained("clipref/shapes-vit")
    >>> circle, square = scene(9).draw(), scene(4).draw()  # PIL images, which the examples below use

    Pickled or copied, it is opened anew from where it came from, with the same backend and options. Whatever uses the
    weights raises WeightsError if their file was written to since it was opened; see `SafetensorsFile.guard`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: str | Sequence[str] = "auto",
        dtype: DType = "float32",
        *,
        max_pixels: int | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(checkpoint, Checkpoint):
            raise InputError(f"checkpoint is {brief(checkpoint)}; AutoModel.from_pretrained opens models by name.")
        if max_pixels is not None:
            check_count("max_pixels", max_pixels)
        checkpoint.check_small_tensors()
        self.config = checkpoint.config
        import_libraries(self.config)
        self.dtype: DType = dtype
        self.max_pixels = max_pixels
        self.logit_scale = checkpoint.logit_scale
        self.backend, self.engine, self.precision, self.fidelity = make_engine(backend, checkpoint, dtype, **options)
        self._tokenizer = once(
            lambda: Tokenizer.default() if checkpoint.merges is None else Tokenizer.from_file(checkpoint.merges)
        )
        self.text_memory: Memory[tuple[int, ...], Array] = Memory(REMEMBERED_TEXTS)
        self._label_sets: Memory[Any, Array] = Memory(REMEMBERED_LABEL_SETS)
        # The numpy towers, for what looks inside: they share no memory with another engine, and take none until used.
        self.reference = self.engine if isinstance(self.engine, ReferenceEngine) else ReferenceEngine(checkpoint, dtype)
        self._checkpoint = checkpoint
        self.source = str(checkpoint.file.path)  # where it came from: an id, of some revision, or a path
        self.revision: str | None = None
        self._options = options

    def __repr__(self) -> str:
        vision = self.config.vision
        towers = "text tower" if isinstance(vision, NoTower) else f"{vision.title} at {vision.resolution} px"
        return f"CLIP({towers}, backend={self.backend!r}, dtype={self.dtype!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        from .model import reopen

        options = {"max_pixels": self.max_pixels, **self._options}
        return reopen, (self.source, self.revision, self.digest, self.config, self.backend, self.dtype, options)

    @property
    def digest(self) -> str:
        """One digest over all tensors of the checkpoint, whatever file they lie in."""
        return self._checkpoint.digest

    def encode_image(self, pixels: Array) -> Array:
        """Preprocessed pixels [N, 3, R, R] float, all finite -> embeddings [N, E]. Raises InputError, WeightsError.

        >>> from clipref import preprocess
        >>> model.encode_image(preprocess(circle, resolution=48)[None]).shape
        (1, 96)
        """
        pixels = checked_pixels(pixels, self.config.vision.resolution, self.dtype)
        with self.weights_in_use():
            embeddings = self.engine.encode_image(pixels)
        return finite_embeddings(embeddings, "item", range(len(pixels)))

    def encode_text(self, ids: Array) -> Array:
        """Token ids [N, T] int, T at most the context length -> embeddings [N, E]. Raises InputError, WeightsError.

        >>> model.encode_text(model.tokenize(["a circle", "a ring"])).shape
        (2, 96)
        """
        ids = checked_ids(ids, self.config.text)
        with self.weights_in_use():
            embeddings = self.engine.encode_text(ids)
        return finite_embeddings(embeddings, "item", range(len(ids)))

    @contextmanager
    def weights_in_use(self) -> Iterator[None]:
        """For whatever computes with the weights. What overflows is silent here, and refused by `finite_embeddings`.

        >>> with model.weights_in_use():
        ...     features = model.engine.encode_text(model.tokenize("a circle"))
        """
        with self._checkpoint.file.guard(), np.errstate(over="ignore", invalid="ignore"):
            yield

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its vocabulary. Raises InputError where it isn't the one it was trained with."""
        text = self.config.text
        check_tokenizer(text)
        tokenizer: Tokenizer = self._tokenizer()
        tokenizer.check_vocabulary(text.vocab_size, text.end_of_text)
        return tokenizer

    def tokenize(self, texts: str | Iterable[str], truncate: bool = False) -> NDArray[np.int32]:
        """Texts -> token ids [N, T] int32 in this model's vocabulary. Raises TextError, InputError.

        >>> model.tokenize("a circle")[0, :5]
        array([767, 320, 699, 768,   0], dtype=int32)
        """
        return self.tokenizer(texts, self.config.text.context_length, truncate)

    def embed_image(
        self,
        image: Any,
        *,
        normalize: bool = False,
        input_color_format: str | None = None,
        max_pixels: int | None = None,
    ) -> Array:
        """One image -> [1, E] of the model's dtype; a list of images -> [N, E], as `embed_images`. Raises ImageError.

        >>> model.embed_image(circle).shape
        (1, 96)
        """
        images = image if isinstance(image, list | tuple) else [image]
        return self.embed_images(
            images, normalize=normalize, input_color_format=input_color_format, max_pixels=max_pixels
        )

    def embed_images(
        self,
        images: Iterable[Any],
        *,
        normalize: bool = False,
        input_color_format: str | None = None,
        batch_size: int = 32,
        progress: bool = False,
        workers: int | None = None,
        max_pixels: int | None = None,
        on_error: OnError = "raise",
        errors: list[ImageError] | None = None,
    ) -> Array:
        """Any iterable of images, or an array of them [N, H, W, C] -> [N, E] of the model's dtype.

        Paths and bytes are read and preprocessed by `workers` threads (as many as there are processors) while the
        engine is at work. No more than two batches are in memory at a time. `progress` shows a bar on standard error,
        which counts what is embedded. `max_pixels` is the largest image that is read, if not the model's own.

        An image that can't be read ends the call with its ImageError, which has its `index`, counted from 0, and its
        `source`. With `on_error="skip"` it is left out, and with "null" its row is NaN; the errors are then appended to
        the list `errors`, if one is given: their indices say which rows are missing.

        Raises ImageError; InputError for another argument, and if there are no images; WeightsError.

        >>> errors = []
        >>> model.embed_images([circle, "gone.png", square], on_error="skip", errors=errors).shape
        (2, 96)
        >>> errors[0].index, errors[0].source
        (1, 'gone.png')
        """
        check_count("batch_size", batch_size)
        for name, value in (("workers", workers), ("max_pixels", max_pixels)):
            if value is not None:
                check_count(name, value)
        check_choice("on_error", on_error, get_args(OnError))
        if errors is not None and not isinstance(errors, list):
            raise InputError(f"errors is {brief(errors)}; expected a list, which the errors are appended to.")
        normalize, progress = is_true("normalize", normalize), is_true("progress", progress)
        pixels_of = preprocessor(self.config, input_color_format, max_pixels or self.max_pixels)
        if is_one_image(images):
            images = [images]
        check_ordered(images, "images", AN_IMAGE_OR_SEVERAL)
        failed: dict[int, ImageError] = {}
        kept = None if on_error == "raise" else failed
        read = preprocessed_batches(images, pixels_of, workers or available_threads(), batch_size, kept, progress)
        batches = [rows for _, rows in embedded_batches(self, read, normalize=normalize)]
        if not batches and not failed:
            raise InputError("No images were given; expected at least one.")
        if errors is not None:
            errors += failed.values()
        embeddings = np.concatenate([np.empty((0, self.config.embed_dim), self.dtype), *batches])
        return with_gaps(embeddings, list(failed)) if on_error == "null" else embeddings

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

        >>> model.embed_text(["a blue circle", "a purple square"], normalize=True).shape
        (2, 96)
        """
        given = [x for x in (text, texts) if x is not None]
        if len(given) != 1:
            found = "None" if not given else "given twice"
            raise InputError(f"The texts are {found}; expected a text, or a list of texts, given once.")
        rows = rows_of(listed_texts(given[0]), self.tokenizer, self.config.text.context_length, truncate)
        return embed_rows(self, rows, is_true("normalize", normalize))

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
        its keys. Several subjects give a list of those. Raises ImageError, TextError or InputError.

        >>> model.compare(circle, {"circle": "a blue circle", "square": "a purple square"})
        {'circle': 0.44..., 'square': 0.06...}
        >>> model.compare("a red ring", ["a ring", "a ring of red"], subject_type="text")
        [0.49..., 0.9...]
        """
        names = list(prompt) if isinstance(prompt, Mapping) else None
        prompts = list(prompt.values()) if isinstance(prompt, Mapping) else prompt
        subjects = directions(self, subject, subject_type, "subject_type", input_color_format)
        against = directions(self, prompts, prompt_type, "prompt_type", input_color_format)
        found = cosines(subjects[:, None], against).tolist()  # [subjects, prompts]
        rows = [row if names is None else dict(zip(names, row, strict=True)) for row in found]
        return rows[0] if is_one(subject, subject_type, self.config.embed_dim) else rows

    def compare_embeddings(
        self, x: Any, y: Any, x_type: Kind = "image", y_type: Kind = "text", *, input_color_format: str | None = None
    ) -> Array:
        """Cosines [Nx, Ny] of all of `x` with all of `y`: images, texts, or embeddings [N, E].

        Raises ImageError, TextError or InputError.

        >>> model.compare_embeddings([circle, square], ["a blue circle", "a purple square"]).shape
        (2, 2)
        """
        left = directions(self, x, x_type, "x_type", input_color_format)
        right = directions(self, y, y_type, "y_type", input_color_format)
        return cosines(left[:, None], right)

    def classifier(self, labels: Iterable[str], templates: Iterable[str] = TEMPLATES) -> Classifier:
        """Labels embedded once, to classify many images among them. Raises InputError, TextError.

        >>> shapes = model.classifier(["circle", "square"], templates=["a {}", "one {}"])
        >>> [shapes.classify(image, top_k=1)[0][0] for image in (circle, square)]
        ['circle', 'square']
        """
        given, into = labels_and_templates(labels, templates)
        embeddings = self._label_sets.get((given, into))
        if embeddings is None:
            embeddings = label_embeddings(self, given, into)
            self._label_sets.put((given, into), embeddings)
        return Classifier(self, given, into, embeddings)

    def classify(
        self,
        image: Any,
        labels: Iterable[str],
        templates: Iterable[str] = TEMPLATES,
        top_k: int = 5,
        *,
        input_color_format: str | None = None,
    ) -> Any:
        """Zero-shot classification: the `top_k` most probable (label, probability), best first.

        A label's embedding is the mean of its normalised embeddings in all templates, as in the CLIP paper, section
        3.1.4; probabilities come from the checkpoint's own logit scale. A list of images gives a list of those. The
        last sets of labels are remembered; `classifier` makes an object of one. Raises ImageError, TextError or
        InputError.

        >>> model.classify(circle, ["circle", "square"], templates="a {}")
        [('circle', 0.99...), ('square', 0.00...)]
        """
        check_count("top_k", top_k)
        classifier = self.classifier(labels, templates)
        return classifier.classify(image, top_k, input_color_format=input_color_format)

    def label_embeddings(self, labels: Iterable[str], templates: Iterable[str] = TEMPLATES) -> Array:
        """Unit vectors [N, E] of labels, each the mean over the templates, in which `{}` stands for the label.

        The last sets of up to 16,384 labels are remembered; of larger ones, those of `classifier` and `classify`.

        >>> model.label_embeddings(["circle", "square"]).shape
        (2, 96)
        """
        given, into = labels_and_templates(labels, templates)
        if len(given) > REMEMBERED_LABELS and self._label_sets.get((given, into)) is None:
            return label_embeddings(self, given, into)
        return np.array(self.classifier(given, into).embeddings)

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

        Rows are read as they lie, a memory map too, and need not be unit vectors. Raises InputError for more queries
        than one, and for a row that is zero or not finite.

        >>> corpus = model.embed_images([circle, square])
        >>> model.search("a square", corpus, top_k=1)
        [(1, 0.43...)]
        """
        rows = checked_embeddings(embeddings, self.config.embed_dim)
        check_count("top_k", top_k)
        queries = directions(self, query, query_type, "query_type", input_color_format)
        if len(queries) != 1:
            raise InputError(f"The query is {len(queries)} items; expected one. Search for each by itself.")
        return nearest(queries[0], rows, int(top_k))

    def trace(
        self,
        image: Any = None,
        text: Any = None,
        *,
        pixels: Any = None,
        ids: Any = None,
        edit: Mapping[str, Any] | None = None,
        only: str | Iterable[str] | None = None,
        input_color_format: str | None = None,
    ) -> Trace:
        """Activations by name (clipref/tracing.py) of images (or pixels [N, 3, R, R]) and of texts (or ids [N, T]).

        `only`, names with * for any part of them, says which are kept. `edit` puts something in the place of an
        activation: a number, an array, or a function that is given what one item has there, [1, ...], and returns it
        changed. Computed by the model's backend if it runs the towers, else by the reference; then BackendError for an
        edit. Raises InputError, which names what is near a misspelt name, ImageError and TextError.

        >>> model.trace(image=circle)["visual.transformer.resblocks.0.mlp"].shape  # [N, L, W]
        (1, 17, 128)
        """
        return trace(self, image, text, pixels, ids, edit, only, input_color_format)
