"""Which kind of work an operator is, by the names that ONNX Runtime, OpenVINO, torch and clipref.ops give them."""

from __future__ import annotations

KINDS = ("products", "attention", "normalisation", "activation", "element-wise", "conversion", "copies", "unsorted")

# ONNX Runtime's, whose products of two activations are attention's (`onnx_kind`).
_ONNX = {
    "products": "Conv FusedConv Gemm MatMul FusedMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul "
    "QLinearConv QLinearMatMul QGemm ConvInteger NhwcFusedConv MatMulNBits",
    "attention": "Softmax QLinearSoftmax Attention MultiHeadAttention QAttention Where",
    "normalisation": "LayerNormalization SkipLayerNormalization SimplifiedLayerNormalization BatchNormalization",
    "activation": "QuickGelu Gelu FastGelu BiasGelu Sigmoid QLinearSigmoid Erf Tanh Relu",
    "element-wise": "Add Sub Mul Div Pow Sqrt AveragePool QLinearAveragePool ReduceMean QLinearAdd QLinearMul",
    "conversion": "Cast QuantizeLinear DequantizeLinear DynamicQuantizeLinear",
    "copies": "Transpose Reshape Slice Concat Gather GatherND Unsqueeze Squeeze Expand Split Identity Shape "
    "ReorderInput ReorderOutput MemcpyToHost MemcpyFromHost QLinearConcat Flatten ArgMax Range Tile",
}
# OpenVINO's, whose products with weights are of type FullyConnected, and whose MatMul is attention's.
_OPENVINO = {
    "products": "FullyConnected FullyConnectedCompressed FullyConnectedQuantized FullyConnectedQuantizedLegacy "
    "Convolution GroupConvolution",
    "attention": "MatMul Softmax SoftMax ScaledDotProductAttention ScaledDotProductAttentionWithKVCache Select MHA",
    "normalisation": "MVN MulAdd RMSNorm NormalizeL2",
    "activation": "Swish Gelu Sigmoid Relu Tanh Erf",
    "element-wise": "Add Subtract Multiply Divide Power Sqrt Eltwise AvgPool Pooling ReduceMean Reduce Subgraph "
    "Snippet ReduceSum PowerStatic Maximum Minimum",
    "conversion": "Convert FakeQuantize Quantize",
    "copies": "Reorder Transpose Reshape Concat ConcatInference Concatenation Gather GatherND StridedSlice Slice Split "
    "VariadicSplit Broadcast Unsqueeze Squeeze Tile ShapeOf Input Output Parameter Result Constant Const Crop "
    "MemoryInput MemoryOutput QKVProjection",
}
# torch's, without `aten::`; one that another called is sorted by the first of these two that has a kind for sure.
_TORCH = {
    "products": "linear addmm mm matmul convolution _convolution mkldnn_convolution conv2d mkldnn_linear "
    "_linear_pointwise _convolution_pointwise mkldnn_rnn_layer _slow_conv2d_forward thnn_conv2d",
    "attention": "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu softmax _softmax bmm "
    "baddbmm _scaled_dot_product_attention_math _native_multi_head_attention _safe_softmax",
    "normalisation": "layer_norm native_layer_norm batch_norm native_batch_norm _native_batch_norm_legit_no_training",
    "activation": "sigmoid gelu relu tanh erf clamp_min clamp",
    "element-wise": "add add_ mul mul_ div sub avg_pool2d mean sum",
    "conversion": "to _to_copy",
    "copies": "copy_ cat clone contiguous index index_select embedding gather take_along_dim expand slice select view "
    "reshape transpose permute unsqueeze squeeze as_strided as_strided_ t empty empty_strided empty_like resize_ stack "
    "unbind _reshape_alias _unsafe_view chunk split narrow arange argmax unflatten fill_ zero_ zeros zeros_like detach "
    "lift_fresh alias numpy_T detach_ movedim flatten swapaxes result_type resolve_conj resolve_neg",
}
# clipref.ops', and what `native` computes when a product is asked for its values.
_OPERATIONS = {
    "products": "linear conv2d multiply _convolved",
    "attention": "attention softmax",
    "normalisation": "layer_norm batch_norm",
    "activation": "quick_gelu gelu relu",
    "element-wise": "add_positions avg_pool",
    "copies": "prepend_mean prepend_token embed take",
}
# The kinds of compiled kernels, by a part of their names: the first that is in one counts.
_FUSED = {
    "softmax": "attention",
    "layer_norm": "normalisation",
    "batch_norm": "normalisation",
    "sigmoid": "activation",
    "gelu": "activation",
    "relu": "activation",
    "gemm": "products",
    "_to_copy": "conversion",
    "add": "element-wise",
    "mul": "element-wise",
    "cpp_fused": "copies",
}


def _by_name(table: dict[str, str]) -> dict[str, str]:
    return {name: kind for kind, names in table.items() for name in names.split()}


ONNX, OPENVINO, TORCH, OPERATIONS = map(_by_name, (_ONNX, _OPENVINO, _TORCH, _OPERATIONS))


def onnx_kind(operator: str, shapes: list[list[int]]) -> str:
    """The kind of one of ONNX Runtime's operators, whose inputs have these shapes."""
    of_heads = operator in ("MatMul", "FusedMatMul") and len(shapes) >= 2 and min(map(len, shapes[:2])) == 4
    return "attention" if of_heads else ONNX.get(operator, "unsorted")


def openvino_kind(node: str, layers: str = "") -> str:
    """The kind of one of OpenVINO's nodes, by its type, and of several layers in one by what these were called."""
    of_attention = node == "Subgraph" and any(word in layers.lower() for word in ("matmul", "softmax", "attention"))
    return "attention" if of_attention else OPENVINO.get(node, "unsorted")


def torch_kind(names: list[str]) -> str:
    """The kind of an operator of torch, its own name first, then those of the operators that called it.

    What attention, a norm or a change of dtype calls is part of that.
    """
    plain = [name.rpartition("::")[2] for name in names]
    kinds = [TORCH.get(name) for name in plain]
    for outer in ("attention", "normalisation", "conversion"):
        if outer in kinds[1:] and not (outer == "attention" and kinds[0] == "products"):
            return outer
    if kinds[0] is None:
        return next((kind for part, kind in _FUSED.items() if part in plain[0]), "unsorted")
    return kinds[0]
