"""An embedded model at work: scenes it was never trained on, classified and found by text, on one HTML page.

The scenes' colour-shape pairs were held out of training. Each is classified among all colours x shapes; then texts find
their scenes among these and others. Everything on the page is computed when the command runs.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import time
from pathlib import Path
from typing import Any

from clipref import AutoModel
from clipref.cli.common import add_json_argument, print_json, print_table
from clipref.cli.output import text_file
from clipref.cli.pages import html_page
from clipref.cli.texts import name_of
from clipref.errors import InputError

from . import captions, world

TEMPLATES = ("a {}", "a picture of a {}", "an image of a {}")
OTHER_SCENES = 36
SHOWN = 4  # results of a search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--model", choices=("clipref/shapes-vit", "clipref/shapes-rn"), default="clipref/shapes-vit")
    parser.add_argument("--backend", default="auto", help="auto, reference, onnx, ... (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("clipref-demo.html"), help="the page (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=8, help="how many to classify (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which scenes (default: %(default)s)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Compute, print tables or JSON, write the page."""
    if not 1 <= args.scenes <= 100:
        raise InputError(f"--scenes is {args.scenes}; expected 1 to 100.")
    with text_file(args.out) as write:
        found, scenes = results(args.model, args.backend, args.scenes, args.seed)
        write(page(found, scenes))
    if args.json:
        print_json(found | {"page": name_of(args.out)})
        return
    print(headline(found))
    print()
    rows = [("scene", "best class", "probability", "")]
    for item in found["classified"]:
        best = item["best"][0]
        rows.append((item["caption"], best["label"], f"{best['probability']:.3f}", "" if item["right"] else "wrong"))
    print_table(rows)
    print()
    rows = [("text", "nearest scene", "cosine", "")]
    for search in found["searches"]:
        best = search["best"][0]
        rows.append(
            (search["text"], best["caption"], f"{best['cosine']:.3f}", "" if best["true"] else "not true of it")
        )
    print_table(rows)
    print(f"\nThe page with the pictures: {args.out.absolute()}")


def results(name: str, backend: str, n: int, seed: int) -> tuple[dict[str, Any], list[world.Scene]]:
    """The content of the page and the tables, as JSON types; and the scenes, by number."""
    # The seeds are far from those of training.
    unseen = [world.scene(50_000_000 + 1000 * seed + i, held_out=True) for i in range(n)]
    others = [world.scene(60_000_000 + 1000 * seed + i, held_out=False) for i in range(OTHER_SCENES)]
    scenes = unseen + others
    pictures = [scene.draw() for scene in scenes]
    model = AutoModel.from_pretrained(name, backend=backend)
    model.embed_image(pictures[0])  # builds the tower, which is not what is timed
    started = time.perf_counter()
    embeddings = model.embed_images(pictures, normalize=True)
    milliseconds = (time.perf_counter() - started) / len(pictures) * 1e3

    labels = [captions.class_prompt(*pair).partition(" ")[2] for pair in world.CLASSES]
    classified = []
    for i, scene in enumerate(unseen):
        best = model.classify(pictures[i], labels, TEMPLATES)
        truth = captions.class_prompt(scene.colour, scene.shape).partition(" ")[2]
        classified.append(
            {
                "scene": i,
                "caption": captions.caption(scene),
                "truth": truth,
                "right": best[0][0] == truth,
                "best": [{"label": label, "probability": p} for label, p in best],
            }
        )
    searches = []
    for query in queries(unseen, others):
        nearest = model.search(query.text, embeddings, SHOWN)
        shown = [
            {"scene": i, "caption": captions.caption(scenes[i]), "cosine": c, "true": query.is_true_of(scenes[i])}
            for i, c in nearest
        ]
        searches.append({"text": query.text, "best": shown})
    found = {
        "model": name,
        "backend": model.backend,
        "milliseconds_per_image": milliseconds,
        "classes": len(labels),
        "gallery": len(scenes),
        "classified": classified,
        "searches": searches,
    }
    return found, scenes


def queries(unseen: list[world.Scene], others: list[world.Scene]) -> list[captions.Caption]:
    """Texts to search for: whole descriptions of two scenes, and parts of what can be said of others."""
    partial = [
        ("{count} {shape}", unseen[0]),
        ("{colour} on {background}", others[0]),
        ("{pattern} shapes", others[1]),
        ("a {colour} {shape} {position}", others[2]),
    ]
    found = [captions.Caption(captions.caption(scene), scene.attributes) for scene in (unseen[0], others[3])]
    for template, scene in partial:
        text = template.format(
            count=captions.NUMBERS[scene.count][0],
            shape=captions.NOUNS[scene.shape][0]["{count}" in template and scene.count > 1],
            colour=scene.colour,
            background=f"a {scene.background} background",
            pattern=scene.pattern,
            position=captions.PLACES[scene.position][0],
        )
        said = tuple(
            v if f"{{{name}}}" in template else None for name, v in zip(world.ATTRIBUTES, scene.attributes, strict=True)
        )
        found.append(captions.Caption(text, said))
    return found


def headline(found: dict[str, Any]) -> str:
    """One line about the run."""
    right = sum(item["right"] for item in found["classified"])
    return (
        f"{found['model']} on the backend {found['backend']}: {right} of {len(found['classified'])} scenes of "
        f"pairs never trained on are classified right among {found['classes']} classes; "
        f"{found['milliseconds_per_image']:.1f} ms an image, preprocessing included."
    )


def picture(scene: world.Scene) -> str:
    """A scene as an <img> that carries its own data."""
    data = io.BytesIO()
    scene.draw(160).save(data, "PNG", optimize=True)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    text = html.escape(captions.caption(scene), quote=True)
    return f'<img src="data:image/png;base64,{encoded}" alt="{text}" title="{text}" width="160" height="160">'


def page(found: dict[str, Any], scenes: list[world.Scene]) -> str:
    """The HTML page: no scripts, and nothing that is elsewhere."""
    cards = "\n".join(card(item, scenes[item["scene"]]) for item in found["classified"])
    rows = "\n".join(row(search, scenes) for search in found["searches"])
    body = f"""<header>
<h1>clipref demo</h1>
<p>{html.escape(headline(found))}</p>
</header>
<h2>Classified</h2>
<p>No picture with these pairs of colour and shape was ever trained on. The bars are probabilities.</p>
<div class="cards">
{cards}
</div>
<h2>Found by text</h2>
<p>The nearest of {found["gallery"]} scenes, with their cosines. A dashed frame: the text is not true of the scene.</p>
{rows}
"""
    return html_page("clipref demo", STYLE, body)


def card(item: dict[str, Any], scene: world.Scene) -> str:
    """One classified scene: its picture, and the best classes as bars."""
    bars = "\n".join(
        f"<li{' class=truth' if best['label'] == item['truth'] else ''}>"
        f"<span>{html.escape(best['label'])}</span><b>{best['probability']:.3f}</b>"
        f'<i style="width:{best["probability"]:.1%}"></i></li>'
        for best in item["best"]
    )
    verdict = "right" if item["right"] else f"wrong: it is a {html.escape(item['truth'])}"
    return (
        f"<figure>{picture(scene)}<figcaption>{html.escape(item['caption'])}</figcaption>"
        f'<ul>{bars}</ul><p class="verdict">{verdict}</p></figure>'
    )


def row(search: dict[str, Any], scenes: list[world.Scene]) -> str:
    """One search: its text, and the nearest scenes from left to right."""
    hits = "\n".join(
        f'<figure class="{"hit" if best["true"] else "miss"}">{picture(scenes[best["scene"]])}'
        f"<figcaption>{best['cosine']:.3f}</figcaption></figure>"
        for best in search["best"]
    )
    return f'<section><h3>{html.escape(search["text"])}</h3><div class="hits">{hits}</div></section>'


STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #686e76; --paper: #fbfbfa; --card: #fff; --line: #dedfe0;
  --bar: #c9ced6; --truth: #3f8f5b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --soft: #9aa0a8; --paper: #17181a; --card: #1f2124;
  --line: #34373b; --bar: #4a4f57; --truth: #58a876; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0; }
h3 { font-size: 1rem; font-weight: 500; margin: 1.5rem 0 .5rem; }
header p, h2 + p, figcaption, .verdict { color: var(--soft); margin: .25rem 0 1rem; }
figure { margin: 0; }
img { display: block; border-radius: 4px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; }
.cards figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem;
  display: flex; flex-direction: column; }
.cards img { width: 100%; height: auto; }
.cards figcaption { font-size: .85rem; margin: .75rem 0; flex: 1; }
ul { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 1fr auto; font-size: .85rem; margin-bottom: .35rem; }
li b { font-weight: 400; font-variant-numeric: tabular-nums; }
li i { grid-column: 1 / 3; height: 4px; min-width: 1px; border-radius: 2px; background: var(--bar); }
li.truth span { font-weight: 600; }
li.truth i { background: var(--truth); }
.verdict { font-size: .85rem; margin: .5rem 0 0; }
.hits { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 10rem)); gap: 1rem; }
.hits img { width: 100%; height: auto; border: 2px solid var(--truth); }
.hits .miss img { border: 2px dashed var(--soft); }
.hits figcaption { margin: .25rem 0 0; font-size: .85rem; font-variant-numeric: tabular-nums; }
"""
