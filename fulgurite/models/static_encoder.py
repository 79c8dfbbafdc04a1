"""A text encoder without a network: a text's vector is the mean of its tokens' vectors.

    tokens [n, t] -> rows of a table [V, d] -> mean over the text

Reference: Tulkens and van Dongen, "Model2Vec: Fast State-of-the-Art Static Embeddings", 2024,
https://github.com/MinishLab/model2vec; weighting of tokens by Arora et al., "A Simple but Tough-to-Beat Baseline for
Sentence Embeddings", ICLR 2017, https://openreview.net/forum?id=SyK00v5xx.
Differs from both: a token's weight is the length of its row, so that training and codecs see one table.

It is a network of transformers as any other, once this module is imported: ``AutoModel`` reads its folder, codecs code
its table, and ``Pooling`` takes the mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

MODEL_TYPE = "fulgurite_static"


class StaticEncoderConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Size of the table.

    Args:
        vocab_size: Tokens, ``V``.
        hidden_size: Width of their vectors, ``d``.
        pad_token_id: Of the tokenizer.
    """

    model_type = MODEL_TYPE

    def __init__(
        self, vocab_size: int = 1, hidden_size: int = 1, pad_token_id: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.pad_token_id = pad_token_id


class StaticEncoder(PreTrainedModel):  # type: ignore[no-untyped-call]
    """One vector for each token, whatever stands beside it.

    Example:
        >>> encoder = StaticEncoder(StaticEncoderConfig(vocab_size=7, hidden_size=3))
        >>> encoder(input_ids=torch.tensor([[1, 2, 2]])).last_hidden_state.shape
        torch.Size([1, 3, 3])
    """

    config_class = StaticEncoderConfig
    base_model_prefix = ""

    def __init__(self, config: StaticEncoderConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The table."""
        return self.embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """Vectors of the tokens, ``[n, t, d]``; the mask is for who takes the mean."""
        return BaseModelOutput(last_hidden_state=self.embeddings(input_ids))

    @classmethod
    def of(cls, table: Tensor, pad_token: int | None = None) -> StaticEncoder:
        """The encoder with this table, ``[V, d]``."""
        with torch.device("meta"):
            encoder = cls(StaticEncoderConfig(len(table), table.shape[1], pad_token))
        encoder.embeddings.weight = nn.Parameter(table.detach().float().contiguous())
        encoder.train(False)
        return encoder


AutoConfig.register(MODEL_TYPE, StaticEncoderConfig)
AutoModel.register(StaticEncoderConfig, StaticEncoder)
