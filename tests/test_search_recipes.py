"""The recipes of clipref/search/README.md: derived indexes, and `Embed` in other engines, agree with the index.

Each runs where its package is installed; usearch, faiss-cpu, duckdb, polars and pyarrow are small enough for that, and
lancedb, datasets and daft (300 MB each) are installed by whoever wants to run theirs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel
from clipref.search import Embed, Index, Term
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


def test_lancedb(index: Index, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    rows, query = index.vectors.astype("float32"), index.embed_terms([Term("a red circle")])[0]
    data = [{"path": p, "vector": v} for p, v in zip(index.paths, rows, strict=True)]
    table = lancedb.connect(tmp_path / "db").create_table("pictures", data)
    assert [row["path"] for row in table.search(query).metric("cosine").limit(4).to_list()] == expected(index)


def files(index: Index) -> list[str]:
    """Paths of all pictures, and of one that can't be read."""
    (index.folder / "damaged.png").write_bytes(b"no picture")
    return [str(index.folder / path) for path in (*index.paths, "damaged.png")]


def check(index: Index, vectors: list[Any], errors: list[Any]) -> None:
    """Rows as the index has them, and an error in the place of the damaged one's."""
    found = np.array([row for row in vectors[:-1]], np.float32)
    np.testing.assert_allclose(found, index.vectors.astype(np.float32), atol=1e-3)
    assert [error is None for error in errors] == [True] * 12 + [False] and "damaged" in errors[-1]


def test_polars(index: Index) -> None:
    polars = pytest.importorskip("polars")
    embed = Embed("clipref/shapes-vit", "blas")
    paths = polars.DataFrame({"path": files(index)})
    found = polars.concat(
        [polars.from_arrow(embed(part.to_arrow())) for part in paths.iter_slices(5)]  # a table of 5 rows at a time
    )
    check(index, found["embedding"].to_list(), found["error"].to_list())


def test_datasets(index: Index) -> None:
    datasets = pytest.importorskip("datasets")
    embed = Embed("clipref/shapes-vit", "blas")
    dataset = datasets.Dataset.from_dict({"path": files(index)})
    vector, error = datasets.List(datasets.Value("float32")), datasets.Value("string")
    features = datasets.Features({**dataset.features, "embedding": vector, "error": error})
    found = dataset.map(embed, batched=True, batch_size=5, features=features)
    check(index, found["embedding"], found["error"])


def test_daft(index: Index) -> None:
    daft = pytest.importorskip("daft")
    embed = Embed("clipref/shapes-vit", "blas")

    def function(path: Any) -> list[Any]:
        batch = embed({"path": path.to_pylist()})
        return [{"vector": row, "error": error} for row, error in zip(batch["embedding"], batch["error"], strict=True)]

    found = daft.DataType.struct({"vector": vector_type(daft), "error": daft.DataType.string()})
    embedded = daft.func.batch(return_dtype=found)(function)
    frame = daft.from_pydict({"path": files(index)})
    rows = frame.select(embedded(daft.col("path")).alias("found")).to_pydict()["found"]
    check(index, [row["vector"] for row in rows], [row["error"] for row in rows])


def vector_type(daft: Any) -> Any:
    """The type of a column of vectors."""
    return daft.DataType.list(daft.DataType.float32())
