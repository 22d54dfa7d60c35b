"""Two implementations of CLIP that share no code with this one, which the golden values are made with.

They are engines of the conformance suite too. Imported by tests marked `oracle` and by make_goldens.py, never by the
default suite, because they import torch.
"""

from clipref.conformance.engines.torch_models import OpenAI as OpenAI
from clipref.conformance.engines.torch_models import Transformers as Transformers
from clipref.conformance.engines.torch_models import openai_code as openai_code
from clipref.conformance.engines.torch_models import openai_tokenizer as openai_tokenizer
from clipref.conformance.engines.torch_models import state as state
