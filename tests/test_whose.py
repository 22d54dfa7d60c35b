"""`clipref whose`: stored vectors and the pictures or texts they are of, from every format; what is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from clipref import AutoModel, InputError
from clipref.cli import main
from clipref.conformance.whose import check_stamp, read_store, stamp_of, whose
from clipref.conformance.whose.vectors import grid_of
from clipref.numerics import to_bfloat16

from .whose_loop import PICTURES, as_int8, draw

VIT, RESNET = "clipref/shapes-vit", "clipref/shapes-rn"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures."""
    return draw(tmp_path_factory.mktemp("pictures"), PICTURES[:4])


@pytest.fixture(scope="module")
def vectors(folder: Path) -> np.ndarray:
    """Of the pictures, by the embedded ViT in ONNX Runtime."""
    return AutoModel.from_pretrained(VIT, backend="onnx").embed_images(sorted(folder.iterdir()))


def saved(path: Path, x: np.ndarray) -> Path:
    np.save(path, x)
    return path


@pytest.mark.slow
def test_the_model_is_among_the_few_that_are_left(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    finding = whose(saved(tmp_path / "v.npy", vectors), images=folder, models=[VIT], limit=1)
    assert finding.verdict == "one of" and finding.decides is not None
    first = finding.candidates[0]
    assert (first.model, first.variant, first.storage, first.normalised) == (
        VIT,
        "as the model has it",
        "float32",
        False,
    )
    assert all(c.error <= 1 and c.model == VIT for c in finding.candidates)
    assert finding.to_dict().keys() == {"verdict", "candidates"}
    assert finding.to_dict()["candidates"][0].keys() == {"model", "variant", "storage", "normalised", "error"}


@pytest.mark.slow
def test_what_is_refused_is_far_off(folder: Path, tmp_path: Path) -> None:
    """Of a tower without a LayerNorm, whose eps could be off by next to nothing."""
    resnet = AutoModel.from_pretrained(RESNET, backend="onnx").embed_images(sorted(folder.iterdir()))
    finding = whose(saved(tmp_path / "v.npy", resnet), images=folder, models=[RESNET], limit=1)
    assert finding.verdict == "one of" and finding.candidates[0].variant == "as the model has it"
    assert finding.runner_up is not None and finding.runner_up.error > 10


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16", "int8"])
def test_storage_is_told_from_the_numbers(vectors: np.ndarray, storage: str, unit: bool) -> None:
    x = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if unit else vectors
    stored: dict[str, Any] = {
        "float32": x, "float16": x.astype(np.float16).astype(np.float32), "bfloat16": to_bfloat16(x),
        "int8": as_int8(x)[0] * as_int8(x)[1][:, None].astype(np.float32),
    }  # fmt: skip
    grid = grid_of(stored[storage])
    assert grid.storage == storage
    if storage == "int8":
        assert grid.steps is not None and np.array_equal(grid.values, as_int8(x)[0])
        np.testing.assert_allclose(grid.steps, as_int8(x)[1], rtol=1e-5)


@pytest.mark.slow
def test_another_models_vectors_and_random_ones_are_nobodys(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    assert whose(saved(tmp_path / "v.npy", vectors), images=folder, models=[RESNET]).verdict == "none"
    drawn = np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    for x in (drawn, drawn.astype(np.float16), as_int8(drawn)[0]):
        finding = whose(saved(tmp_path / "r.npy", x), images=folder)
        assert finding.verdict == "none" and not finding.candidates and finding.runner_up is not None


@pytest.mark.slow
def test_an_engine_of_half_precision_is_allowed_its_errors(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    half = vectors.astype(np.float16).astype(np.float32)
    stored = saved(tmp_path / "v.npy", half / np.linalg.norm(half, axis=1, keepdims=True))
    assert whose(stored, images=folder, models=[VIT], limit=1).verdict == "none"
    finding = whose(stored, images=folder, models=[VIT], limit=1, precision="float16")
    assert finding.candidates[0].variant == "as the model has it" and finding.candidates[0].storage == "float32"


def test_random_vectors_are_nobodys(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    drawn = saved(tmp_path / "r.npy", np.random.default_rng(0).normal(size=vectors.shape))
    finding = whose(drawn, images=folder, models=[VIT], limit=1)
    assert finding.verdict == "none" and not finding.candidates and finding.runner_up is not None


def test_one_wrong_row_is_told(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    mixed = vectors.copy()
    mixed[2] = vectors[1]
    finding = whose(saved(tmp_path / "v.npy", mixed), images=folder, models=[VIT], limit=3)
    assert finding.verdict == "none" and finding.runner_up is not None
    assert finding.runner_up.items == 2 and finding.refused_at == str(sorted(folder.iterdir())[2])


@pytest.mark.slow
def test_cut_vectors(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    again = vectors[:, :40] / np.linalg.norm(vectors[:, :40], axis=1, keepdims=True)
    ends = ("", ", after it was normalised", ", before it was normalised")
    for x, end in zip((vectors[:, :40], unit[:, :40], again), ends, strict=True):
        found = whose(saved(tmp_path / "v.npy", x), images=folder, models=[VIT]).candidates[0]
        assert found.storage == f"float32, the first 40 of 96 numbers{end}" and found.normalised == bool(end)


@pytest.mark.slow
def test_turned_vectors_are_known_by_their_products(tmp_path: Path) -> None:
    folder = draw(tmp_path / "pictures", PICTURES[:6])
    x = AutoModel.from_pretrained(VIT).embed_images(sorted(folder.iterdir()), normalize=True)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(96, 96)))[0]
    turned = saved(tmp_path / "v.npy", (x @ turn).astype(np.float32))
    finding = whose(turned, images=folder, models=[VIT])
    assert finding.candidates[0].variant == "as the model has it, turned by an orthogonal map"
    assert whose(turned, images=folder, models=[RESNET]).verdict == "none"
    assert whose(saved(tmp_path / "r.npy", np.roll(x @ turn, 1, axis=0)), images=folder, models=[VIT]).verdict == "none"


def test_texts(tmp_path: Path) -> None:
    texts = ["a red circle", "a blue square", "two rings", "a ring"]
    model = AutoModel.from_pretrained(VIT)
    x = saved(tmp_path / "v.npy", model.embed_text(texts, normalize=True).astype(np.float16))
    finding = whose(x, texts=texts, models=[VIT])
    assert finding.candidates[0].variant == "as the model has it" and finding.candidates[0].normalised
    assert whose(x, texts=texts[::-1], models=[VIT]).verdict == "none"


@pytest.mark.slow
def test_formats_and_names(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    names = [str(path) for path in sorted(folder.iterdir())]
    save_file({"embeddings": vectors}, tmp_path / "v.safetensors", {"names": json.dumps(names)})
    shuffled = saved(tmp_path / "v.npy", vectors[::-1])
    (tmp_path / "v.names.json").write_text(json.dumps([Path(name).name for name in names[::-1]]))
    for path in (tmp_path / "v.safetensors", shuffled):
        finding = whose(path, images=folder, models=[VIT])
        assert finding.verdict == "one of" and finding.items >= 4
    assert np.array_equal(read_store(tmp_path / "v.safetensors").vectors, vectors)


@pytest.mark.extra
def test_formats_of_pyarrow(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = [str(path) for path in sorted(folder.iterdir())]
    parquet.write_table(arrow.table({"path": names, "embedding": list(vectors)}), tmp_path / "v.parquet")
    clip_retrieval = tmp_path / "folder"
    (clip_retrieval / "img_emb").mkdir(parents=True)
    (clip_retrieval / "metadata").mkdir()
    np.save(clip_retrieval / "img_emb" / "img_emb_0.npy", vectors.astype(np.float16))
    parquet.write_table(arrow.table({"image_path": names}), clip_retrieval / "metadata" / "metadata_0.parquet")
    for path, storage in ((tmp_path / "v.parquet", "float32"), (clip_retrieval, "float16")):
        assert whose(path, images=folder, models=[VIT]).candidates[0].storage == storage


def test_what_cant_be_asked(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.npy", vectors)
    wrong: list[tuple[np.ndarray, str]] = [
        (vectors[:3], "There are 3 vectors without names, and 4 pictures"),
        (vectors[:0], "expected vectors"),
        (vectors[None], "expected vectors"),
        (vectors.astype(np.int32), "expected float64, float32"),
        (vectors * 0, "row 0 is zero or not finite"),
        (vectors * np.nan, "row 0 is zero or not finite"),
    ]
    for x, says in wrong:
        with pytest.raises(InputError, match=says):
            whose(saved(tmp_path / "w.npy", x), images=folder)
    calls: list[tuple[dict[str, Any], str]] = [
        ({}, "one of both"),
        ({"images": folder, "texts": ["a"]}, "one of both"),
        ({"texts": ["a"]}, "There are 4 vectors and 1 texts"),
        ({"texts": ["a", "", "b", "c"]}, "texts that aren't empty"),
        ({"images": folder / "none"}, "is not a folder"),
        ({"images": folder, "limit": 0}, "limit is 0"),
        ({"images": folder, "models": []}, "no models were given"),
        ({"images": folder, "precision": "int8"}, "precision is 'int8'"),
    ]
    for options, says in calls:
        with pytest.raises(InputError, match=says):
            whose(path, **options)
    (tmp_path / "v.names.json").write_text(json.dumps(["x"]))
    with pytest.raises(InputError, match=r"v.names.json doesn't have the names of the 4 vectors"):
        whose(path, images=folder)
    (tmp_path / "v.names.json").write_text(json.dumps(["x", "y", "z", "u"]))
    with pytest.raises(InputError, match="None of the 4 pictures in"):
        whose(path, images=folder)


def test_the_activation_of_models_can_be_said(folder: Path, tmp_path: Path) -> None:
    gelu = AutoModel.from_pretrained(VIT, activation="gelu", backend="reference")
    path, stamp = saved(tmp_path / "v.npy", gelu.embed_images(sorted(folder.iterdir()))), tmp_path / "stamp.json"
    arguments = ["whose", str(path), "--images", str(folder), "--models", VIT, "--activation", "gelu"]
    assert main([*arguments, "--stamp", str(stamp)]) == 0
    assert check_stamp(stamp, path) == []
    written = json.loads(stamp.read_text())
    assert (written["variant"], written["activation"]) == ("as the model has it", "gelu")
    stamp.write_text(json.dumps({**written, "activation": None}))
    assert [drift.what for drift in check_stamp(stamp)] == ["arithmetic"] * 3


@pytest.mark.slow
def test_command_and_stamp(
    folder: Path, vectors: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, stamp = str(saved(tmp_path / "v.npy", vectors)), tmp_path / "stamp.json"
    assert main(["whose", path, "--images", str(folder), "--models", VIT, "--limit", "1", "--stamp", str(stamp)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("verdict: one of (") and "what would decide: the vector of" in printed
    assert main(["whose", path, "--images", str(folder), "--models", VIT, "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "one of"
    assert main(["whose", path, "--images", str(folder), "--models", RESNET, "--limit", "1"]) == 1
    assert "nearest of what is refused" in capsys.readouterr().out
    assert main(["whose", "--check", str(stamp)]) == 0 and "nothing drifted" in capsys.readouterr().out
    assert check_stamp(stamp, path) == [] and check_stamp(stamp, path, backend="reference") == []
    written = json.loads(stamp.read_text())
    assert len(written["probes"]) == 3 and stamp.stat().st_size < 10_000
    changes: list[tuple[Any, str]] = [
        (lambda s: s.update(digest="0" * 64), "weights"),
        (lambda s: s["probes"][1].update(input="0" * 64), "pixels"),
        (lambda s: s["probes"][2]["vector"].__setitem__(0, s["probes"][2]["vector"][0] * 1.001 + 0.001), "arithmetic"),
        (lambda s: s.update(storage="float16"), "store"),
    ]
    for change, what in changes:
        changed = json.loads(stamp.read_text())
        change(changed)
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        assert [drift.what for drift in check_stamp(tmp_path / "changed.json", path)] == [what]
    assert main(["whose", "--check", str(tmp_path / "changed.json"), path]) == 1
    assert "store drifted" in capsys.readouterr().out
    with pytest.raises(InputError, match="is no stamp"):
        (tmp_path / "changed.json").write_text("{}")
        check_stamp(tmp_path / "changed.json")
    with pytest.raises(InputError, match="a stamp needs one explanation"):
        stamp_of(whose(path, images=folder, models=[RESNET], limit=1))
