#!/usr/bin/env python3
"""A starter for a server of CLIP under test, with Python's standard library. It answers as it stands:

    clipref conformance export questions --levels pipeline
    python3 server.py questions/checkpoints 9001
    clipref conformance run http://127.0.0.1:9001 --levels pipeline

The routes are those of roboflow's inference. A server in any other language needs the same three, and this one may be
in front of it. Your CLIP belongs between "yours begins" and "yours ends"; the rest may stay as it is.
"""

import base64
import json
import math
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# --- yours begins -----------------------------------------------------------------------------------------------------


def embed_image(folder, image):
    """The bytes of an image's file -> its embedding, a list of E numbers, not normalised.

    `folder` has the model that is asked for: model.safetensors and config.json.
    """
    from clipref import AutoModel  # TODO: your image tower, with its preprocessing. Until then clipref's answers.

    return AutoModel.from_pretrained(folder).embed_image(image)[0].tolist()


def embed_text(folder, texts):
    """Texts -> their embeddings, a list of lists of E numbers, not normalised."""
    from clipref import AutoModel  # TODO: your text tower, with its tokenizer. Raise NotImplementedError to decline.

    return AutoModel.from_pretrained(folder).embed_text(texts).tolist()


# --- yours ends -------------------------------------------------------------------------------------------------------


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def file_of(image):
    return base64.b64decode(image["value"])


def compare(folder, request):
    image, texts = embed_image(folder, file_of(request["subject"])), embed_text(folder, request["prompt"])
    return {"similarity": [cosine(image, text) for text in texts]}


ROUTES = {
    "/clip/embed_image": lambda folder, request: {"embeddings": [embed_image(folder, file_of(request["image"]))]},
    "/clip/embed_text": lambda folder, request: {"embeddings": embed_text(folder, request["text"])},
    "/clip/compare": compare,  # an image with texts
}


class Handler(BaseHTTPRequestHandler):
    """Status 404 for what this server doesn't do, which is skipped, and 500 for what goes wrong."""

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path not in ROUTES:
            self.reply(404, {"message": f"no route {self.path}"})
            return
        try:
            request = json.loads(content)
            folder = self.server.folder / Path(request["clip_version_id"]).name
            if not folder.is_dir():
                raise NotImplementedError(f"no model {folder.name}")
            self.reply(200, ROUTES[self.path](folder, request))
        except NotImplementedError as problem:
            self.reply(404, {"message": f"declined: {problem}"})
        except Exception as problem:  # is the verdict
            self.reply(500, {"message": f"{type(problem).__name__}: {problem}"})

    def do_GET(self):
        self.reply(404, {"message": f"no route {self.path}"})

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def main():
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: server.py FOLDER_OF_CHECKPOINTS PORT")
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.folder = folder
        print(f"http://127.0.0.1:{server.server_port} serves {folder}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
