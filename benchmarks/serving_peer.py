"""Another server beside `clipref serve`, with the same weights: the same clients send the same requests to both.

    python benchmarks/serving_peer.py --model FOLDER --peer http://127.0.0.1:7997/embeddings [--peer-model NAME]

FOLDER is what both servers have opened, for instance one that transformers reads. The peer runs already; it has to
speak OpenAI's route, with a picture as a data URI and `"modality": "image"`, as Infinity does (0.0.78 fails at pictures
with transformers 5, and doesn't install aiohttp, which it needs; FOLDER is one of `clipref convert --to transformers`):

    pip install torch 'infinity-emb[server,vision]' aiohttp 'transformers<5'
    infinity_emb v2 --model-id FOLDER --served-model-name NAME --engine torch --device cpu --dtype float32 --port 7997

Requests are prepared before, sent by one thread with plain sockets, to both in turns. Each answer is compared with the
model object's vectors. Needs clipref[server].
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from serving import CLIENTS, closed_loop, photographs, rates, request, serving

from clipref import AutoModel


def requests_of(route: str, model: str | None, modality: str, inputs: Sequence[str]) -> list[bytes]:
    """A request for each input; without a model's name for a server that has one model."""
    named = {} if model is None else {"model": model}
    rest = {"modality": modality, "encoding_format": "float"}
    return [request(route, {**named, "input": [each], **rest}) for each in inputs]


def lowest_cosine(answers: Sequence[bytes], expected: np.ndarray, name: str, agreement: float) -> float:
    """The least cosine of an answer's vector with the one that it should be. Raises SystemExit if that is low."""
    found = np.array([json.loads(answer)["data"][0]["embedding"] for answer in answers], np.float32)
    cosines = (found * expected).sum(axis=1) / (np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1))
    if not cosines.min() >= agreement:
        raise SystemExit(f"{name}: the cosine of a vector with the model's is {cosines.min():.4f}.")
    return float(cosines.min())


def measure(folder: str, backend: str, peer: str, peer_model: str, rounds: int, count: int) -> dict[str, Any]:
    """Requests a second of both servers, and the lowest cosines of their vectors with the model's."""
    model = AutoModel.from_pretrained(folder, backend=backend, upright=True)
    where = urlsplit(peer)
    if where.hostname not in ("127.0.0.1", "localhost") or where.port is None:
        raise SystemExit(f"--peer {peer}: expected http://127.0.0.1:PORT/ROUTE.")
    peer_port = where.port
    files = photographs(count)
    texts = [f"a photo of {i} small things number {i * 7919 % 10007}" for i in range(count)]
    expected = model.embed_images(files), model.embed_text(texts)
    cosines: dict[str, float] = {}

    def served(name: str, port: int, requests: Sequence[bytes], truth: np.ndarray, agreement: float) -> float:
        rate, answers = closed_loop(port, requests, CLIENTS)
        cosines[name] = min(cosines.get(name, 1), lowest_cosine(answers, truth, name, agreement))
        return rate

    with serving("--model", folder, "--backend", backend) as (port, _, _):
        uris = [f"data:image/jpeg;base64,{base64.b64encode(file).decode()}" for file in files]
        images, words = ("image", uris), ("text", texts)
        ours, our_texts = (requests_of("/v1/embeddings", None, *each) for each in (images, words))
        theirs, their_texts = (requests_of(where.path, peer_model, *each) for each in (images, words))
        found = rates(
            {
                "images": lambda: served("images", port, ours, expected[0], 0.9999),
                "images, peer": lambda: served("images, peer", peer_port, theirs, expected[0], 0.99),
                "texts": lambda: served("texts", port, our_texts, expected[1], 0.9999),
                "texts, peer": lambda: served("texts, peer", peer_port, their_texts, expected[1], 0.99),
            },
            rounds,
        )
    return {"rates": found, "lowest_cosines": cosines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the folder that both servers have opened")
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--peer", required=True, metavar="URL", help="the peer's route for embeddings, on loopback")
    parser.add_argument("--peer-model", default="peer", metavar="NAME", help="what the peer calls it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.model, args.backend, args.peer, args.peer_model, args.rounds, args.count)
    medians = {name: statistics.median(each) for name, each in found["rates"].items()}
    for name, rate in medians.items():
        print(f"{name:14} {rate:8.1f} a second; lowest cosine with the model's {found['lowest_cosines'][name]:.6f}")
    for kind in ("images", "texts"):
        print(f"{kind}: {medians[kind] / medians[f'{kind}, peer']:.2f} x the peer")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
