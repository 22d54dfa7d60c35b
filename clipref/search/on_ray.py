"""The tars of a folder embedded on a Ray cluster: each becomes a part (shards.py), which is merged at the end.

The folder, and the store's, have to be seen by all machines under the same path. Ray Data's actors hold a model each
and make one part at a time; a part is there whole or not at all, so a driver or an actor that was killed costs the tars
that were at work, and a new run makes those that are missing. Ray's own checkpoints aren't needed.

Actors that take every processor of a cluster leave none for Ray's own tasks, and wait for ever without an error
(https://github.com/ray-project/ray/issues/44687): one processor is always left free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ClipError, InputError
from .shards import Part, embed_tar, new_tars

if TYPE_CHECKING:
    from ..clip import CLIP
    from .index import Index

# Processors of one actor, whose engine uses as many threads.
ACTOR_CPUS = 1


class MakePart:
    """What an actor does with a tar: its part, as a row of counts."""

    def __init__(self, model: CLIP, folder: str, place: str, upright: bool, batch_size: int) -> None:
        self.model, self.folder, self.place = model, Path(folder), Path(place)
        self.upright, self.batch_size = upright, batch_size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with "tar" -> the fields of its Part. What is wrong with one tar is its `error`, and ends no run."""
        tar = str(row["tar"])
        try:
            part = embed_tar(self.model, self.folder, self.place, self.upright, tar, self.batch_size)
        except (ClipError, OSError) as error:
            part = Part(tar, 0, 0, 0, False, f"{type(error).__name__}: {error}")
        return part._asdict()


def embed_tars_on_ray(index: Index, address: str | None, batch_size: int = 32) -> Iterator[Part]:
    """Make the parts of all tars that the store doesn't have, on the cluster at `address` ("auto", "ray://host:10001"),
    or on one that is initialised already. Raises InputError where Ray or a second processor is missing.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--ray needs Ray ({error}): pip install 'clipref[ray]'.") from error
    tars = new_tars(index)
    if not tars:
        return
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    actors = min((cpus - 1) // ACTOR_CPUS, len(tars))
    if actors < 1:
        raise InputError(
            f"The cluster has {cpus} processors; expected at least {ACTOR_CPUS + 1}, one of which stays free: actors "
            "on all of them would wait for ever."
        )
    arguments = (index.model, str(index.folder), str(index.place), index.upright, batch_size)
    pool = ray.data.ActorPoolStrategy(size=actors)
    rows = ray.data.from_items([{"tar": tar} for tar in tars], override_num_blocks=len(tars))
    made = rows.map(MakePart, fn_constructor_args=arguments, compute=pool, num_cpus=ACTOR_CPUS)
    for row in made.iter_rows():
        yield Part(**row)
