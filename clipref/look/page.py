"""The page of `clipref look`: one HTML file that needs nothing else, no script and no address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..cli.pages import html_page
from ..cli.streams import printable
from ..ops import softmax
from .drawing import as_html, bars_table, data_address, heads_table, map_figure, numbers_table, wide, with_sign
from .report import ImageReport, TextReport, coarse, head_table, layer_rows, sum_error
from .words import WordEffects

Array: TypeAlias = NDArray[Any]

_STYLE = Path(__file__).with_name("page.css")
_KEY = '<span class="key more"></span>raises the cosine <span class="key less"></span>lowers it'

# Methods: what each says, and what it can't tell.
METHODS = {
    "direct effect": (
        "exact: what all heads took from this place and wrote into the answer",
        "what the place would be worth alone, nor what it told other places first",
    ),
    "occlusion": (
        "an experiment: what the cosine loses when this place gets the mean colour",
        "whether the model had ever seen such an image; two places that can stand for each other both count little",
    ),
    "RISE": (
        "an experiment: the cosine through random masks, where this place was seen",
        "fine detail; it is an estimate, and another seed gives another",
    ),
    "attention rollout": (
        "a rule of thumb: how this place gets to the answer by attention alone",
        "anything about the text: it is the same for every text",
    ),
}


def image_page(report: ImageReport, name: str, model: str) -> str:
    """One image against its texts."""
    sections = [
        _section("Where", _where(report)),
        _section("Which method says what", _methods(report)),
        _section("Which layer and head", _image_layers(report)),
        _section("What the tokenizer made of each text, and which word counts", _image_words(report)),
    ]
    picture = f":root {{ --picture: url({data_address(report.picture)}) }}"
    return _page(f"{name}: what the model sees", picture, _head(report, name, model), sections)


def text_page(report: TextReport, model: str) -> str:
    """Texts among themselves."""
    count = len(report.texts)
    error = max(map(sum_error, report.scores))
    title = report.texts[0] if count == 1 else f"{count} texts"
    pairs = [(text, scores.cosines) for text, scores in zip(report.texts, report.scores, strict=True)]
    head = f"<h1>{as_html(title)}</h1><p class=soft>{as_html(model)}</p>"
    if count > 1:
        head += bars_table("Cosines of the texts with each other", ["text", *report.texts], pairs)
    head += f"<p>{_exactness(error)} Toward itself a text has the cosine 1, and its parts are shares.</p>"
    sections = []
    for text, scores, words, lens in zip(report.texts, report.scores, report.words, report.lens, strict=True):
        body = _words(words, [f"toward “{other}”" for other in report.texts])
        body += bars_table("Layer by layer, from the first to the last", ["part", *report.texts], layer_rows(scores))
        for i, other in enumerate(report.texts):
            body += heads_table(f"Heads, toward “{other}”", head_table(scores)[:, :, i])
        body += _lens(lens.cosines, report.texts)
        sections.append(_section(text, body))
    return _page(title, "", head, sections)


def _page(title: str, extra: str, head: str, sections: Sequence[str]) -> str:
    style = _STYLE.read_text(encoding="utf-8") + extra
    return html_page(printable(title), style, f"<main>\n<header>{head}</header>\n{''.join(sections)}</main>\n")


def _section(title: str, body: str) -> str:
    return f"<h2>{as_html(title)}</h2>\n<section>{body}</section>\n"


def _exactness(error: float) -> str:
    return f"All parts below sum to the cosine, to {error:.0e}: nothing is left over and nothing is guessed."


def _head(report: ImageReport, name: str, model: str) -> str:
    cosines = report.scores.cosines.astype(np.float64)
    head = ["text", "cosine"]
    rows = [(text, [float(cosine)]) for text, cosine in zip(report.texts, cosines, strict=True)]
    table = bars_table("How near each text is", head, rows)
    words = ""
    if len(report.texts) > 1:
        shares = softmax(report.logit_scale * cosines)
        told = "; ".join(f"{as_html(text)} {share:.1%}" for text, share in zip(report.texts, shares, strict=True))
        words = f"<p>As a choice among these alone, by the model's own scale of {report.logit_scale:.0f}: {told}.</p>"
    return (
        f"<h1>{as_html(name)}</h1><p class=soft>{as_html(model)}, which sees the picture as {len(report.picture)} by "
        f"{len(report.picture)} pixels</p>{table}{words}"
        f"<p>{_exactness(sum_error(report.scores))} Cosines of a right image and text are far from 1; what counts is "
        "which text is nearer.</p>"
    )


def _where(report: ImageReport) -> str:
    maps, texts = report.scores.maps, report.texts
    what = "direct effect of each patch on the cosine"
    side = len(report.picture)
    figures = [
        f'<figure><img src="{data_address(report.picture)}" alt="what the model sees, {side} by {side} pixels">'
        "<figcaption><b>what the model sees</b></figcaption></figure>",
        *(map_figure(m, text, what) for m, text in zip(maps, texts, strict=True)),
    ]
    if len(texts) == 2:
        figures.append(map_figure(maps[0] - maps[1], f"{texts[0]}, less {texts[1]}", "difference of direct effects"))
    elsewhere = report.scores.cosines - maps.sum(axis=(1, 2))
    rest = "; ".join(f"{as_html(text)}: {with_sign(float(r))}" for text, r in zip(texts, elsewhere, strict=True))
    tables = "".join(
        numbers_table(f"Direct effect on “{text}”, by row and column", coarse(m))
        for m, text in zip(maps, texts, strict=True)
    )
    return (
        f"<p>{_KEY}. What each place gives the cosine directly, through all heads of all layers. "
        f"The rest has no place (the first position, MLPs, biases): {rest}.</p>"
        f'<div class="maps large">{"".join(figures)}</div>'
        f"<details><summary>The maps as numbers</summary>{tables}</details>"
    )


def _methods(report: ImageReport) -> str:
    sources = {"direct effect": report.scores.maps, "occlusion": report.occlusion.maps}
    if report.rise is not None:
        sources["RISE"] = np.stack([coarse(m) for m in report.rise.maps])
    passes = {"occlusion": report.occlusion.passes, "RISE": report.rise.passes if report.rise else 0}
    body = ""
    for method, maps in sources.items():
        figures = "".join(map_figure(m, text, method) for m, text in zip(maps, report.texts, strict=True))
        body += _method(method, passes.get(method, 1), figures)
    figure = map_figure(report.rollout.map, "any text", "attention rollout")
    body += _method("attention rollout", 1, figure)
    return f'<p>{_KEY}; each map has its own scale.</p><div class="methods">{body}</div>'


def _method(name: str, passes: int, figures: str) -> str:
    says, lacks = METHODS[name]
    effort = "one forward pass" if passes == 1 else f"{passes} forward passes"
    return (
        f"<div><h3>{as_html(name)}</h3><p>Says: {as_html(says)}. <b>Can't tell:</b> {as_html(lacks)}. "
        f'<span class=soft>({effort})</span></p><div class="maps">{figures}</div></div>'
    )


def _image_layers(report: ImageReport) -> str:
    body = f"<p>{_KEY}.</p>"
    body += bars_table("From the first layer to the last", ["part", *report.texts], layer_rows(report.scores))
    for i, text in enumerate(report.texts):
        body += heads_table(f"Heads, for “{text}”", head_table(report.scores)[:, :, i])
    return body + ("" if report.lens is None else _lens(report.lens.cosines, report.texts))


def _lens(cosines: Array, texts: Sequence[str]) -> str:
    names = ["before the first layer", *(f"after layer {i}" for i in range(len(cosines) - 1))]
    table = bars_table("Logit lens", ["read out", *texts], list(zip(names, cosines, strict=True)))
    return (
        "<details><summary>Logit lens: the cosine if the model ended after each layer</summary>"
        "<p>A rule of thumb. Early layers aren't meant to be read like this, and their cosines mean little.</p>"
        f"{table}</details>"
    )


def _image_words(report: ImageReport) -> str:
    return "".join(
        f"<h3>{as_html(t)}</h3>{_words(w, ['image'])}" for t, w in zip(report.texts, report.words, strict=True)
    )


def _words(effects: WordEffects, toward: Sequence[str]) -> str:
    """Tokens, and each word's two effects on the cosines with what it is looked at `toward`."""
    chips = "".join(
        f"<li>{as_html(token.piece) or '(blank)'}<small>{token.id}</small></li>" for token in effects.tokens
    )
    body = wide("Tokens and their ids", f'<ul class="chips">{chips}</ul>')
    for i, name in enumerate(toward):
        rows = [
            (word, (float(direct), float(lost)))
            for word, direct, lost in zip(effects.words, effects.direct[:, i], effects.left_out[:, i], strict=True)
        ]
        whole = f"Words, {name}" if len(toward) > 1 else "Words"
        body += bars_table(whole, ["word", "direct effect", "lost if left out"], rows)
        body += (
            f"<p class=soft>Besides: start of text {with_sign(float(effects.start[i]))}, end of text "
            f"{with_sign(float(effects.end[i]))}, MLPs and biases {with_sign(float(effects.rest[i]))}.</p>"
        )
    return body + (
        "<p class=soft>The two columns disagree because they ask different things. The first counts what the end of "
        "the text took straight from a word; what a word told its neighbours first is counted at theirs. The second "
        "takes the word away, with all that, and moves the words behind it.</p>"
    )
