"""Checkpoints as training scripts leave them: the model is found in what is around it, in zips and safetensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from clipref import AutoModel, ClipError, WeightsError
from clipref.cli import main
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.layouts import LANDMARKS
from clipref.weights_tools.sources import Doubt, Options, Source, open_source
from clipref.weights_tools.wrappers import before_landmark

from . import cases, layouts
from .torch_archives import Call, Storage, archive, pickled, tensor

CONFIG = cases.TINY["vit-gelu"]
SETTLED = Options(config=CONFIG)
State = dict[str, Any]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("ours") / "checkpoint", CONFIG, 5, "plain")


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def compiled_inside(state: State) -> State:
    """As where each tower is compiled, sharded or wrapped by itself."""
    inside = {"visual.": "visual._orig_mod.module.", "transformer.": "_fsdp_wrapped_module.transformer."}
    blocks = {f"resblocks.{i}.": f"resblocks.{i}._checkpoint_wrapped_module." for i in range(9)}
    renamed = state
    for old, new in (inside | blocks).items():
        renamed = {name.replace(old, new, 1): value for name, value in renamed.items()}
    return renamed


ONE = np.ones((), np.float32)
# An optimizer's state has numbers as keys, and tensors that are like weights.
OPTIMIZER = {"state": {0: {"exp_avg": ONE, "step": ONE}}, "param_groups": {0: {"lr": 3}}}
ARGS = Call("torch", "device", "cpu")

PREFIXES = [
    "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "clip.", "model.clip.", "net.", "ema.",
    "clip_model.", "backbone.model.", "_forward_module.", "state_dict.",
]  # fmt: skip

WRAPPED: dict[str, Callable[[State], State]] = {
    **{f"{prefix}...": lambda state, prefix=prefix: under(prefix, state) for prefix in PREFIXES},  # type: ignore[misc]
    "compiled inside": compiled_inside,
    "a counter of averages": lambda state: under("module.", state) | {"n_averaged": ONE},
    "a criterion": lambda state: under("model.", state) | {"criterion.logit_scale": ONE, "head.weight": ONE},
}
DICTS: dict[str, Callable[[State], State]] = {
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"epoch": 3, "name": "run", "state_dict": state, "optimizer": OPTIMIZER},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": ONE, "optimizer_state_dict": OPTIMIZER},
    "state_dict_ema": lambda state: {"state_dict_ema": under("module.", state), "args": ARGS},
    "two dicts": lambda state: {"ckpt": {"model": under("_orig_mod.", state)}, "step": 3},
    "lightning": lambda state: {"state_dict": under("model.", state) | {"loss.scale": ONE}, "callbacks": {}},
    "a module": lambda state: {"module": under("module.", state)},
}


def as_torch(state: State) -> bytes:
    """A file as torch.save writes it, of nested dicts of arrays."""
    members: dict[str, bytes] = {}
    kinds = {"float32": "FloatStorage", "float16": "HalfStorage"}

    def stand_in(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stand_in(item) for key, item in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        strides = tuple(s // value.itemsize for s in np.ascontiguousarray(value).strides)
        key = str(len(members))
        members[f"archive/data/{key}"] = value.tobytes()
        return tensor(Storage(kinds[value.dtype.name], key, value.size), 0, value.shape, strides[: value.ndim])

    return archive(pickled(stand_in(state)), members)


def same_tensors(found: Path | Source, ours: Path) -> None:
    a = found.tensors if isinstance(found, Source) else open_source(found).tensors
    b = load_file(ours / "model.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].read().tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("layout", ["openai", "transformers"])
@pytest.mark.parametrize("how", [*WRAPPED, *DICTS])
def test_a_model_is_found_in_what_is_around_it(how: str, layout: str, ours: Path, tmp_path: Path) -> None:
    state: State = load_file(ours / "model.safetensors")
    if layout == "transformers":
        (tmp_path / "t.safetensors").write_bytes(layouts.as_transformers(ours, CONFIG)["model.safetensors"])
        state = load_file(tmp_path / "t.safetensors")
        state.pop("text_model.embeddings.position_ids")
    (tmp_path / "x.pt").write_bytes(as_torch((WRAPPED | DICTS)[how](state)))
    if how in WRAPPED:
        (tmp_path / "x.safetensors").write_bytes(save(WRAPPED[how](state)))
    for file in [*tmp_path.glob("x.*")]:
        same_tensors(open_source(file, SETTLED), ours)


def test_it_opens_by_itself(ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    (tmp_path / "open_clip_config.json").write_bytes(layouts.as_open_clip(ours, CONFIG)["open_clip_config.json"])
    state = under("module.", load_file(ours / "model.safetensors"))
    (tmp_path / "epoch_1.pt").write_bytes(as_torch({"state_dict": state, "epoch": 1}))
    model = AutoModel.from_pretrained(tmp_path / "epoch_1.pt", backend="reference")
    ids = np.array([[7, 8, CONFIG.text.vocab_size - 1]])
    assert np.array_equal(model.encode_text(ids), AutoModel.from_pretrained(ours, backend="reference").encode_text(ids))


def test_several_models_are_chosen_from(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which one is meant, the trained weights or their average, nobody can know."""
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    state: State = load_file(ours / "model.safetensors")
    average = {name: np.asarray(value + value.dtype.type(1)) for name, value in state.items()}
    file = tmp_path / "both.pt"
    file.write_bytes(as_torch({"state_dict": state, "state_dict_ema": under("module.", average)}))
    for call in (lambda: convert(file, tmp_path / "out"), lambda: AutoModel.from_pretrained(file, config=CONFIG)):
        with pytest.raises(
            Doubt, match=r"both\.pt: .*several models.*'state_dict', 'state_dict_ema\.module'.*--prefix"
        ):
            call()
    same_tensors(open_source(file, Options(config=CONFIG, prefix="state_dict")), ours)
    config = tmp_path / "config.json"
    config.write_bytes((ours / "config.json").read_bytes())
    arguments = ["convert", str(file), str(tmp_path / "b"), "--prefix", "state_dict_ema.module"]
    assert main([*arguments, "--config", str(config)]) == 0
    assert np.array_equal(load_file(tmp_path / "b" / "model.safetensors")["visual.proj"], average["visual.proj"])
    assert main(["convert", str(file), str(tmp_path / "c"), "--prefix", "teacher"]) == 1
    assert "No model is under 'teacher.'; there are: 'state_dict'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: under("model.", state | {"adapter.weight": ONE}), "unexpected 'adapter.weight'"),
        (lambda state: under("base_model.model.", state | {"visual.lora_A": ONE}), "unexpected 'visual.lora_A'"),
        (lambda state: state | {"loss": ONE}, "unexpected 'loss'"),
        (lambda state: state | {"_orig_mod.ln_final.bias": ONE}, "'ln_final.bias' twice"),
        (lambda state: under("decoder.", {"embeddings.weight": ONE}), "have names of no layout of CLIP"),
    ],
)
def test_what_is_in_a_model_and_is_none_of_its_tensors(
    change: Callable[[State], State], message: str, ours: Path, tmp_path: Path
) -> None:
    state = change(load_file(ours / "model.safetensors"))
    (tmp_path / "x.pt").write_bytes(as_torch(state))
    (tmp_path / "x.safetensors").write_bytes(save(state))
    for file in ("x.pt", "x.safetensors"):
        with pytest.raises(WeightsError, match=message.replace(".", r"\.")):
            convert(tmp_path / file, tmp_path / "out", SETTLED)


def test_what_scripts_save_beside_weights_is_passed_over(ours: Path, tmp_path: Path) -> None:
    """A command line that argparse has read, numbers of numpy, a device: opcodes as pickle writes them."""
    namespace = b"cargparse\nNamespace\n)\x81}X\x02\x00\x00\x00lrG?\x50\x62\x4d\xd2\xf1\xa9\xfcsb"
    number = Call(
        "numpy._core.multiarray", "scalar",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        Call("_codecs", "encode", "00000000", "latin1"),
    )  # fmt: skip
    state = load_file(ours / "model.safetensors")
    (tmp_path / "x.pt").write_bytes(as_torch({"model": state, "args": namespace, "best": number, "device": ARGS}))
    same_tensors(open_source(tmp_path / "x.pt", SETTLED), ours)
    (tmp_path / "y.pt").write_bytes(as_torch({"model": state, "args": Call("argparse", "ArgumentParser")}))
    with pytest.raises(ClipError, match=r"asks for 'argparse\.ArgumentParser'"):
        open_source(tmp_path / "y.pt")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("visual.class_embedding", ""),
        ("a.visual._orig_mod.class_embedding", "a."),
        ("_orig_mod.visual.conv1.weight", "_orig_mod."),
        ("visual.layer1.0.conv1.weight", None),
        ("text.token_embedding.weight", ""),
        ("my_token_embedding.weight", None),
        ("m.text_model.embeddings.token_embedding.weight", "m."),
        ("optimizer.token_embedding.weight.exp_avg", None),
        ("", None),
    ],
)
def test_landmarks(name: str, prefix: str | None) -> None:
    assert before_landmark(name, LANDMARKS) == prefix
