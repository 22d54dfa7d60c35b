"""What users of roboflow's inference_models write out of habit, and what does the same here.

Its `AutoModel.from_pretrained` has the same name and takes other arguments; whoever brings them along gets an answer.
"""

from __future__ import annotations

OPTIONS = {
    "device": "it is an option of backend='torch' alone; with ONNX Runtime it is providers=['CUDAExecutionProvider']. "
    "Leave it out to compute on the processor.",
    "onnx_execution_providers": "it is providers=[...] here, of backend='onnx'.",
    "max_batch_size": "it is batch_size= here, of embed_images; texts need none.",
    "batch_size": "it is an argument of embed_images here; texts need none.",
    "api_key": "no key is needed: weights come from Hugging Face, or from a path. For private repositories of Hugging "
    "Face set HF_TOKEN.",
    "weights_provider": "weights come from Hugging Face: a published id such as 'clip/ViT-B-32', or 'hf:owner/name'.",
    "model_package_id": "a model has one package here; leave it out, or choose revision=.",
    "quantization": "it is precision= here, such as 'int8' or 'bfloat16'.",
    "verify_hash_while_download": "downloads are always checked; digest= says which weights are expected.",
    "allow_untrusted_packages": "nothing that comes with weights is run here; leave it out.",
    "allow_local_code_packages": "nothing that comes with weights is run here; leave it out.",
    "model_type": "a checkpoint says itself what it is; leave it out.",
    "task_type": "every model here embeds images and texts; leave it out.",
    "verbose": "nothing is logged here; leave it out. embed_images(..., progress=True) shows a bar.",
}

BACKENDS = {
    "torch-script": "clipref needs no torch: backend='auto' takes the fastest that is installed.",
    "hugging-face": "clipref computes by itself what transformers would: backend='auto' takes the fastest installed.",
    "trt": "through ONNX Runtime: backend='onnx', providers=['TensorrtExecutionProvider'], where that is built in.",
}


def option_advice(name: str) -> str:
    """Advice what to use instead of an option, with a blank before it; nothing if the option is unknown there too."""
    return f" {name}: {OPTIONS[name]}" if name in OPTIONS else ""


def backend_advice(name: str) -> str:
    """Advice what to use instead of a backend, with a blank before it; nothing if the backend is unknown there too."""
    return f" {name}: {BACKENDS[name]}" if name in BACKENDS else ""
