"""Small stand-ins for released models: random weights, tokenizers of the real classes."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import sentencepiece
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartTokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PegasusTokenizer,
    T5Tokenizer,
)

from a2d.families import FAMILIES as RECORDS
from a2d.models.tokenizer import train_tokenizer
from a2d.text.corpus import read_corpus

PAIRS = read_corpus("builtin:de-dsb/train")[200:500]

FAMILIES = {
    "opus": "marian",
    "bart": "bart",
    "mbart": "mbart",
    "mbart50": "mbart",
    "m2m100": "m2m_100",
    "nllb": "m2m_100",
    "pegasus": "pegasus",
    "t5": "t5",
    "mt5": "mt5",
    "umt5": "umt5",
}
FAMILIES |= {family: family for family in RECORDS if family not in FAMILIES.values()}
"""Kinds of release → model type. A family with one kind of release has its own name."""

LANGUAGES = {
    "mbart": ("de_DE", "cs_CZ"),
    "mbart50": ("de_DE", "cs_CZ"),
    "m2m100": ("de", "cs"),
    "nllb": ("deu_Latn", "ces_Latn"),
}
"""Language codes of multilingual models; Czech replaces Lower Sorbian, which few models know."""


@cache
def _sentencepiece():
    """File of a unigram model, and its pieces and scores without special pieces."""
    folder = Path(mkdtemp())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text for pair in PAIRS for text in pair),
        model_prefix=str(folder / "pieces"),
        vocab_size=500,
        character_coverage=1.0,
        minloglevel=2,
    )
    file = folder / "pieces.model"
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(3, len(model))]
    return file, pieces


def _merges(pre_tokenizer, alphabet=()):
    """A byte-pair encoding's vocabulary and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=800, show_progress=False, initial_alphabet=list(alphabet)
    )
    tokenizer.train_from_iterator([text for pair in PAIRS for text in pair], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(m) for m in model["merges"]]


def _numbered(names):
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def tokenizer_of(name):
    """A released model's tokenizer class with a vocabulary of our corpus."""
    file, pieces = _sentencepiece()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]

    def unigram(*first):
        return [*((special, 0.0) for special in first), *pieces]

    def saved(vocabulary):
        path = file.parent / f"{name}.json"
        path.write_text(json.dumps(_numbered(vocabulary)))
        return str(path)

    names = [piece for piece, _ in pieces]
    if name == "opus":
        vocabulary = saved(["</s>", "<unk>", *names, "<pad>"])
        return MarianTokenizer(source_spm=str(file), target_spm=str(file), vocab=vocabulary)
    if name == "m2m100":
        return M2M100Tokenizer(vocab_file=saved([*specials, *names]), spm_file=str(file))
    if name == "bart":
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        vocabulary, merges = _merges(pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet)
        return BartTokenizer(
            vocab=_numbered([*specials, *vocabulary, "<mask>"]), merges=merges, mask_token="<mask>"
        )
    if name == "nllb":
        vocabulary, merges = _merges(pre_tokenizers.Metaspace())
        return NllbTokenizer(vocab=_numbered([*specials, *vocabulary]), merges=merges)
    if name == "mbart":
        return MBartTokenizer(vocab=unigram(*specials))
    if name == "mbart50":
        return MBart50Tokenizer(vocab=unigram("<unk>", "<s>", "</s>"))
    if name == "pegasus":
        return PegasusTokenizer(vocab=unigram("<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk>"))
    if "t5" not in name:  # a family outside of this file
        return train_tokenizer((text for pair in PAIRS for text in pair), 500)
    return T5Tokenizer(vocab=unigram("<pad>", "</s>", "<unk>"), extra_ids=10)


def nllb_with_ordinary_codes(plain):
    """NLLB's tokenizer with one language code as an added token and one as an ordinary token."""
    vocabulary, merges = _merges(pre_tokenizers.Metaspace())
    codes = ["deu_Latn", "ces_Latn"]
    names = ["<s>", "<pad>", "</s>", "<unk>", *vocabulary, "<mask>", *(codes if plain else ())]
    tokenizer = NllbTokenizer(vocab=_numbered(names), merges=merges, extra_special_tokens=[])
    if not plain:
        tokenizer.add_tokens([AddedToken(code, special=False, normalized=False) for code in codes])
    return tokenizer


def config_of(family, sizes, *, head_width, **settings):
    """Configuration of any family, without dropout; sizes have the names of its record.

    The width of a head is for families that have such a setting.
    """
    record = RECORDS[family]
    sizes = dict.fromkeys(("dropout", "attention_dropout"), 0.0) | sizes
    family_sizes = {name: size for key, size in sizes.items() for name in record.sizes.get(key, ())}
    family_sizes |= dict.fromkeys(record.layerdrops, 0.0)
    family_sizes |= {} if record.head_width is None else {record.head_width: head_width}
    return AutoConfig.for_model(family, **family_sizes, **settings)


def model_of(name, tokenizer, *, layers=(3, 2), heads=2, seed=0):
    """A random model of a family, configured like its releases."""
    ids = [*tokenizer.get_vocab().values(), *getattr(tokenizer, "id_to_lang_token", {})]
    size = max(ids) + (9 if name in ("m2m100", "t5") else 1)  # these have more rows than tokens
    start = "eos" if name in (*LANGUAGES, "bart") else "pad"
    config = config_of(
        FAMILIES[name],
        {
            "encoder_layers": layers[0],
            "decoder_layers": layers[1],
            "heads": heads,
            "width": 24,
            "feed_forward": 40,
        },
        head_width=12,
        init_std=0.3,
        scale_embedding=True,
        vocab_size=size,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=getattr(tokenizer, f"{start}_token_id"),
        forced_eos_token_id=None,
    )
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    if name == "opus":
        model.generation_config.bad_words_ids = [[tokenizer.pad_token_id]]
    return model


def released(name, folder, **sizes):
    """Save a release of `name` in a folder; return its model and tokenizer."""
    tokenizer = tokenizer_of(name)
    model = model_of(name, tokenizer, **sizes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    codes = dict(zip(("src_lang", "tgt_lang"), LANGUAGES.get(name, ()), strict=False))
    return model, AutoTokenizer.from_pretrained(folder, **codes)
