"""instant-clip-tokenizer, in Rust."""

import instant_clip_tokenizer
import numpy as np


class Engine:
    def __init__(self, folder):
        self.tokenizer = instant_clip_tokenizer.Tokenizer()

    def tokenize(self, texts, context_length, truncate):
        return self.tokenizer.tokenize_batch(texts, context_length).astype(np.int64)
