"""How the models of this world are trained: `python -m clipref.weights_tools.scenes.train RECIPE OUT`, of RECIPES.

The towers are clipref's own, called with operations that torch differentiates (`shapes.train.Trainee`). The loss has
three parts: CLIP's, in which a caption counts as a match of every scene in the batch that it is true of; the same
within a scene's variants and their captions, which differ only in what belongs to what; and linear heads that name
attributes from either embedding, make training short, and are thrown away. Each place of a ResNet's last map sees the
whole picture, and left to itself says everything everywhere; so what each adds to the embedding is asked what lies
there, by the heads and by texts. Needs torch; under an hour on two cores.

Two runs with the same torch, threads and machine give the same bytes; `--stop-after 200` shows it in a few minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from clipref import AutoModel
from clipref.config import ClipConfig, ResNetConfig, TextConfig, ViTConfig
from clipref.preprocessing import preprocess
from clipref.tokenizer import Tokenizer
from clipref.towers import encoder
from clipref.transformer import merge_heads, split_heads

from ..folder import write_json
from ..shapes.captions import class_prompt
from ..shapes.train import EMBED_DIM, Trainee, contrast, decaying_adam, learning_rates, render_all
from ..shapes.vocabulary import learn_merges
from . import captions, evaluate, world

Tensor: TypeAlias = torch.Tensor
COLOURS, SHAPES = (tuple(map(str, world.KIND[name])) for name in ("colour", "shape"))


@dataclass(frozen=True)
class Recipe:
    """One model's shape, what it is shown, and for how long."""

    vision: ViTConfig | ResNetConfig
    steps: int
    learning_rate: float
    ones: int = len(evaluate.TRAINING_ONES)
    twos: int = len(evaluate.TRAINING_TWOS)
    batch_of_ones: int = 48
    batch_of_twos: int = 20  # each with its variants
    named_alone: float = 0.15  # how often a caption of one kind leaves out its colour, and how often its shape
    largest: float = 1.0  # how many times as large as it says a single large object is at most (`Scene.enlarge`)
    shift: int = 0  # by how many pixels a picture is moved at most, either way, each time it is shown
    places: bool = False  # whether what each place of a ResNet's last map adds is asked what lies there
    muon_rate: float = 0.0  # of the products in transformer blocks under Muon; 0: all is learned under AdamW


RECIPES = {
    "vit": Recipe(
        ViTConfig(64, 8, 128, 4, 4, 512),
        steps=7000,
        learning_rate=1e-3,
        batch_of_ones=96,
        batch_of_twos=8,
        named_alone=0.4,
        shift=4,
        muon_rate=2e-3,
    ),
    "resnet": Recipe(ResNetConfig(128, (1, 1, 1, 1), 12, 6), steps=2800, learning_rate=2e-3, places=True, largest=1.4),
}


class Heads:
    """Linear classifiers over embeddings of either kind: of what is in a scene, and of what is at its places."""

    def __init__(self) -> None:
        shown = [len(values) for values in world.KIND.values()]
        self.anywhere = [self._head(n) for n in [*shown, len(world.BACKGROUNDS)]]
        self.at_place = [[self._head(n) for n in shown[:2]] for _ in world.PLACES]

    @staticmethod
    def _head(classes: int) -> Tensor:
        return (torch.randn(classes, EMBED_DIM) * 0.1).requires_grad_()

    def parameters(self) -> list[Tensor]:
        return [*self.anywhere, *(head for heads in self.at_place for head in heads)]

    def loss(self, embeddings: Tensor, kinds: Tensor, grounds: Tensor) -> Tensor:
        """Cross-entropy of all that is known: kinds [N, 2, 6] and backgrounds [N] as `captions.encode_scenes` or
        `encode_captions` gives them. Two kinds' attributes are half of the truth each.
        """
        loss = torch.zeros(())
        for i, head in enumerate(self.anywhere[:-1]):
            loss = loss + _mixed_cross_entropy(20 * embeddings @ head.T, kinds[:, :, i])
        loss = loss + _mixed_cross_entropy(20 * embeddings @ self.anywhere[-1].T, grounds[:, None])
        places = kinds[:, :, list(world.KIND).index("place")]
        for place, heads in enumerate(self.at_place):
            for i, head in enumerate(heads):
                there = torch.where(places == place, kinds[:, :, i], captions.UNSAID)
                loss = loss + _mixed_cross_entropy(20 * embeddings @ head.T, there)
        return loss

    def loss_of_places(self, places: Tensor, kinds: Tensor, grounds: Tensor) -> Tensor:
        """The same of what L places add, [N, L, E], where `kinds` [N, L, 2] is the colour and the shape of what lies
        there, and `grounds` [N, L] the background where nothing does.
        """
        loss, unit = torch.zeros(()), F.normalize(places, dim=-1)
        for head, truths in zip(
            (*self.anywhere[:2], self.anywhere[-1]), (kinds[..., 0], kinds[..., 1], grounds), strict=True
        ):
            loss = loss + _mixed_cross_entropy(20 * (unit @ head.T).flatten(0, 1), truths.reshape(-1, 1))
        return loss


def loss_of_signs(places: Tensor, kinds: Tensor, texts: Tensor, classes: Tensor) -> Tensor:
    """For texts [C, E] of classes [C, 2], a colour and a shape each: what a place with such a kind adds is for its own
    text, and against the others, whatever attention gives to the place. Logistic, both halves alike.
    """
    known = kinds[..., 0] >= 0
    logits = 10 * F.normalize(places[known], dim=-1) @ texts.T  # [M, C]
    match = (kinds[known][:, None] == classes).all(-1)
    return F.softplus(-logits)[match].mean() + F.softplus(logits)[~match].mean()


def _mixed_cross_entropy(logits: Tensor, truths: Tensor) -> Tensor:
    """Mean cross-entropy [] of logits [N, classes] with the even mixture of truths [N, K], over all of N; a negative
    truth isn't known.
    """
    known = (truths >= 0).float()
    chosen = F.log_softmax(logits, 1).gather(1, truths.clamp(min=0))
    return -((chosen * known).sum(1) / known.sum(1).clamp(min=1)).mean()


def encode_places(trainee: Trainee, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """A ResNet's unit embeddings [N, E], and what each place of its last map adds to them, [N, G * G, E]: the direct
    effect of `clipref.look`, of which maps are made. The embedding is the sum, with the mean's part and a bias, as long
    as it is.
    """
    ops, pool = trainee.ops, trainee.visual["attnpool"]
    config: Any = trainee.config.vision
    seen: dict[str, Tensor] = {}
    images = encoder(config)(ops, pixels, config, lambda name, x: seen.setdefault(name, x), **trainee.visual)
    x = next(seen[name] for name in reversed(seen) if name.startswith("visual.layer4.")).flatten(2).swapaxes(1, 2)
    x = ops.add_positions(ops.prepend_mean(x), pool["positional_embedding"])  # [N, L, C]
    q, k, v = (split_heads(ops.linear(x, **pool[f"{n}_proj"]), config.heads) for n in "qkv")  # [N, H, L, D]
    weights = (q[:, :, :1] * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)  # [N, H, 1, L]
    places = merge_heads(weights.transpose(-1, -2) * v) @ pool["c_proj"]["weight"].T  # [N, L, E]
    return F.normalize(images.float(), dim=-1), places[:, 1:].float()


def what_lies_where(scenes: Sequence[world.Scene], kinds: Any, grounds: Any, grid: int) -> tuple[Tensor, Tensor]:
    """For each cell of a grid over each scene the colour and the shape of the kind that covers most of it, as numbers
    [N, G * G, 2], and the background where there is none, [N, G * G]; UNSAID between the two.
    """
    with ProcessPoolExecutor() as pool:
        covered = list(pool.map(coverage, scenes, [grid] * len(scenes), chunksize=100))
    there = np.full((len(scenes), grid * grid, 2), captions.UNSAID)
    ground = np.full((len(scenes), grid * grid), captions.UNSAID)
    for i, shares in enumerate(covered):  # [kinds, G * G]
        shown = shares.max(axis=0) > 0.1
        there[i, shown] = kinds[i][shares.argmax(axis=0)[shown], :2]
        ground[i, shares.max(axis=0) == 0] = grounds[i]
    return torch.from_numpy(there), torch.from_numpy(ground)


def coverage(scene: world.Scene, grid: int) -> Any:
    """The share of each cell of a grid that each kind's objects cover: [kinds, G * G]."""
    masks = scene.masks(16 * grid)
    return masks.reshape(len(masks), grid, 16, grid, 16).mean(axis=(2, 4)).reshape(len(masks), -1)


def train(recipe: Recipe, folder: Path, seed: int = 0, stop_after: int | None = None) -> None:
    """Train one model and write its checkpoint, with what it scores, into `folder`."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    rng = random.Random(f"train {seed}")
    ones = [world.one_kind(i, held_out=False).enlarge(recipe.largest) for i in evaluate.TRAINING_ONES[: recipe.ones]]
    twos = [v for i in evaluate.TRAINING_TWOS[: recipe.twos] for v in world.two_kinds(i, held_out=False).variants]
    scenes = [*ones, *twos]
    corpus = [captions.sample(scene, rng).text for scene in scenes] + [captions.caption(scene) for scene in scenes]
    merges = learn_merges(corpus, limit=400)
    tokenizer = Tokenizer(merges)
    text = TextConfig(40, tokenizer.vocab_size, width=96, layers=3, heads=3, mlp_width=384)
    trainee, heads = Trainee(ClipConfig(EMBED_DIM, recipe.vision, text), tokenizer), Heads()
    parameters = [*trainee.parameters().values(), *heads.parameters()]
    print(f"{sum(p.numel() for p in trainee.tensors.values())} parameters, {tokenizer.vocab_size} tokens", flush=True)

    started = time.perf_counter()
    pixels = render_all(scenes, recipe.vision.resolution)
    kinds, grounds = captions.encode_scenes(scenes)
    if recipe.places:
        there, bare = what_lies_where(scenes, kinds, grounds, recipe.vision.grid)
    progress = Progress(trainee)
    print(f"{len(pixels)} scenes drawn in {time.perf_counter() - started:.0f} s", flush=True)

    optimizers = build_optimizers(recipe, trainee, parameters)
    started = time.perf_counter()
    last = min(recipe.steps, stop_after or recipe.steps)
    for step, share in enumerate(learning_rates(1.0, recipe.steps), start=1):
        for peak, optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * peak
        groups = [len(ones) + 4 * i for i in rng.sample(range(recipe.twos), recipe.batch_of_twos)]
        chosen = rng.sample(range(len(ones)), recipe.batch_of_ones) + [i + v for i in groups for v in range(4)]
        said = [captions.sample(scenes[i], rng, recipe.named_alone) for i in chosen]
        mentions = captions.encode_captions(said)
        matches = torch.from_numpy(captions.truth((kinds[chosen], grounds[chosen]), mentions)).float()
        bound = [text for i in groups for text in captions.binding_captions(scenes[i])]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            shown = shift(pixels[chosen].float(), recipe.shift, rng)
            if recipe.places:
                images, places = encode_places(trainee, shown)
                classes = there[chosen][there[chosen][..., 0] >= 0].unique(dim=0)
                bound += [class_prompt(COLOURS[colour], SHAPES[shape]) for colour, shape in classes.tolist()]
            else:
                images = trainee.encode_image(shown)
            texts = trainee.encode_text([caption.text for caption in said] + bound)
        texts, bound_texts, prompts = texts.split([len(chosen), 4 * len(groups), len(bound) - 4 * len(groups)])
        scale = trainee.logit_scale.exp()
        loss = contrast(scale * images @ texts.T, matches)
        variants = images[recipe.batch_of_ones :].reshape(-1, 4, EMBED_DIM)
        among_variants = scale * variants @ bound_texts.reshape(-1, 4, EMBED_DIM).transpose(1, 2)  # [groups, 4, 4]
        own = torch.arange(4).repeat(len(groups))
        loss = loss + F.cross_entropy(among_variants.reshape(-1, 4), own) / 2
        loss = loss + F.cross_entropy(among_variants.transpose(1, 2).reshape(-1, 4), own) / 2
        loss = loss + heads.loss(images, torch.from_numpy(kinds[chosen]), torch.from_numpy(grounds[chosen]))
        loss = loss + heads.loss(texts, *map(torch.from_numpy, mentions))
        if recipe.places:
            loss = loss + heads.loss_of_places(places, there[chosen], bare[chosen])
            loss = loss + loss_of_signs(places, there[chosen], prompts, classes)
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for _, optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            trainee.logit_scale.clamp_(max=math.log(100))
        if step % 250 == 0 or step == last:
            trainee.save(folder, merges)
            minutes = (time.perf_counter() - started) / 60
            print(f"step {step}, {minutes:.1f} min, loss {loss.item():.3f}, {progress()}", flush=True)
        if step == last:
            break

    provenance = {
        "made by": "python -m clipref.weights_tools.scenes.train",
        "recipe": repr(recipe),
        "seed": seed,
        "steps": last,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "digest": AutoModel.from_pretrained(folder).digest,
        "scores": score(folder),
    }
    write_json(folder / "provenance.json", provenance)
    print(json.dumps(provenance["scores"]))


def shift(pixels: Tensor, most: int, rng: random.Random) -> Tensor:
    """Each picture of [N, 3, R, R] moved by up to `most` pixels along both axes, its border repeated.

    Kinds lie at five places. A ViT has to learn each place by itself, which a ResNet doesn't, and else knows a cross
    there that it takes for a square elsewhere.
    """
    if not most:
        return pixels
    side = pixels.shape[-1]
    padded = F.pad(pixels, (most,) * 4, mode="replicate")
    corners = [(rng.randint(0, 2 * most), rng.randint(0, 2 * most)) for _ in range(len(pixels))]
    return torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in zip(padded, corners, strict=True)])


def build_optimizers(
    recipe: Recipe, trainee: Trainee, parameters: list[Tensor]
) -> list[tuple[float, torch.optim.Optimizer]]:
    """Each optimizer with its highest learning rate.

    A ViT learns this world in a third of the steps when the products in its blocks (and in the text tower's) have
    Muon's updates, whose singular values are all about one (https://kellerjordan.github.io/posts/muon/); after 3,000
    steps of AdamW alone it names the class of 30 % of unseen pairs, after 2,000 with Muon of 92 %.
    """
    if not recipe.muon_rate:
        return [(recipe.learning_rate, decaying_adam(parameters))]
    products = [p for name, p in trainee.parameters().items() if ".resblocks." in name and p.ndim == 2]
    chosen = {id(p) for p in products}
    muon = torch.optim.Muon(products, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    others = [p for p in parameters if id(p) not in chosen]
    return [(recipe.learning_rate, decaying_adam(others)), (recipe.muon_rate, muon)]


class Progress:
    """What the model in training scores, under torch: the figures of `evaluate`, on few scenes."""

    def __init__(self, trainee: Trainee) -> None:
        self.trainee = trainee

    def __call__(self, n: int = 200) -> str:
        self.trainee.ops.training = False
        figures = {"held-out": evaluate.held_out_accuracy(self, n)}
        figures |= {name: share for name, (share, _) in evaluate.binding(self, n).items()}
        self.trainee.ops.training = True
        return ", ".join(f"{name} {share:.3f}" for name, share in figures.items())

    def embed_images(self, images: Any, *, normalize: bool) -> Any:
        resolution = self.trainee.config.vision.resolution
        pixels = torch.from_numpy(np.stack([preprocess(image, resolution) for image in images]))
        with torch.no_grad():
            return self.trainee.encode_image(pixels).numpy()

    def embed_text(self, text: Any, *, normalize: bool) -> Any:
        with torch.no_grad():
            return self.trainee.encode_text(text).numpy()


def score(folder: Path) -> dict[str, Any]:
    """What a checkpoint scores through clipref itself."""
    model = AutoModel.from_pretrained(folder)
    return {
        "held-out accuracy": evaluate.held_out_accuracy(model),
        "attributes": evaluate.attribute_accuracy(model),
        "binding": evaluate.binding(model),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stop-after", type=int, help="write what there is after so many steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(RECIPES[args.model], args.out, args.seed, args.stop_after)


if __name__ == "__main__":
    main()
