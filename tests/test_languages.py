"""Language codes stay out of texts, even if they are ordinary tokens of a tokenizer."""

import pytest
from plain import without_a2d
from pretrained import PAIRS, model_of, nllb_with_ordinary_codes, tokenizer_of
from tokenizers import processors
from transformers import AutoTokenizer, EvalPrediction, PreTrainedTokenizerFast

from a2d.errors import UserError
from a2d.models.decoding import translate
from a2d.models.export import export
from a2d.models.exported import ExportedModel
from a2d.models.loading import load_model
from a2d.models.students import student_of
from a2d.models.teachers import prepare_teacher
from a2d.models.tokenizer import load_tokenizer, mark_languages, train_tokenizer
from a2d.runs.card import snippet
from a2d.text.batching import tokenise
from a2d.text.evaluation import score
from a2d.training import trainer as training
from a2d.training.config import A2DConfig
from a2d.training.trainer import A2DTrainer

TEXTS = [pair.target for pair in PAIRS[:5]]
CODES = {
    "m2m100": ("de", "cs"),
    "added": ("deu_Latn", "ces_Latn"),
    "plain": ("deu_Latn", "ces_Latn"),
}
TOKENS = {"m2m100": "__cs__", "added": "ces_Latn", "plain": "ces_Latn"}
every_kind = pytest.mark.parametrize("kind", CODES)


def ordinary(kind, folder):
    """A release whose language codes are not special tokens, as for M2M100 in transformers 5."""
    plain = kind == "plain"
    tokenizer = tokenizer_of("m2m100") if kind == "m2m100" else nllb_with_ordinary_codes(plain)
    model = model_of("m2m100" if kind == "m2m100" else "nllb", tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    codes = dict(zip(("src_lang", "tgt_lang"), CODES[kind], strict=True))
    return AutoTokenizer.from_pretrained(folder, **codes)


def decoded(tokenizer):
    labels = tokenizer(text_target=TEXTS)["input_ids"]
    return [text.strip() for text in tokenizer.batch_decode(labels, skip_special_tokens=True)]


@every_kind
def test_codes_are_special_tokens_after_loading(kind, tmp_path):
    raw = ordinary(kind, tmp_path)
    before = raw(text_target=TEXTS)["input_ids"]
    assert all(TOKENS[kind] in text for text in decoded(raw)), "or else there is nothing to mend"
    tokenizer_of_model = load_tokenizer(tmp_path, CODES[kind])
    tokenizer_of_model.save_pretrained(tmp_path / "saved")
    for tokenizer in (tokenizer_of_model, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert tokenizer(text_target=TEXTS)["input_ids"] == before
        assert not any(TOKENS[kind] in text for text in decoded(tokenizer))
        assert decoded(tokenizer)[0].split() == TEXTS[0].split()


@every_kind
@pytest.mark.parametrize("trim", [True, False])
def test_translations_have_no_codes(kind, trim, tmp_path):
    ordinary(kind, tmp_path / "release")
    folder = tmp_path / "teacher"
    prepare_teacher(
        str(tmp_path / "release"), folder, CODES[kind], pairs=PAIRS[:50] if trim else None
    )
    tokenizer = load_tokenizer(folder)
    model = student_of(load_model(folder), decoder_layers=1)
    model.generation_config.update(max_length=12, num_beams=2)
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    sources = [pair.source for pair in PAIRS[:8]]
    translations = translate(model, tokenizer, sources)
    code = tokenizer.convert_tokens_to_ids(TOKENS[kind])
    assert model.generate(**tokenizer(sources[0], return_tensors="pt"))[0, 1] == code
    assert not any(TOKENS[kind] in text for text in translations)
    assert len(set(translations)) > 1
    plain = without_a2d(snippet("student"), sources, tmp_path)
    assert plain == [" ".join(text.split()) for text in translations]
    export(tmp_path / "student", tmp_path / "fast")
    assert not any(TOKENS[kind] in t for t in ExportedModel(tmp_path / "fast").translate(sources))


@every_kind
def test_validation_scores_texts_without_codes(kind, tmp_path, monkeypatch):
    raw = ordinary(kind, tmp_path / "release")
    model = load_model(tmp_path / "release")
    config = A2DConfig(str(tmp_path / "out"), method="baseline", report_to=[], bf16=False)
    data = tokenise(PAIRS[:8], raw)
    trainer = A2DTrainer(model, None, config, data, data, processing_class=raw)
    scored = []
    monkeypatch.setattr(training, "score", lambda *texts: scored.append(texts) or score(*texts))
    padded = raw(text_target=TEXTS, padding=True, return_tensors="np")["input_ids"]
    trainer._bleu(EvalPrediction(padded, padded[::-1].copy()))
    ((hypotheses, references),) = scored
    assert not any(TOKENS[kind] in text for text in (*hypotheses, *references))
    assert hypotheses == references[::-1]
    trainer.save_model(str(tmp_path / "saved"))
    assert not any(
        TOKENS[kind] in t for t in decoded(AutoTokenizer.from_pretrained(tmp_path / "saved"))
    )


def test_of_a_tokenizer_of_one_pair():
    """Such a tokenizer knows its code only from the template around texts."""
    base = train_tokenizer([text for pair in PAIRS for text in pair], 500)
    base.add_tokens(["2cs"])
    code = base.convert_tokens_to_ids("2cs")
    base.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="2cs $A </s>", special_tokens=[("2cs", code), ("</s>", base.eos_token_id)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base.backend_tokenizer, eos_token="</s>")
    assert decoded(tokenizer)[0].startswith("2cs")
    mark_languages(tokenizer)
    assert decoded(tokenizer) == TEXTS


def test_codes_that_stay_ordinary_are_refused(tmp_path, monkeypatch):
    tokenizer = ordinary("added", tmp_path)
    monkeypatch.setattr(type(tokenizer), "add_special_tokens", lambda *_, **__: 0)
    with pytest.raises(UserError, match=r"codes of this NllbTokenizer, such as 'deu_Latn'"):
        load_tokenizer(tmp_path, CODES["added"])


@pytest.mark.parametrize("name", ["opus", "bart", "mbart", "mbart50", "nllb", "pegasus", "t5"])
def test_other_tokenizers_are_not_changed(name):
    tokenizer = tokenizer_of(name)
    before = tokenizer.get_vocab(), tokenizer.all_special_tokens, len(tokenizer)
    texts = decoded(tokenizer)
    mark_languages(tokenizer)
    assert (tokenizer.get_vocab(), tokenizer.all_special_tokens, len(tokenizer)) == before
    assert decoded(tokenizer) == texts
