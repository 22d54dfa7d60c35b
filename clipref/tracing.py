"""Named activations of the towers, looked at and replaced, with not a word about it in the towers.

A tower hands its `tap` what lies between its parts. What lies inside of attention and of an MLP passes through
operations only, so `Watch` stands in their place and in the tap's, and names both. Names are the checkpoint's module
paths; what has none there is called after its module: `visual.transformer.resblocks.3.attn.weights`.

    visual.conv1, token_embedding            patches [N, G*G, W]; tokens [N, L, W]
    visual.positional_embedding              those, and the class token, with their positions [N, L, W]
    ….resblocks.3.ln_1, .attn, .ln_2, .mlp   parts of a block [N, L, W], and ….resblocks.3 the block's result
    ….attn.q, .k, .v, .heads                 a head at a time, [N, H, L, D]; `heads` before they are put together
    ….attn.weights                           attention [N, H, Q, L], which sums to 1 over L
    ….mlp.c_fc, .mlp.gelu                    the hidden layer before and after its activation [N, L, M]
    visual.transformer, transformer          all positions after the last block [N, L, W]
    visual.layer4.0, .relu1, ...             a ResNet's feature maps [N, C, R, R]
    visual.attnpool.q, .weights, ...         inside its attention pool, whose only query is the mean
    visual.ln_post, ln_final                 the pooled token, normalised; visual and text_projection are embeddings

The last block computes the pooled position only: its queries, weights and results have one, Q = 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import ops as reference_ops
from .arguments import as_array, brief, check_ordered, elements, is_one_image, listed_labels, listed_texts
from .engine import TowerEngine, checked_pixels
from .errors import BackendError, ImageError, InputError, with_index
from .loading import preprocessor
from .text_transformer import causal
from .texts import checked_ids
from .transformer import no_tap, resblock

if TYPE_CHECKING:
    from .clip import CLIP

Array: TypeAlias = NDArray[Any]
Edits: TypeAlias = Mapping[str, Any]  # by name: a function of the activation, or what stands in its place

# Names that are shown and can't be edited: what towers are given, and what a last block makes of all positions.
INPUTS = ("pixels", "ids")
ALL_POSITIONS = ("visual.transformer", "transformer")
# Hooks of a kernel set that a trace makes no use of: weights are laid out already, and items go one at a time.
_HIDDEN = ("prepare", "compile", "batch_size", "in_parts")


class Trace(dict[str, Array]):
    """Activations by name, in the order in which they were computed. An unknown name is an InputError."""

    def __missing__(self, name: str) -> Array:
        raise unknown(name, self)


def trace(
    model: CLIP,
    image: Any,
    text: Any,
    pixels: Any,
    ids: Any,
    edit: Any,
    only: Any,
    input_color_format: str | None,
) -> Trace:
    """What `CLIP.trace` gives, which says what is raised."""
    edits, patterns = checked_edits(edit), checked_patterns(only)
    given = given_pixels(model, image, pixels, input_color_format), given_ids(model, text, ids)
    if all(x is None for x in given):
        raise InputError("Nothing to trace; give an image, a text or both.")
    engine = editing_engine(model) if edits or isinstance(model.engine, TowerEngine) else model.reference
    with model.weights_in_use():
        return traced(engine, *given, edits, patterns)


def unknown(name: Any, names: Collection[str]) -> InputError:
    """The error for a name that no activation has."""
    near = difflib.get_close_matches(str(name), names, n=3)
    more = f" and {len(names) - 40} more" if len(names) > 40 else ""
    there = f"there are: {', '.join(list(names)[:40])}{more}."
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else there
    return InputError(f"No activation {brief(name)}; {hint}")


class Watch:
    """The operations of a kernel set, and the tap of a tower, for the item `index` of `count`.

    `seen` gets the activations that `wanted` says yes to, as numpy arrays of their own; `names` has all of them. What
    `edits` has under a name goes on in the activation's place.
    """

    def __init__(self, ops: Any, edits: Edits, wanted: Callable[[str], bool], index: int = 0, count: int = 1) -> None:
        self._ops, self._edits, self._wanted = ops, edits, wanted
        self._item = index, count
        self._place: Callable[[Array], Any] = getattr(ops, "place", np.asarray)
        self._fetch: Callable[[Any], Array] = getattr(ops, "fetch", np.asarray)
        self._at = ""  # the activation that was named last
        self._normalised: Any = None  # what the last LayerNorm was given
        self._visible: Any = None  # what each token of a text may see
        self.last_block: tuple[str, Any, Any] | None = None  # its name, configuration and parameters
        self.seen = Trace()
        self.names: dict[str, None] = {}

    def __getattr__(self, name: str) -> Any:
        if name in _HIDDEN:
            raise AttributeError(name)
        return getattr(self._ops, name)

    def tap(self, name: str, x: Any) -> Any:
        """Show an activation, and return it or what stands in its place."""
        self._at = name
        self.names[name] = None
        if name in self._edits:
            x = self._place(edited(name, self._edits[name], self._fetch(x), *self._item))
        self.record(name, x)
        if self.last_block and name == f"{self.last_block[0]}.ln_1":
            self._finish_all_positions(*self.last_block)
        return x

    def record(self, name: str, x: Any) -> None:
        """Show what can't be replaced."""
        self.names[name] = None
        if self._wanted(name):
            self.seen[name] = np.array(self._fetch(x), order="C")

    def _finish_all_positions(self, block: str, config: Any, params: Any) -> None:
        """What the last block makes of all positions, of which the tower goes on to compute only the pooled one."""
        name = block.partition(".resblocks")[0]
        if any(edit == block or edit.startswith(f"{block}.") for edit in self._edits):
            return  # an edit is of the pooled position, and fits no other
        if self._wanted(name):
            x = resblock(self._ops, self._normalised, config, self._visible, None, no_tap, block, **params)
            self.record(name, x)
        self.names[name] = None

    def embed(self, ids: Any, weight: Any) -> Any:
        """Token ids [N, L], cut as they are computed."""
        self.record("ids", ids)
        self._visible = self._place(causal(ids))  # unless a block that computes all positions says otherwise
        return self._ops.embed(ids, weight)

    def add_positions(self, *arguments: Any) -> Any:
        """What a transformer, or the attention pool, is given."""
        towers = {"visual.conv1": "visual.", "token_embedding": ""}
        name = f"{towers.get(self._at, 'visual.attnpool.')}positional_embedding"
        return self.tap(name, self._ops.add_positions(*arguments))

    def layer_norm(self, x: Any, weight: Any, bias: Any) -> Any:
        """Keeps what comes in, of which a tower shows only what comes out."""
        self._normalised = x
        return self._ops.layer_norm(x, weight, bias)

    def attention(self, q: Any, k: Any, v: Any, visible: Any = None) -> Any:
        """Everything inside, a head at a time."""
        if visible is not None and q.shape[2] == k.shape[2]:
            self._visible = visible
        name = f"{self._at.removesuffix('.ln_1')}.attn" if self._at.endswith(".ln_1") else "visual.attnpool"
        q, k, v = (self.tap(f"{name}.{part}", x) for part, x in (("q", q), ("k", k), ("v", v)))
        weights = f"{name}.weights"
        self.names[weights] = None
        if weights in self._edits:
            y = self.tap(weights, self._weights(q, k, visible)) @ v
        else:
            if self._wanted(weights):
                self.record(weights, self._weights(q, k, visible))
            y = self._ops.attention(q, k, v, visible)
        return self.tap(f"{name}.heads", y)

    def _weights(self, q: Any, k: Any, visible: Any) -> Any:
        """Attention [N, H, Q, K]: what attention makes of the identity, v being [K, K]."""
        queries, keys = self._fetch(q), self._fetch(k)
        mask = None if visible is None else np.asarray(self._fetch(visible)).astype(bool)
        identity = np.eye(keys.shape[2], dtype=keys.dtype)
        return self._place(reference_ops.attention(queries, keys, identity, mask))

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        """The first one after ln_2 makes the hidden layer."""
        y = self._ops.linear(x, weight, bias)
        return self.tap(f"{self._at.removesuffix('.ln_2')}.mlp.c_fc", y) if self._at.endswith(".ln_2") else y

    def quick_gelu(self, x: Any) -> Any:
        """Of a hidden layer; OpenAI's module path says gelu for either."""
        return self._tap_activation(self._ops.quick_gelu(x))

    def gelu(self, x: Any) -> Any:
        """Of a hidden layer."""
        return self._tap_activation(self._ops.gelu(x))

    def _tap_activation(self, y: Any) -> Any:
        return self.tap(f"{self._at.removesuffix('.c_fc')}.gelu", y)


def edited(name: str, edit: Any, x: Array, index: int, count: int) -> Array:
    """What stands in the place of x [1, ...], the item `index` of `count`. Raises InputError for another shape."""
    expected = f"expected numbers of shape {x.shape}, or what broadcasts to it"
    y = as_array(edit(x.copy()) if callable(edit) else edit, f"The edit of {name!r}", expected)
    if y.dtype.kind not in "fiub":
        raise InputError(f"The edit of {name!r} is {brief(y)}; {expected}.")
    if y.ndim == x.ndim and len(y) == count:
        y = y[index : index + 1]
    try:
        return np.array(np.broadcast_to(y, x.shape), x.dtype)
    except ValueError:
        raise InputError(f"The edit of {name!r} has shape {y.shape}; {expected}.") from None


def traced(
    engine: TowerEngine, pixels: Array | None, ids: Array | None, edits: Edits, only: Sequence[str] | None
) -> Trace:
    """Activations of checked pixels [N, 3, R, R] and token ids [N, T], item by item, so that none has another's bits.

    Texts of several lengths are put together with NaN where the shorter have no position (0 in `ids`). Raises
    InputError for an edit or a pattern that no name has.
    """
    names: dict[str, None] = {}

    def is_wanted(name: str) -> bool:
        return only is None or any(fnmatchcase(name, pattern) for pattern in only)

    def trace_tower(inputs: Array, tower: str) -> Trace:
        found = []
        for i in range(len(inputs)):
            watch = Watch(engine.ops, edits, is_wanted, i, len(inputs))
            runner = TowerEngine(engine.config, {"visual": engine.visual, "text": engine.text}, watch, engine.dtype)
            watch.last_block = last_block(engine, tower)
            item = inputs[i : i + 1]
            if tower == "visual":
                watch.names["pixels"] = None
                if is_wanted("pixels"):
                    watch.seen["pixels"] = item.copy()
                runner.encode_image(item, watch.tap)
            else:
                runner.encode_text(item, watch.tap)
            names.update(watch.names)
            found.append(watch.seen)
        return Trace({name: together([item[name] for item in found]) for name in found[0]})

    seen = Trace()
    for inputs, tower in ((pixels, "visual"), (ids, "text")):
        if inputs is not None:
            seen |= trace_tower(inputs, tower)
    for name in edits:
        if name in INPUTS:
            raise InputError(f"{name!r} is what a tower is given; change it, and give it: trace({name}=...).")
        if name in names and name in ALL_POSITIONS:
            raise InputError(f"{name!r} is shown for all positions and used for one; edit the last block's parts.")
        if name not in names:
            raise unknown(name, [n for n in names if n not in (*INPUTS, *ALL_POSITIONS)])
    for pattern in only or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown(pattern, names)
    return seen


def last_block(engine: TowerEngine, tower: str) -> tuple[str, Any, Any] | None:
    """Name, configuration and parameters of a transformer's last block; None for a ResNet."""
    params = engine.visual() if tower == "visual" else engine.text()
    if "transformer" not in params:
        return None
    blocks = params["transformer"]["resblocks"]
    prefix = "visual." if tower == "visual" else ""
    config = engine.config.vision if tower == "visual" else engine.config.text
    return f"{prefix}transformer.resblocks.{len(blocks) - 1}", config, blocks[-1]


def together(arrays: Sequence[Array]) -> Array:
    """Arrays [1, ...] as one [N, ...], the shorter ones filled up at the end of each axis."""
    shapes = np.array([x.shape for x in arrays])
    longest = shapes.max(axis=0)
    if (shapes == longest).all():
        return np.concatenate(arrays)
    whole = np.full((len(arrays), *longest[1:]), np.nan if arrays[0].dtype.kind == "f" else 0, arrays[0].dtype)
    for item, x in zip(whole, arrays, strict=True):
        item[tuple(map(slice, x.shape[1:]))] = x[0]
    return whole


def editing_engine(model: CLIP) -> TowerEngine:
    """The model's own engine. Raises BackendError where it has no place for another tensor."""
    if isinstance(model.engine, TowerEngine):
        return model.engine
    raise BackendError(
        f"The backend {model.backend!r} runs a recorded graph, in which no activation can be replaced; open the model "
        f"with backend='reference', or with another that runs the towers themselves, such as 'blas' or 'torch'."
    )


def checked_edits(edit: Any) -> Edits:
    """Edits by name. Raises InputError for anything but a dict."""
    if edit is None:
        return {}
    if not isinstance(edit, Mapping):
        raise InputError(f"edit is {brief(edit)}; expected a dict of names and functions or arrays.")
    return edit


def checked_patterns(only: Any) -> Sequence[str] | None:
    """Names, with * for any part of them. Raises InputError for what is no text."""
    return None if only is None else [only] if isinstance(only, str) else listed_labels("only", only)


def given_pixels(model: CLIP, image: Any, pixels: Any, input_color_format: str | None = None) -> Array | None:
    """Pixels [N, 3, R, R] of an image, of several, or as they are given; None without either.

    Raises ImageError, or InputError where both are given.
    """
    if image is not None and pixels is not None:
        raise InputError("Both an image and pixels are given; expected one of them.")
    if pixels is not None:
        return checked_pixels(pixels, model.config.vision.resolution, model.dtype)
    if image is None:
        return None
    pixels_of = preprocessor(model.config, input_color_format, model.max_pixels)
    if is_one_image(image):
        return np.asarray(pixels_of(image)[None], model.dtype)
    found = []
    for i, item in enumerate(_list_of_images(image)):
        try:
            found.append(pixels_of(item))
        except ImageError as error:
            raise with_index(error, "image", i, item) from error
    return np.stack(found).astype(model.dtype)


def _list_of_images(images: Iterable[Any]) -> list[Any]:
    """Several images in their order. Raises InputError if there are none."""
    expected = "expected an image, or a list of images"
    check_ordered(images, "images", expected)
    found = list(elements(images, "images", expected))
    if not found:
        raise InputError("No images were given; expected at least one.")
    return found


def given_ids(model: CLIP, text: Any, ids: Any) -> Array | None:
    """Token ids [N, T] of a text, of several, or as they are given; None without either.

    Raises TextError, or InputError where both are given.
    """
    if text is not None and ids is not None:
        raise InputError("Both a text and ids are given; expected one of them.")
    if ids is not None:
        return checked_ids(ids, model.config.text)
    return None if text is None else model.tokenize(listed_texts(text))
