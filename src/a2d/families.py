"""Model families: one record for each, with everything that depends on a model's family.

`FAMILIES` holds the records by ``config.model_type``. `register_family` adds one. Other modules ask
the functions below, and never compare model types or probe a configuration for attributes.

This module imports neither PyTorch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from a2d.errors import UserError
from a2d.plugin_errors import NAME_THE_FILE
from a2d.plugins import Registry, check_entry

SIZES = ("encoder_layers", "decoder_layers", "heads", "width", "feed_forward", "dropout")
"""Sizes that every family has, by the names of `a2d.models.students.student_of`."""

ROLES = ("query", "key", "value", "output", "expand", "contract")
"""Roles of the linear modules of a layer: of attention, and of the feed-forward block."""

OPTIONAL_SIZES = (
    "decoder_heads",
    "decoder_feed_forward",
    "attention_dropout",
    "activation_dropout",
)
"""Sizes that a family may lack. A decoder without sizes of its own has the encoder's."""


class Geometry(NamedTuple):
    """Layers and heads of an encoder-decoder, which decide how many attention maps it has."""

    encoder_layers: int
    decoder_layers: int
    encoder_heads: int
    decoder_heads: int

    @classmethod
    def of(cls, config: Any) -> Geometry:
        """Read the geometry from a transformers configuration."""
        sizes = sizes_of(config)
        heads = sizes["heads"]
        depths = sizes["encoder_layers"], sizes["decoder_layers"]
        return cls(*depths, heads, sizes.get("decoder_heads", heads))

    def layers(self, group: str) -> int:
        """Layers that attend in `group`."""
        return self.encoder_layers if group == "encoder" else self.decoder_layers

    def heads(self, group: str) -> int:
        """Heads per layer in `group`."""
        return self.encoder_heads if group == "encoder" else self.decoder_heads

    def channels(self, group: str) -> int:
        """Number of attention maps (layers x heads) in `group`."""
        return self.layers(group) * self.heads(group)

    def __str__(self) -> str:
        """Layers x heads in the usual short form, such as ``3+3 x 8``."""
        heads = {self.encoder_heads, self.decoder_heads}
        return f"{self.encoder_layers}+{self.decoder_layers} x " + "/".join(map(str, sorted(heads)))


def attention_group(module: Any) -> str:
    """The group of an attention module, by the flags that transformers sets on most of them.

    Returns:
        ``encoder``, ``decoder`` (its self-attention) or ``cross``.
    """
    if not module.is_decoder:
        return "encoder"
    return "decoder" if module.is_causal else "cross"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything that depends on a model's family.

    A *setting* is an attribute of the model's configuration.

    Attributes:
        model_type: the configurations' ``model_type``.
        sizes: size (`SIZES`, `OPTIONAL_SIZES`) → the settings that hold it. The first one is read;
            all are set.
        activation: setting that names the activation of the feed-forward layers.
        head_width: setting that holds the width of one head; None: the model's width is divided
            by the number of heads.
        positions: setting that holds the number of positions; None: positions are relative, and a
            sentence may have any length.
        layers: name of the list of layers in the modules ``encoder`` and ``decoder``.
        projections: last part of the names of a layer's linear modules → its role: ``query``,
            ``key``, ``value`` or ``output`` (of attention), ``expand`` or ``contract`` (of the
            feed-forward block: to its neurons, and back). Without them, students cannot start from
            a teacher of other widths or heads.
        sinusoidal: whether positions are sines (first half of the channels) and cosines.
        scaled_embeddings: setting that says whether token embeddings are multiplied by the square
            root of the width; None: they never are.
        head_bias: end of the names of weights of shape (distances, heads); None: no weight has one
            column per head. Where only one layer has such a weight, it is the first.
        computed_weights: ends of the names of weights that are computed, not learned. Releases may
            lack them.
        deeper_decoder: whether the decoder may have more layers than the encoder. transformers
            makes as many caches as the encoder has layers for models such as T5.
        scratch: whether `a2d.models.loading.new_model` builds models of this family. It then
            builds all students of this family that start at random.
        frozen_padding: whether the padding token's embedding must not learn. The decoder starts
            from it, and inference engines take it for zero.
        layerdrops: settings, and attributes of modules, that hold the rate at which whole layers
            are dropped in training. Attention capture sets them to 0, because attention maps are
            dropped together with their layers.
        group: function from an attention module to its group, as `attention_group`.
        vocabulary_sizes: settings that hold the size of the vocabulary.
        one_vocabulary: setting that is False where source and target have different
            vocabularies; None: they never have.
        language_codes: regular expression of tokens that are language codes; None: the family has
            no such tokens.
        language_table: attribute of the tokenizer that maps language codes to their tokens; None:
            codes are tokens, or there are none.
        named_tokens: settings of ``tokenizer_config.json`` that hold a number of tokens without
            text, which transformers names one by one.
        filler_tokens: the same, of tokens that only fill up the vocabulary. A trimmed vocabulary
            has none.
        ctranslate2_loader: name of the loader in `ctranslate2.converters.transformers`; None:
            CTranslate2 cannot take the model.
        prepare_export: function that changes a model just before CTranslate2's loader reads it.
    """

    model_type: str
    sizes: Mapping[str, tuple[str, ...]]
    activation: str
    head_width: str | None = None
    positions: str | None = None
    layers: str = "layers"
    projections: Mapping[str, str] = field(default_factory=dict)
    sinusoidal: bool = False
    scaled_embeddings: str | None = None
    head_bias: str | None = None
    computed_weights: tuple[str, ...] = ()
    deeper_decoder: bool = True
    scratch: bool = False
    frozen_padding: bool = False
    layerdrops: tuple[str, ...] = ()
    group: Callable[[Any], str] = field(default=attention_group, compare=False)
    vocabulary_sizes: tuple[str, ...] = ("vocab_size",)
    one_vocabulary: str | None = None
    language_codes: str | None = None
    language_table: str | None = None
    named_tokens: tuple[str, ...] = ()
    filler_tokens: tuple[str, ...] = ()
    ctranslate2_loader: str | None = None
    prepare_export: Callable[[Any], None] | None = field(default=None, compare=False)


FAMILIES: Registry[Family] = Registry()
"""Records by model type. The tests compare attention capture with transformers' own attention maps
for each of them."""


def register_family(family: Family) -> Family:
    """Add a record to `FAMILIES`; adding an equal one again changes nothing.

    Returns:
        The record.

    Raises:
        UserError: it is no record, its sizes are not those of `SIZES` and `OPTIONAL_SIZES`, the
            roles of its projections are not those of `ROLES`, or another record has the same model
            type.
    """
    check_entry(family, Family)
    kind = family.model_type
    missing = [size for size in SIZES if not family.sizes.get(size)]
    unknown = [size for size in family.sizes if size not in (*SIZES, *OPTIONAL_SIZES)]
    if missing or unknown:
        problem = f"lacks {missing[0]!r}" if missing else f"has an unknown one, {unknown[0]!r}"
        raise UserError(
            f"the sizes of the family {kind!r} are incomplete or misspelt: it {problem}; give "
            f"{', '.join(SIZES)} and, where the family has them, {', '.join(OPTIONAL_SIZES)}."
        )
    sizes: Mapping[str, object] = family.sizes
    for size, settings in sizes.items():
        if isinstance(settings, str):
            raise UserError(
                f"the size {size!r} of the family {kind!r} is the text {settings!r}: give a tuple "
                f"of settings, ({settings!r},)."
            )
    roles = set(family.projections.values())
    if roles and roles != set(ROLES):
        raise UserError(
            f"the projections of the family {kind!r} have the roles {', '.join(sorted(roles))}: "
            f"give each of {', '.join(ROLES)} to a module, or leave projections out."
        )
    if kind not in FAMILIES:
        FAMILIES[kind] = family
    elif FAMILIES[kind] != family:
        raise UserError(
            f"a different family is registered for the model type {kind!r}: give yours another "
            "model_type, in its configuration class and in its record."
        )
    return family


def family_of(config: Any) -> Family:
    """The record of a configuration's family.

    Raises:
        UserError: there is none.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(
            f"models of type {config.model_type!r} are not supported: attention capture is "
            f"verified for {', '.join(FAMILIES)} only; a family of your own needs its "
            f"file: {NAME_THE_FILE}"
        )
    return family


def sizes_of(config: Any) -> dict[str, Any]:
    """A model's sizes, by the names of `a2d.models.students.student_of`."""
    return {size: getattr(config, names[0]) for size, names in family_of(config).sizes.items()}


def attention_width(config: Any) -> int:
    """Width of a layer's queries, keys and values, all heads together."""
    family, sizes = family_of(config), sizes_of(config)
    each = family.head_width
    width: int = sizes["width"] if each is None else sizes["heads"] * getattr(config, each)
    return width


def uneven_heads(width: int, *heads: int) -> str | None:
    """Say why a new Marian model (`a2d.models.loading.new_model`) cannot have a width and heads.

    Args:
        width: width of the model.
        heads: numbers of heads that the width must be divided among, into even parts.

    Returns:
        The problem and its mend; None if the sizes fit.
    """
    for count in heads:
        if width % (2 * count):
            return (
                f"width {width} cannot be split into {count} heads of an even size: choose a width "
                f"that is a multiple of {2 * count}"
            )
    return None


def positions_of(config: Any) -> int | None:
    """Number of positions that a model tells apart; None: any number, as they are relative."""
    setting = family_of(config).positions
    positions: int | None = None if setting is None else getattr(config, setting)
    return positions


def activation_of(config: Any) -> str:
    """Name of the activation of a model's feed-forward layers."""
    name: str = getattr(config, family_of(config).activation)
    return name


def has_two_vocabularies(config: Any) -> bool:
    """Whether source and target have different vocabularies."""
    setting = family_of(config).one_vocabulary
    return setting is not None and not getattr(config, setting)


# The families that the package brings


def _normalising(before: bool, embeddings: bool) -> Callable[[Any], None]:
    """Set what loaders ask for and transformers 5 no longer saves.

    Args:
        before: whether layers normalise their input, not their output.
        embeddings: whether embeddings are normalised.
    """

    def prepare(model: Any) -> None:
        model.config.normalize_before = before
        model.config.normalize_embedding = embeddings

    return prepare


def _without_padding(model: Any) -> None:
    """Let a Marian model never predict padding, whose row the exported model keeps."""
    model.final_logits_bias[0, model.config.pad_token_id] = -1e4  # float16 holds it


def _scaling_as_configured(model: Any) -> None:
    """Let the output layer scale its input if the model says so.

    The loader scales wherever embeddings are tied. mT5 never scales.
    """
    model.config.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", False)


_SEPARATE_STACKS = {
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "width": ("d_model",),
    "feed_forward": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "decoder_heads": ("decoder_attention_heads",),
    "decoder_feed_forward": ("decoder_ffn_dim",),
    "dropout": ("dropout",),
    "attention_dropout": ("attention_dropout",),
    "activation_dropout": ("activation_dropout",),
}
"""Sizes of the families that descend from BART."""

_BART: dict[str, Any] = {
    "projections": {
        "q_proj": "query",
        "k_proj": "key",
        "v_proj": "value",
        "out_proj": "output",
        "fc1": "expand",
        "fc2": "contract",
    },
    "sizes": _SEPARATE_STACKS,
    "activation": "activation_function",
    "positions": "max_position_embeddings",
    "scaled_embeddings": "scale_embedding",
    "layerdrops": ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"),
}
_LANGUAGE_CODES = "[a-z]{2,3}_[A-Za-z]{2,4}"
"""Codes of mBART (`de_DE`) and NLLB (`deu_Latn`)."""

_T5: dict[str, Any] = {
    "sizes": {
        "encoder_layers": ("num_layers",),
        "decoder_layers": ("num_decoder_layers",),
        "heads": ("num_heads",),
        "width": ("d_model",),
        "feed_forward": ("d_ff",),
        "dropout": ("dropout_rate",),
    },
    "activation": "feed_forward_proj",
    "head_width": "d_kv",
    "layers": "block",
    "projections": {
        "q": "query",
        "k": "key",
        "v": "value",
        "o": "output",
        "wi": "expand",
        "wi_0": "expand",
        "wi_1": "expand",
        "wo": "contract",
    },
    "head_bias": "relative_attention_bias.weight",
    "deeper_decoder": False,
    "named_tokens": ("extra_ids",),
    "prepare_export": _scaling_as_configured,
}

for _family in (
    Family(
        model_type="marian",
        computed_weights=("embed_positions.weight",),
        sinusoidal=True,
        scratch=True,
        frozen_padding=True,
        vocabulary_sizes=("vocab_size", "decoder_vocab_size"),
        one_vocabulary="share_encoder_decoder_embeddings",
        ctranslate2_loader="MarianMTLoader",
        prepare_export=_without_padding,
        **_BART,
    ),
    Family(
        model_type="bart",
        ctranslate2_loader="BartLoader",
        prepare_export=_normalising(before=False, embeddings=True),
        **_BART,
    ),
    Family(
        model_type="mbart",
        language_codes=_LANGUAGE_CODES,
        ctranslate2_loader="MBartLoader",
        prepare_export=_normalising(before=True, embeddings=True),
        **_BART,
    ),
    Family(  # M2M100 and NLLB, whose tokenizers differ
        model_type="m2m_100",
        sinusoidal=True,
        language_codes=_LANGUAGE_CODES,
        language_table="lang_code_to_token",
        filler_tokens=("num_madeup_words",),
        ctranslate2_loader="M2M100Loader",
        **_BART,
    ),
    Family(
        model_type="pegasus",
        computed_weights=("embed_positions.weight",),
        sinusoidal=True,
        named_tokens=("offset",),
        ctranslate2_loader="PegasusLoader",
        prepare_export=_normalising(before=True, embeddings=False),
        **_BART,
    ),
    Family(model_type="t5", ctranslate2_loader="T5Loader", **_T5),
    Family(model_type="mt5", ctranslate2_loader="T5Loader", **_T5),
    Family(model_type="umt5", ctranslate2_loader="UMT5Loader", **_T5),
):
    register_family(_family)
