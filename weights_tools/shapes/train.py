"""How the embedded models are trained: `python -m clipref.weights_tools.shapes.train vit|resnet OUT`.

The towers that are trained are clipref's own, called with operations that torch differentiates, so what is trained is
what the reference computes. The loss is CLIP's, with one change: a terse caption is true of several scenes in a batch,
and all of them count as its match. Beside it, linear heads name the attributes from either embedding; they make
training short and are thrown away. Needs torch, which nothing else here does; an hour on two cores is ample.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from clipref import AutoModel
from clipref.architecture import ImageConfig
from clipref.config import ClipConfig, ResNetConfig, TextConfig, ViTConfig, tensor_shapes
from clipref.files import write_whole
from clipref.kernels.torch import TorchOps
from clipref.nesting import nest
from clipref.preprocessing import preprocess
from clipref.tokenizer import Tokenizer
from clipref.towers import encoder

from ..folder import write_config, write_json
from . import captions, world
from .evaluate import HELD_OUT_SEEDS, SEARCH_SEEDS, held_out_accuracy, recall_at_1, training_scenes
from .vocabulary import learn_merges

if TYPE_CHECKING:
    from PIL.Image import Image

Tensor: TypeAlias = torch.Tensor
EMBED_DIM = 96


@dataclass(frozen=True)
class Recipe:
    """One model's shape and how long it is trained."""

    vision: ImageConfig
    steps: int
    learning_rate: float
    batch: int = 128


RECIPES = {
    "vit": Recipe(ViTConfig(48, 12, 128, 4, 4, 512), steps=5500, learning_rate=1e-3),
    "resnet": Recipe(ResNetConfig(64, (1, 1, 1, 1), 12, 6), steps=4000, learning_rate=2e-3),
}


class TrainingOps(TorchOps):
    """The operations of the backend `torch`, with BatchNorm as it is while training."""

    training = True

    def batch_norm(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        """With the batch's statistics while training, which also updates the running ones."""
        return F.batch_norm(x, running_mean, running_var, weight, bias, self.training, 0.1, 1e-5)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """In three steps, whose gradients take a tenth of the time of torch's attention in one, on a CPU and at the
        sizes of these models.
        """
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if visible is not None:
            scores = scores.masked_fill(~visible[:, None], -math.inf)
        return scores.softmax(-1).to(v.dtype) @ v


class Trainee:
    """A CLIP in torch: clipref's towers over trainable parameters, named as in a checkpoint."""

    def __init__(self, config: ClipConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.ops = TrainingOps()
        self.tensors = {name: initial(name, shape) for name, shape in tensor_shapes(config).items()}
        self.text: Any = nest(self.tensors)
        self.visual = self.text.pop("visual")
        self.logit_scale: Tensor = self.text.pop("logit_scale")

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[N, 3, R, R] -> unit vectors [N, E]"""
        y = encoder(self.config.vision)(self.ops, pixels, self.config.vision, **self.visual)
        return F.normalize(y.float(), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> unit vectors [N, E]"""
        ids = self.tokenizer(texts, self.config.text.context_length).astype(np.int64)
        config = self.config.text
        rows = (torch.from_numpy(np.array(x)) for x in config.single_texts(ids))
        y = encoder(config)(self.ops, *rows, config, **self.text)[:, 0]
        return F.normalize(y.float(), dim=-1)

    def save(self, folder: Path, merges: Sequence[tuple[str, str]]) -> None:
        """A checkpoint folder: products and convolutions in float16, the rest in float32.

        Each file is replaced whole, so that whoever has the one of an earlier step open keeps it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, tensor in self.tensors.items():
            wide = tensor.ndim < 2 or "embedding" in name
            tensors[name] = tensor.detach().numpy().astype(np.float32 if wide else np.float16)
        with write_whole(folder / "model.safetensors") as scratch:
            save_file(tensors, scratch)
        write_config(folder, self.config)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        with write_whole(folder / "merges.txt") as scratch:
            scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")


def initial(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor's value before training: variance-preserving products, ones for gains, zeros for biases."""
    if name.endswith("running_mean"):
        return torch.zeros(shape)
    if name.endswith("running_var"):
        return torch.ones(shape)
    if name == "logit_scale":
        value = torch.tensor(math.log(1 / 0.07))  # the CLIP paper, section 2.5
    elif name.endswith("bias"):
        value = torch.zeros(shape)
    elif len(shape) == 1 and "embedding" not in name:
        value = torch.ones(shape)
    elif "embedding" in name:
        value = torch.randn(shape) * 0.02
    else:
        fan_in = shape[0] if name in ("visual.proj", "text_projection") else math.prod(shape[1:])
        gain = 2.0 if "visual.layer" in name or name.startswith("visual.conv") else 0.5
        value = torch.randn(shape) * math.sqrt(gain / fan_in)
    return value.requires_grad_()


class Drawable(Protocol):
    """As much of a scene as is drawn of it."""

    @property
    def seed(self) -> int: ...

    def draw(self, size: int) -> Image: ...


def render(scene: Drawable, resolution: int) -> np.ndarray[Any, Any]:
    """A scene's preprocessed pixels, of a picture whose size varies, as pictures' sizes do."""
    size = (96, 128, 192)[scene.seed % 3]
    return preprocess(scene.draw(size), resolution).astype(np.float16)


def render_all(scenes: Sequence[Drawable], resolution: int) -> Tensor:
    """Pixels [N, 3, R, R] of many scenes, float16."""
    pixels = np.empty((len(scenes), 3, resolution, resolution), np.float16)  # once: it is gigabytes
    with ProcessPoolExecutor() as pool:
        for i, image in enumerate(pool.map(render, scenes, [resolution] * len(scenes), chunksize=100)):
            pixels[i] = image
    return torch.from_numpy(pixels)


def learning_rates(peak: float, steps: int) -> Iterator[float]:
    """A short warm-up, then half a cosine down to zero."""
    for step in range(steps):
        yield peak * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def decaying_adam(parameters: Sequence[Tensor]) -> torch.optim.AdamW:
    """AdamW, with weight decay for products and tables and none for gains and biases."""
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )


def indices(values: Sequence[Sequence[object]]) -> Tensor:
    """Attributes as numbers [N, attributes], -1 where one isn't mentioned."""
    tables = [{value: i for i, value in enumerate(choices)} for choices in world.ATTRIBUTES.values()]
    return torch.tensor([[t.get(v, -1) for t, v in zip(tables, row, strict=True)] for row in values])


def contrast(logits: Tensor, matches: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, where an item may have several matches: logits, matches [images, texts]."""
    rows = (F.log_softmax(logits, 1) * matches).sum(1) / matches.sum(1)
    columns = (F.log_softmax(logits, 0) * matches).sum(0) / matches.sum(0)
    return -(rows.mean() + columns.mean()) / 2


def train(recipe: Recipe, folder: Path, seed: int = 0) -> None:
    """Train one model and write its checkpoint, with what it scores, into `folder`."""
    torch.manual_seed(seed)
    rng = random.Random(f"train {seed}")
    scenes = training_scenes()
    corpus = [captions.sample(scene, rng).text for scene in scenes]
    corpus += [captions.caption(scene) for scene in scenes]
    merges = learn_merges(corpus, limit=400)
    tokenizer = Tokenizer(merges)
    text = TextConfig(32, tokenizer.vocab_size, width=96, layers=3, heads=3, mlp_width=384)
    trainee = Trainee(ClipConfig(EMBED_DIM, recipe.vision, text), tokenizer)
    heads = [torch.randn(len(v), EMBED_DIM).mul(0.1).requires_grad_() for v in world.ATTRIBUTES.values()]
    parameters = [*trainee.parameters().values(), *heads]
    print(
        f"{sum(p.numel() for p in trainee.parameters().values())} parameters, {tokenizer.vocab_size} tokens", flush=True
    )

    started = time.perf_counter()
    pixels = render_all(scenes, recipe.vision.resolution)
    truth = indices([scene.attributes for scene in scenes])
    print(f"{len(pixels)} scenes drawn in {time.perf_counter() - started:.0f} s", flush=True)
    check = Progress(trainee)

    optimizer = decaying_adam(parameters)
    started = time.perf_counter()
    for step, rate in enumerate(learning_rates(recipe.learning_rate, recipe.steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.tensor(rng.sample(range(len(scenes)), recipe.batch))
        said = [captions.sample(scenes[i], rng) for i in chosen.tolist()]
        mentioned = indices([caption.mentioned for caption in said])
        true_of = ((truth[chosen][:, None] == mentioned) | (mentioned < 0)).all(-1).float()  # [images, texts]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            images = trainee.encode_image(pixels[chosen].float())
            texts = trainee.encode_text([caption.text for caption in said])
        loss = contrast(trainee.logit_scale.exp() * images @ texts.T, true_of)
        for i, head in enumerate(heads):
            loss = loss + F.cross_entropy(20 * images @ head.T, truth[chosen, i])
            loss = loss + F.cross_entropy(20 * texts @ head.T, mentioned[:, i], ignore_index=-1)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            trainee.logit_scale.clamp_(max=math.log(100))
        if step % 250 == 0 or step == recipe.steps:
            trainee.save(folder, merges)
            minutes = (time.perf_counter() - started) / 60
            print(f"step {step}, {minutes:.1f} min, loss {loss.item():.3f}, {check()}", flush=True)

    scores = score(folder)
    provenance = {
        "made by": "python -m clipref.weights_tools.shapes.train",
        "recipe": repr(recipe),
        "seed": seed,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "scores": scores,
    }
    write_json(folder / "provenance.json", provenance)
    print(json.dumps(scores))


class Progress:
    """What the model in training scores, under torch."""

    def __init__(self, trainee: Trainee) -> None:
        self.trainee = trainee
        resolution = trainee.config.vision.resolution
        self.unseen = render_all([world.scene(seed, True) for seed in HELD_OUT_SEEDS[:300]], resolution)
        self.varied = render_all([world.scene(seed) for seed in SEARCH_SEEDS[:200]], resolution)

    def __call__(self) -> str:
        trainee = self.trainee
        trainee.ops.training = False
        with torch.no_grad():
            prompts = trainee.encode_text([captions.class_prompt(*pair) for pair in world.CLASSES])
            best = (trainee.encode_image(self.unseen.float()) @ prompts.T).argmax(1).tolist()
            scenes = [world.scene(seed, True) for seed in HELD_OUT_SEEDS[:300]]
            named = [world.CLASSES[i] for i in best]
            right = [pair == (s.colour, s.shape) for pair, s in zip(named, scenes, strict=True)]
            colour = [pair[0] == s.colour for pair, s in zip(named, scenes, strict=True)]
            whole = [captions.caption(world.scene(seed)) for seed in SEARCH_SEEDS[:200]]
            found = (trainee.encode_text(whole) @ trainee.encode_image(self.varied.float()).T).argmax(1)
            recall = (found == torch.arange(200)).float().mean().item()
        trainee.ops.training = True
        return f"held-out {np.mean(right):.3f} (colour {np.mean(colour):.3f}), recall@1 {recall:.3f}"


def score(folder: Path) -> dict[str, float]:
    """What a checkpoint scores through clipref itself."""
    model = AutoModel.from_pretrained(folder)
    return {"held-out accuracy": held_out_accuracy(model), "recall@1": recall_at_1(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(RECIPES[args.model], args.out, args.seed)


if __name__ == "__main__":
    main()
