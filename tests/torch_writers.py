"""Checkpoints as torch and transformers themselves save them, from one of ours. Needs torch and the oracles."""

import gc
import warnings
from pathlib import Path
from typing import Any

import torch

from clipref.weights import Checkpoint

from . import cases
from .oracles import OpenAI, Transformers


def openai_module(checkpoint: Checkpoint) -> Any:
    """OpenAI's module in the precision in which its weights are published: float16 but for norms and embeddings."""
    model = OpenAI(checkpoint, torch.float32).model
    for module in model.modules():
        module._forward_hooks.clear()
    norm = type(model.ln_final)

    def forward(self: Any, x: Any) -> Any:  # the cast that the oracle takes out
        return torch.nn.functional.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias).to(x.dtype)

    norm.forward = forward
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()
    for owner, name in ((model, "text_projection"), (model.visual, "proj")):
        if getattr(owner, name, None) is not None:
            getattr(owner, name).data = getattr(owner, name).data.half()
    return model


def save_torchscript(path: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """An archive like OpenAI's: the module traced and saved, its sizes among the buffers. Returns what is in it."""
    model, config = openai_module(checkpoint), checkpoint.config
    sizes = (config.vision.resolution, config.text.context_length, config.text.vocab_size)
    for name, value in zip(("input_resolution", "context_length", "vocab_size"), sizes, strict=True):
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    pixels = torch.from_numpy(cases.pixels(config, 1))
    ids = torch.from_numpy(cases.ids(config, 1))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every shape that it takes for a constant
        traced = torch.jit.trace(model, (pixels, ids), check_trace=False)
        torch.jit.save(traced, str(path))
    gc.collect()
    return dict(model.state_dict())


def save_state_dict(path: Path, checkpoint: Checkpoint, *, training: bool = False) -> dict[str, torch.Tensor]:
    """A torch.save file: the bare state dict, or what a training run leaves, with `module.` before each name."""
    state: dict[str, torch.Tensor] = dict(openai_module(checkpoint).state_dict())
    if training:
        wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
        torch.save({"epoch": 32, "name": "run", "state_dict": wrapped, "optimizer": optimizer}, path)
    else:
        torch.save(state, path)
    return state


def save_pretrained(folder: Path, checkpoint: Checkpoint, *, dtype: Any = torch.float16, shard: str = "5GB") -> Any:
    """A folder as transformers' save_pretrained writes it; returns the model."""
    model = Transformers(checkpoint, dtype).model
    for module in model.modules():
        module._forward_hooks.clear()
    model.save_pretrained(folder, max_shard_size=shard)
    return model
