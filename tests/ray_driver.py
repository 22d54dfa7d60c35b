"""A driver that embeds a folder's tars on a Ray cluster of its own, for tests, which kill it.

    python -m tests.ray_driver FOLDER

To be run in a network namespace (`unshare -n`), since Ray listens on all interfaces.
"""

import sys

import ray

from clipref import AutoModel
from clipref.search import Index
from clipref.search.on_ray import embed_tars_on_ray
from clipref.search.shards import merge

ATTEMPTS = 5


def start() -> None:
    """A cluster on this machine. Ray gives its processes 30 seconds to come up, which is tried again."""
    for attempt in range(ATTEMPTS):
        try:
            ray.init(num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
            return
        except Exception as error:  # a plain Exception is what it raises then
            if attempt == ATTEMPTS - 1 or "timed out" not in str(error):
                raise
            ray.shutdown()


if __name__ == "__main__":
    start()
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="blas")
    with Index(sys.argv[1], model) as index:
        for part in embed_tars_on_ray(index, None):
            print(part.tar, part.embedded, part.failed, flush=True)
        print("merged", merge(index.store), flush=True)
