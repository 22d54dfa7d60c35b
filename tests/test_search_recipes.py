"""The recipes of clipref/search/README.md that need a small wheel: derived indexes that agree with the exact search."""

from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel
from clipref.search import Index, Term
from clipref.search.formats import export
from clipref.weights_tools.shapes import world

pytestmark = pytest.mark.extra


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for i in range(12):
        world.scene(i).draw(64).save(tmp_path / f"{i}.png")
    index = Index(tmp_path, AutoModel.from_pretrained("clipref/shapes-vit", backend="blas"))
    index.update()
    return index


def expected(index: Index) -> list[str]:
    return [hit.path for hit in index.search("a red circle", top_k=4)]


def test_usearch(index: Index) -> None:
    usearch = pytest.importorskip("usearch.index")
    rows, query = index.vectors.astype("float32"), index.embed_terms([Term("a red circle")])[0]
    ann = usearch.Index(ndim=rows.shape[1], metric="cos", dtype="f16")
    ann.add(np.arange(len(rows)), rows)
    assert [index.paths[i] for i in ann.search(query, 4).keys] == expected(index)


def test_faiss(index: Index) -> None:
    faiss = pytest.importorskip("faiss")
    rows, query = index.vectors.astype("float32"), index.embed_terms([Term("a red circle")])[0]
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    assert [index.paths[i] for i in flat.search(query[None], 4)[1][0]] == expected(index)


def test_duckdb(index: Index, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    export(index, "parquet", tmp_path / "photos.parquet")
    query = index.embed_terms([Term("a red circle")])[0]
    found = duckdb.execute(
        f"SELECT path FROM '{tmp_path}/photos.parquet' ORDER BY list_cosine_similarity(embedding, ?) DESC LIMIT 4",
        [query.tolist()],
    ).fetchall()
    assert [path for (path,) in found] == expected(index)
