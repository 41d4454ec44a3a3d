"""Small things that tests share: models, batches, recorded models, comparisons."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import MarianConfig, MarianMTModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from a2d.method.attention import GROUPS
from a2d.method.maps import StackedMaps
from a2d.models.loading import new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.training.distillation import IGNORE_INDEX

TERMS = ("ce", "kd", *GROUPS)
"""Every term that the package's methods have."""

FIXTURES = Path(__file__).parent / "fixtures"


@cache
def load_fixture(name):
    with np.load(FIXTURES / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key != "config/json"}


def assert_close(value, reference, tolerance):
    """Compare shapes, and values relative to the largest reference value."""
    value, reference = torch.as_tensor(value).detach().double(), torch.as_tensor(reference).double()
    assert value.shape == reference.shape
    assert (value - reference).abs().max() <= tolerance * reference.abs().max()


def marian(
    encoder_layers=2,
    decoder_layers=1,
    encoder_heads=2,
    decoder_heads=2,
    *,
    vocabulary=13,
    seed=0,
    **settings,
):
    """A tiny model with peaked attention (large initial weights); padding is its last token."""
    torch.manual_seed(seed)
    defaults = {
        "vocab_size": vocabulary,
        "decoder_vocab_size": vocabulary,
        "d_model": 24,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "init_std": 0.4,
        "max_position_embeddings": 32,
        "pad_token_id": vocabulary - 1,
        "decoder_start_token_id": vocabulary - 1,
        "eos_token_id": 0,
        "forced_eos_token_id": None,
    }
    config = MarianConfig(
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=encoder_heads,
        decoder_attention_heads=decoder_heads,
        **(defaults | settings),
    )
    return MarianMTModel(config).eval()


def batch(source_lengths, target_lengths, *, left=False, vocabulary=13, seed=0):
    """Random sentences: source padded on the right or left, target on the right."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(source_lengths), max(source_lengths)
    ids = torch.randint(0, vocabulary - 1, shape, generator=generator)
    mask = torch.arange(shape[1]) < torch.tensor(source_lengths)[:, None]
    mask = mask.flip(1) if left else mask
    labels = torch.randint(
        0, vocabulary - 1, (len(target_lengths), max(target_lengths)), generator=generator
    )
    valid = torch.arange(labels.shape[1]) < torch.tensor(target_lengths)[:, None]
    return {
        "input_ids": ids.masked_fill(~mask, vocabulary - 1),
        "attention_mask": mask.long(),
        "labels": labels.masked_fill(~valid, IGNORE_INDEX),
    }


def dataset(inputs):
    """The sentences of a batch, without their padding."""
    return Dataset.from_dict(
        {
            "input_ids": [
                ids[mask.bool()].tolist()
                for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
            ],
            "labels": [labels[labels != IGNORE_INDEX].tolist() for labels in inputs["labels"]],
        }
    )


class RecordedModel(nn.Module):
    """Stand-in for an encoder-decoder with recorded maps and logits.

    Args:
        maps: group → attention maps (L, B, H, Q, K).
        logits: (B, T, V).
    """

    def __init__(self, maps, logits):
        super().__init__()
        self.maps = nn.ParameterDict({group: nn.Parameter(m) for group, m in maps.items()})
        self.logits = nn.Parameter(logits)
        self.config = MarianConfig(
            encoder_layers=maps["encoder"].shape[0],
            decoder_layers=maps["decoder"].shape[0],
            encoder_attention_heads=maps["encoder"].shape[2],
            decoder_attention_heads=maps["decoder"].shape[2],
        )

        size = logits.shape[-1]
        self.lm_head = nn.Linear(size, size, bias=False, dtype=logits.dtype).requires_grad_(False)
        self.lm_head.weight.copy_(torch.eye(size))

    def get_output_embeddings(self):
        return self.lm_head

    def prepare_decoder_input_ids_from_labels(self, labels):
        return labels

    def forward(self, attention_capture=None, **inputs):
        if attention_capture is not None:
            for group, layers in self.maps.items():
                caller = SimpleNamespace(
                    is_decoder=group != "encoder", is_causal=group == "decoder"
                )
                for layer in layers:  # no recorded values
                    attention_capture.add(caller, StackedMaps(layer), None)
        return Seq2SeqLMOutput(logits=self.lm_head(self.logits))

    def stacked_gradient(self, group):
        """Gradient w.r.t. the stacked maps (B, L·H, Q, K)."""
        return self.maps[group].grad.transpose(0, 1).flatten(1, 2)


def talkative(texts, folder):
    """Save a random Marian model whose translations depend on the source.

    Returns folder, model and tokenizer.
    """
    tokenizer = train_tokenizer(texts, 400)
    torch.manual_seed(0)
    model = new_model(
        tokenizer, encoder_layers=1, decoder_layers=1, heads=2, width=16, feed_forward=16
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), model.eval(), tokenizer
