"""What an embedding is made of, and what says which part of an image or a text a cosine comes from.

    from clipref import AutoModel, look
    model = AutoModel.from_pretrained("clipref/shapes-vit")
    look.decompose(model, image="scene.png").scores(model.embed_text("a red circle")).maps  # [1, rows, columns]

| function | what it says | what it can't say |
|---|---|---|
| `decompose`, `direct_effect` | the exact split of an embedding, or of cosines, over layers, heads, positions, MLPs, biases | what a part would be worth alone |
| `occlusion`, `rise` | what hiding a part of the image does to a cosine | anything of the unaltered image |
| `rollout` | how positions reach the pooled token by attention alone | anything of the text |
| `logit_lens` | what each layer's stream would be as an embedding | much of early layers |
| `patching` | what one activation of another image does to a cosine | what several do together |
| `text_span`, `head_roles`, `head_outputs` | which texts a head's output varies along, and how much of it | that other texts wouldn't do as well |
| `word_effects` | which word of a text counts, in two ways that disagree | which of them to believe |

Each returns an object with arrays by name. Nothing is kept between calls. Looked at is the reference, in the model's
dtype; only `occlusion`, `rise` and the words left out run on the model's own backend.
"""  # noqa: E501

from __future__ import annotations

from .decomposition import Decomposition as Decomposition
from .decomposition import Scores as Scores
from .decomposition import decompose as decompose
from .decomposition import direct_effect as direct_effect
from .heads import HeadRoles as HeadRoles
from .heads import TextSpan as TextSpan
from .heads import head_outputs as head_outputs
from .heads import head_roles as head_roles
from .heads import text_span as text_span
from .layers import Lens as Lens
from .layers import Patching as Patching
from .layers import Rollout as Rollout
from .layers import logit_lens as logit_lens
from .layers import patching as patching
from .layers import rollout as rollout
from .perturbation import Maps as Maps
from .perturbation import occlusion as occlusion
from .perturbation import rise as rise
from .words import Token as Token
from .words import WordEffects as WordEffects
from .words import tokens_of as tokens_of
from .words import word_effects as word_effects
