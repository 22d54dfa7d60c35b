"""The table of known ways to get CLIP's image towers wrong, as catalogue.py has it of both transformers."""

from __future__ import annotations

import numpy as np

from clipref import ops

from . import changes, constants, formulas
from .fault import Fault

FAULTS: tuple[Fault, ...] = (
    # The vision transformer.
    Fault(
        "ln-pre-eps-1e-6",
        "BLK-1",
        "eps 1e-6 in ln_pre alone",
        ("vit",),
        changes.other_norm("image", "ln_pre", formulas.layer_norm(1e-6)),
    ),
    Fault(
        "ln-post-eps-1e-6",
        "BLK-1",
        "eps 1e-6 in ln_post alone",
        ("vit",),
        changes.other_norm("image", "ln_post", formulas.layer_norm(1e-6)),
    ),
    Fault("ln-pre-missing", "VIT-4", "no ln_pre", ("vit",), changes.without_norm("image", "ln_pre")),
    Fault("ln-post-missing", "VIT-5", "no ln_post", ("vit",), changes.without_norm("image", "ln_post")),
    Fault(
        "class-token-last",
        "VIT-2",
        "the class token after the patches",
        ("vit",),
        changes.operations(prepend_token=lambda x, token: np.roll(ops.prepend_token(x, token), -1, axis=1)),
    ),
    Fault(
        "vit-positions-missing",
        "VIT-3",
        "no positional embedding of patches",
        ("vit",),
        changes.parameter("image", "positional_embedding", np.zeros_like),
    ),
    Fault(
        "vit-positions-shifted",
        "VIT-3",
        "positions shifted by one, as where the class token comes last",
        ("vit",),
        changes.parameter("image", "positional_embedding", lambda table: np.roll(table, 1, axis=0)),
    ),
    Fault(
        "vit-positions-reversed",
        "VIT-3",
        "the patches' positions from the last to the first",
        ("vit",),
        changes.parameter("image", "positional_embedding", lambda table: np.concatenate([table[:1], table[:0:-1]])),
    ),
    Fault(
        "patches-columns-first",
        "VIT-1",
        "patches read column by column",
        ("vit",),
        changes.operations(conv2d=formulas.columns_first),
    ),
    Fault(
        "projection-missing",
        "VIT-5",
        "no image projection",
        ("vit",),
        changes.parameter("image", "proj", changes.identity),
    ),
    # Both image towers.
    Fault(
        "colours-exchanged",
        "IMG-7",
        "the channels taken as blue, green, red",
        ("vit", "resnet"),
        changes.operations(conv2d=formulas.exchange_colours),
    ),
    Fault(
        "kernels-flipped",
        "OPS-1",
        "convolutions that flip their kernels",
        ("vit", "resnet"),
        changes.operations(conv2d=formulas.flip_kernels),
    ),
    # The ResNet.
    Fault(
        "padding-same",
        "OPS-1",
        "TensorFlow's SAME padding",
        ("resnet",),
        changes.operations(conv2d=formulas.same_padding),
    ),
    Fault(
        "padding-edge",
        "OPS-1",
        "borders repeated instead of zeros",
        ("resnet",),
        changes.operations(conv2d=formulas.edge_padding),
    ),
    Fault("relu6", "RN-1", "ReLU6 instead of ReLU", ("resnet",), changes.operations(relu=lambda x: np.clip(x, 0, 6))),
    Fault(
        "bn-eps-1e-3",
        "RN-3",
        "BatchNorm eps 1e-3",
        ("resnet",),
        changes.operations(batch_norm=formulas.batch_norm(1e-3)),
    ),
    Fault(
        "bn-eps-1e-6",
        "RN-3",
        "BatchNorm eps 1e-6",
        ("resnet",),
        changes.operations(batch_norm=formulas.batch_norm(1e-6)),
    ),
    Fault(
        "bn-eps-outside",
        "RN-3",
        "BatchNorm eps added to the standard deviation",
        ("resnet",),
        changes.operations(batch_norm=constants.batch_norm_eps_outside),
    ),
    Fault(
        "bn-of-the-batch",
        "RN-3",
        "BatchNorm with the batch's statistics",
        ("resnet",),
        changes.operations(batch_norm=formulas.batch_norm_of_the_batch),
    ),
    Fault(
        "bn-mean-forgotten",
        "RN-3",
        "running means never loaded",
        ("resnet",),
        changes.never_loaded("running_mean", 0.0),
    ),
    Fault(
        "bn-variance-forgotten",
        "RN-3",
        "running variances never loaded",
        ("resnet",),
        changes.never_loaded("running_var", 1.0),
    ),
    Fault(
        "max-pool",
        "RN-1",
        "max pools instead of average pools",
        ("resnet",),
        changes.operations(avg_pool=formulas.max_pool),
    ),
    Fault(
        "conv2-strided",
        "RN-2",
        "the stride in conv2 instead of a pool behind it",
        ("resnet",),
        changes.strided_second_convolution,
    ),
    Fault("shortcut-strided", "RN-2", "the shortcut strided instead of pooled", ("resnet",), changes.strided_shortcut),
    Fault("relu-missing", "RN-1", "no ReLU", ("resnet",), changes.operations(relu=lambda x: x)),
    Fault(
        "mean-query-missing",
        "RN-4",
        "the attention pool asks with the first position, not the mean",
        ("resnet",),
        changes.operations(prepend_mean=lambda x: np.concatenate([x[:, :1], x], axis=1)),
    ),
    Fault(
        "projection-transposed",
        "VIT-5",
        "proj read as if it were stored transposed",
        ("vit",),
        changes.parameter("image", "proj", changes.transpose_numbers),
    ),
)
