"""`A2DTrainer`: normalisation, files, checkpoints, method requirements."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from safetensors import safe_open
from torch._dynamo.utils import counters
from torch.nn import functional
from toys import TERMS
from transformers import TrainerCallback

from a2d import A2DConfig, A2DTrainer, UserError
from a2d.families import Geometry
from a2d.files import seal
from a2d.method.attention import GROUPS, enable_capture
from a2d.method.objective import Term
from a2d.models.loading import count_parameters, load_model, new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.text.batching import TokenBatchSampler, lengths, tokenise
from a2d.text.corpus import read_corpus
from a2d.training import cpu
from a2d.training import trainer as training
from a2d.training.checkpoints import last_checkpoint
from a2d.training.signals import model_signals
from a2d.training.teacher_cache import CACHED, open_or_build

PAIRS = [pair for pair in read_corpus("builtin:de-dsb/train")[:400] if len(pair.source) < 60][:96]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((text for pair in PAIRS for text in pair), 400)


@pytest.fixture(scope="module")
def data(tokenizer):
    return tokenise(PAIRS, tokenizer)


def model(tokenizer, seed=0, layers=(2, 1), heads=2, dropout=0.0):
    torch.manual_seed(seed)
    return new_model(
        tokenizer,
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        heads=heads,
        width=16,
        feed_forward=32,
        dropout=dropout,
    )


def trainer(folder, tokenizer, data, *, dropout=0.0, teacher=True, **settings):
    options = {
        "max_tokens": 128,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "bf16": False,
        "seed": 3,
    } | settings
    return A2DTrainer(
        model(tokenizer, dropout=dropout),
        model(tokenizer, seed=1, layers=(3, 2), heads=4) if teacher else None,
        A2DConfig(output_dir=str(folder), **options),
        data,
        data.select(range(min(24, len(data)))),
        tokenizer,
    )


def gradients(folder, tokenizer, data, batches, **settings):
    """Gradients of one optimisation step over `batches` (lists of sentence indices)."""
    distiller = trainer(folder, tokenizer, data, **settings)
    collate = distiller.data_collator
    inputs = [collate([data[i] for i in batch]) for batch in batches]
    totals = distiller._get_num_items_in_batch(inputs, torch.device("cpu"))
    with distiller.prepare_student():
        losses = [distiller.training_step(distiller.model, x, totals) for x in inputs]
    named = {name: p.grad for name, p in distiller.model.named_parameters() if p.requires_grad}
    return sum(losses), named


def test_micro_batches_do_not_change_the_step(tmp_path, tokenizer, data):
    whole_loss, whole = gradients(tmp_path, tokenizer, data, [range(8)])
    parts_loss, parts = gradients(tmp_path, tokenizer, data, [[i] for i in range(8)])
    torch.testing.assert_close(whole_loss, parts_loss, rtol=1e-5, atol=0)
    total = torch.stack([gradient.norm() for gradient in whole.values()]).norm()
    for name, gradient in whole.items():
        # The keys' biases have no gradient but round-off: a softmax over keys ignores them.
        scale = gradient.norm() if "k_proj.bias" not in name else total
        assert (gradient - parts[name]).norm() <= 1e-5 * scale, name


def test_accumulation_in_a_real_training_equals_one_big_batch(tmp_path, tokenizer, data):
    # 8 sentences of one length: one batch of 8 or eight of 1 are then the same step.
    length = max(
        set(map(len, data["input_ids"])),
        key=lambda n: sum(len(row["input_ids"]) == n == len(row["labels"]) for row in data),
    )
    rows = [i for i, r in enumerate(data) if len(r["input_ids"]) == len(r["labels"]) == length]
    one = data.select([rows[i % len(rows)] for i in range(8)])
    # Plain gradient descent: Adam's first step would magnify round-off in gradients near zero.
    settings = {"max_steps": 1, "max_grad_norm": 0.0, "optim": "sgd", "warmup_steps": 0}
    big = trainer(tmp_path / "1", tokenizer, one, max_tokens=8 * length, **settings)
    small = trainer(
        tmp_path / "8",
        tokenizer,
        one,
        max_tokens=length,
        gradient_accumulation_steps=8,
        **settings,
    )
    before = {name: p.detach().clone() for name, p in big.student.named_parameters()}
    big.train()
    small.train()
    for (name, p), (_, q) in zip(
        big.student.named_parameters(), small.student.named_parameters(), strict=True
    ):
        step, other = p - before[name], q - before[name]
        # A step is a difference of float32 weights, exact to their rounding; the keys' biases
        # have no gradient but round-off.
        assert (step - other).norm() <= 1e-5 * step.norm() + 1e-7 * q.norm() + 1e-9, name


def test_every_term_is_logged_in_training_and_validation(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data, eval_strategy="steps", eval_steps=4)
    distiller.train()
    log = distiller.state.log_history
    assert any(set(TERMS) <= entry.keys() for entry in log)
    validation = next(entry for entry in log if "eval_loss" in entry)
    assert {f"eval_{name}" for name in TERMS} <= validation.keys()
    attention = validation["eval_encoder"]
    attention += 0.5 * (validation["eval_decoder"] + validation["eval_cross"])
    expected = 0.5 * (validation["eval_ce"] + validation["eval_kd"]) + 3 * attention
    assert validation["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert 0 <= validation["eval_bleu"] <= 100


def losses_of(distiller):
    distiller.train()
    return [entry["loss"] for entry in distiller.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "a2d+hidden"])
def test_a_cache_is_read_by_the_loaders_processes_too(tmp_path, tokenizer, data, method):
    found = []
    for workers in (0, 2):
        settings = {"method": method, "dataloader_num_workers": workers, "logging_steps": 1}
        distiller = trainer(tmp_path / str(workers), tokenizer, data, **settings)
        place = tmp_path / "cache"
        distiller.teacher_cache = open_or_build(place, distiller.teacher, data, states=True)
        loader = distiller.get_train_dataloader()
        assert loader.base_dataloader.num_workers == workers
        assert CACHED in next(iter(loader))
        found.append(losses_of(distiller))
    assert len(found[0]) == 4
    assert found[0] == found[1]


@pytest.mark.slow
def test_compiled_by_pytorch_it_learns_the_same(tmp_path, tokenizer, data):
    found = []
    for compiled in (False, True):
        settings = {"torch_compile": compiled, "logging_steps": 1}
        if compiled:
            settings["torch_compile_backend"] = "eager"  # its code is traced, not translated
        before = counters["stats"]["unique_graphs"]
        found.append(losses_of(trainer(tmp_path, tokenizer, data, **settings)))
        assert (counters["stats"]["unique_graphs"] > before) == compiled
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_baseline_logs_cross_entropy_alone_and_needs_no_teacher(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data, teacher=False, method="baseline")
    distiller.train()
    logged = {key for entry in distiller.state.log_history for key in entry}
    assert "ce" in logged
    assert logged.isdisjoint({"kd", "encoder", "decoder", "cross"})
    assert distiller.alignment is None


def test_validation_losses_are_means_over_tokens_however_batched(tmp_path, tokenizer, data):
    results = [
        trainer(tmp_path, tokenizer, data, max_tokens=budget).evaluate() for budget in (64, 512)
    ]
    for name in ("eval_loss", *(f"eval_{term}" for term in TERMS)):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-5)


def test_the_teacher_stays_as_it_was(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    before = {name: p.clone() for name, p in distiller.teacher.named_parameters()}
    distiller.train()
    assert not distiller.teacher.training
    for name, p in distiller.teacher.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


def test_student_and_alignment_learn(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data, alignment_learning_rate=1e-2)
    student = {name: p.clone() for name, p in distiller.student.named_parameters()}
    weight = distiller.alignment.weights["cross"].clone()
    distiller.train()
    assert not torch.equal(distiller.alignment.weights["cross"], weight)
    changed = [n for n, p in distiller.student.named_parameters() if not torch.equal(p, student[n])]
    assert len(changed) > 0.9 * len([p for p in distiller.student.parameters() if p.requires_grad])
    assert distiller.student.get_input_embeddings().weight[tokenizer.pad_token_id].abs().max() == 0


def test_alignment_has_its_own_learning_rate(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data, alignment_learning_rate=0.5, learning_rate=1e-3)
    groups = distiller.create_optimizer().param_groups
    own = {id(p) for p in distiller.alignment.parameters()}
    for group in groups:
        mine = [id(p) in own for p in group["params"]]
        assert all(mine) or not any(mine)
        assert group["lr"] == (0.5 if mine and all(mine) else 1e-3)
    everything = [id(p) for group in groups for p in group["params"]]
    assert len(everything) == len(set(everything))
    assert set(everything) == {id(p) for p in distiller.model.parameters() if p.requires_grad}


TRANSLATE = """
import json, sys
sys.modules["a2d"] = None  # importing it fails
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder = sys.argv[1]
model, info = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer(json.loads(sys.argv[2]), return_tensors="pt", padding=True)
ids = model.generate(**batch, num_beams=4, max_new_tokens=20)
keys = sorted(map(str, [*info["missing_keys"], *info["unexpected_keys"]]))
print(json.dumps([keys, tokenizer.batch_decode(ids, skip_special_tokens=True)]))
"""


def test_saved_student_is_an_ordinary_model(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path / "run", tokenizer, data, max_steps=10)
    distiller.train()
    folder = tmp_path / "small"
    distiller.save_model(str(folder))
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not [k for k in file.keys() if "align" in k or "teacher" in k]  # noqa: SIM118
    assert "a2d" not in (folder / "config.json").read_text()
    assert (folder / "alignment.safetensors").exists()
    assert not list(folder.glob("*.bin"))
    sentences = ["Hallo Welt", "Neues Fenster öffnen"]
    batch = tokenizer(sentences, return_tensors="pt", padding=True)
    ids = distiller.student.generate(**batch, num_beams=4, max_new_tokens=20)
    expected = tokenizer.batch_decode(ids, skip_special_tokens=True)
    command = [sys.executable, "-c", TRANSLATE, str(folder), json.dumps(sentences)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(output.splitlines()[-1]) == [[], expected]


def test_validation_neither_samples_nor_stops_as_a_release_says(tmp_path, tokenizer, data):
    scores = []
    for settings in ({}, {"do_sample": True, "top_k": 9, "max_length": 3}):
        distiller = trainer(tmp_path, tokenizer, data)
        distiller.student.generation_config.update(**settings)
        scores.append(distiller.evaluate(data)["eval_chrf"])
        assert distiller.student.generation_config.do_sample == settings.get("do_sample")
    assert scores[0] == scores[1] > 0


def test_resumed_training_equals_an_undisturbed_one(tmp_path, tokenizer, data):
    settings = {
        "dropout": 0.1,
        "max_tokens": 512,
        "max_steps": 12,
        "save_strategy": "steps",
        "save_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 4,
    }
    undisturbed = trainer(tmp_path / "a", tokenizer, data, **settings)
    undisturbed.train(resume_from_checkpoint=True)
    first = trainer(tmp_path / "b", tokenizer, data, **settings)
    first.train()
    # As if killed while writing the last checkpoint, in the third epoch.
    (tmp_path / "b/checkpoint-12/manifest.json").unlink()
    assert last_checkpoint(tmp_path / "b") == str(tmp_path / "b/checkpoint-8")
    assert not (tmp_path / "b/checkpoint-12").exists()
    batches = len(first.get_train_dataloader())
    assert batches < 8
    assert 8 % batches
    resumed = trainer(tmp_path / "b", tokenizer, data, **settings)
    resumed.train(resume_from_checkpoint=True)
    for (name, p), (_, q) in zip(
        undisturbed.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("patience", [None, 1])
def test_an_ended_training_is_not_continued(patience, tmp_path, tokenizer, data):
    """As if killed between the last checkpoint and what follows it."""
    settings = {
        "max_steps": 30 if patience else 5,
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": "constant_with_warmup",
        "restore_callback_states_from_checkpoint": True,
    }
    steps = []
    for _ in range(2):
        distiller = trainer(tmp_path, tokenizer, data, **settings)
        if patience:
            distiller.add_callback(StopAfter(6))
        distiller.train(resume_from_checkpoint=True)
        weights = {n: p.clone() for n, p in distiller.student.named_parameters()}
        steps.append((distiller.state.global_step, weights))
    (step, before), (again, after) = steps
    assert step == again == (6 if patience else 5)
    assert all(torch.equal(before[name], after[name]) for name in before)
    more = trainer(tmp_path, tokenizer, data, **settings | {"max_steps": 32})
    more.train(resume_from_checkpoint=True)
    assert more.state.global_step == 32


class StopAfter(TrainerCallback):
    """Ends a training early, as a validation may."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def test_a_checkpoint_of_another_step_is_set_aside(tmp_path, caplog):
    for step in (4, 8):
        place = tmp_path / f"checkpoint-{step}"
        place.mkdir()
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        seal(place)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
    shutil.rmtree(tmp_path / "checkpoint-8")
    (tmp_path / "checkpoint-4").rename(tmp_path / "checkpoint-8")
    assert last_checkpoint(tmp_path) is None
    assert "trainer_state.json is of another step" in caplog.text


def test_a_checkpoint_of_another_training_is_set_aside(tmp_path, tokenizer, data, caplog):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    for name in "ab":
        trainer(tmp_path / name, tokenizer, data, fingerprint=name, **settings).train()
    assert last_checkpoint(tmp_path / "a", "a") == str(tmp_path / "a/checkpoint-2")
    shutil.rmtree(tmp_path / "a/checkpoint-2")
    shutil.copytree(tmp_path / "b/checkpoint-2", tmp_path / "a/checkpoint-2")
    assert last_checkpoint(tmp_path / "a", "a") is None
    assert "checkpoint-2: it was made from other settings" in caplog.text


@pytest.mark.parametrize(
    "state",
    [[], {"global_step": 8, "evil": 1}, {"global_step": 8, "best_global_step": "../../etc"}],
    ids=str,
)
def test_a_state_of_no_training_is_set_aside(state, tmp_path, caplog):
    place = tmp_path / "checkpoint-8"
    place.mkdir()
    (place / "trainer_state.json").write_text(json.dumps(state))
    seal(place)
    assert last_checkpoint(tmp_path) is None
    assert "trainer_state.json is damaged" in caplog.text


def test_the_sampler_is_told_its_epoch_through_any_wrappers(tmp_path, tokenizer, data):
    """As accelerate wraps it for two processes, of which one resumes after its first batch."""
    distiller = trainer(tmp_path, tokenizer, data)
    distiller.get_train_dataloader()
    shard = BatchSamplerShard(distiller._train_sampler, 2, 0, even_batches=False)
    distiller.state.epoch = 2.4  # of a training that was resumed there
    arguments = distiller.args, distiller.state, distiller.control
    distiller.callback_handler.on_epoch_begin(*arguments)
    fresh = TokenBatchSampler(lengths(data), 128, seed=3)
    fresh.set_epoch(2)
    assert list(SkipBatchSampler(shard, 1)) == list(fresh)[2::2]


def test_attention_transfer_decays_epoch_by_epoch(tmp_path, tokenizer, data, monkeypatch):
    epochs = []
    weight_in = Term.weight_in

    def noted(term, epoch):
        if term.name == "encoder" and epoch is not None:
            epochs.append(epoch)
        return weight_in(term, epoch)

    monkeypatch.setattr(Term, "weight_in", noted)
    settings = {"max_tokens": 512, "gradient_accumulation_steps": 2, "decay": 0.5}
    distiller = trainer(tmp_path, tokenizer, data, **settings, max_steps=-1, num_train_epochs=3)
    distiller.train()
    batches = len(distiller.get_train_dataloader())
    assert epochs == [epoch for epoch in (1, 2, 3) for _ in range(batches)]
    encoder = next(term for term in distiller.objective.terms if term.name == "encoder")
    assert weight_in(encoder, 3) == distiller.args.beta / 4


def test_several_validation_sets_by_name(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    distiller.eval_dataset = {"one": data.select(range(9)), "two": data.select(range(9, 20))}
    found = distiller.evaluate()
    whole = {name: distiller.evaluate(part) for name, part in distiller.eval_dataset.items()}
    for name, expected in whole.items():
        assert found[f"eval_{name}_ce"] == expected["eval_ce"]
    assert found["eval_one_ce"] != found["eval_two_ce"]
    distiller.train()


def test_half_precision_of_either_kind(monkeypatch, tmp_path):
    monkeypatch.setattr("a2d.training.config.bf16_is_fast", lambda: True)
    assert A2DConfig(str(tmp_path), report_to=[]).bf16
    config = A2DConfig(str(tmp_path), fp16=True, report_to=[])
    assert (config.fp16, config.bf16) == (True, False)


@pytest.mark.parametrize("settings", [{"bf16": True}, {"bf16": False, "teacher_bf16": True}])
def test_a_bf16_teacher_says_nearly_what_it_says_in_float32(tmp_path, tokenizer, data, settings):
    teacher = model(tokenizer, seed=1)
    config = A2DConfig(str(tmp_path), max_tokens=128, report_to=[], **settings)
    distiller = A2DTrainer(model(tokenizer), teacher, config, data, processing_class=tokenizer)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in distiller.teacher.parameters()} == {torch.bfloat16}
    enable_capture(teacher.eval())
    batch = distiller.data_collator([data[i] for i in range(5)])
    needs = distiller._unwrapped.needs
    ours = distiller._teacher_signals(batch, needs)
    with torch.no_grad():
        theirs = model_signals(teacher, batch, needs)
    for found, exact in [
        (ours.tokens.logits.float(), theirs.tokens.logits),
        *((s.features.maps[group].stacked() for s in (ours, theirs)) for group in GROUPS),
    ]:
        assert (found - exact).norm() < 0.01 * exact.norm()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graphics card computes then")
def test_on_a_cpu_steps_drop_fast_and_keep_their_memory(tmp_path, tokenizer, data, monkeypatch):
    called, library, found = [], functional.dropout, []
    monkeypatch.setattr(training, "tune_process", lambda: called.append("tuned"))
    distiller = trainer(tmp_path, tokenizer, data, max_steps=1)
    assert called == ["tuned"]
    distiller.model.register_forward_pre_hook(lambda *_: found.append(functional.dropout))
    distiller.train()
    assert found[0] is cpu.dropout
    assert functional.dropout is library


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_recomputed_layers_drop_the_same_values(tmp_path, tokenizer, data):
    found = []
    for recompute in (False, True):
        distiller = trainer(
            tmp_path, tokenizer, data, dropout=0.5, gradient_checkpointing=recompute, max_steps=2
        )
        torch.manual_seed(0)
        distiller.train()
        found.append(torch.cat([p.detach().flatten() for p in distiller.student.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["kd", "a2d", "a2d+hidden", "minilm"])
def test_a_float32_student_learns_from_a_bf16_teacher(tmp_path, tokenizer, data, method):
    found = []
    for half in (False, True):
        config = A2DConfig(
            str(tmp_path),
            method=method,
            bf16=False,
            teacher_bf16=half,
            max_tokens=128,
            report_to=[],
        )
        distiller = A2DTrainer(
            model(tokenizer), model(tokenizer, seed=1), config, data, processing_class=tokenizer
        )
        distiller.create_optimizer()
        batch = distiller.data_collator([data[i] for i in range(5)])
        torch.manual_seed(0)  # dropout's
        with distiller.prepare_student():
            distiller.training_step(distiller.model, batch)
        parameters = [p for p in distiller.student.parameters() if p.grad is not None]
        assert {p.dtype for p in parameters} == {torch.float32}
        found.append(torch.cat([p.grad.flatten() for p in parameters]))
    assert 0 < (found[1] - found[0]).norm() < 0.02 * found[0].norm()


def test_the_checkpoint_of_another_model_is_refused(tmp_path, tokenizer, data):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer(tmp_path, tokenizer, data, **settings).train()
    other = A2DTrainer(
        model(tokenizer, layers=(1, 1)),
        model(tokenizer, seed=1),
        A2DConfig(output_dir=str(tmp_path), max_tokens=128, max_steps=4, report_to=[]),
        data,
        processing_class=tokenizer,
    )
    with pytest.raises(UserError, match="checkpoint-2 is the checkpoint of another model"):
        other.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_objects_in_a_checkpoint_are_refused_not_made(name, tmp_path, tokenizer, data):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer(tmp_path, tokenizer, data, **settings).train()
    place = tmp_path / "checkpoint-2"
    torch.save({"object": Planted(tmp_path / "ran")}, place / name)
    seal(place)  # as an attacker would
    again = trainer(tmp_path, tokenizer, data, **settings | {"max_steps": 4})
    with pytest.raises(UserError, match="checkpoint-2 is no checkpoint of this training"):
        again.train(resume_from_checkpoint=True)
    assert not (tmp_path / "ran").exists()


class Planted:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_a_method_with_teacher_asks_for_one(tmp_path, tokenizer, data):
    with pytest.raises(UserError, match="'a2d' needs a teacher"):
        trainer(tmp_path, tokenizer, data, teacher=False)


def test_other_vocabularies_are_refused(tmp_path, tokenizer, data):
    other = train_tokenizer((pair.target for pair in PAIRS), 380)
    with pytest.raises(UserError, match="vocabularies differ"):
        A2DTrainer(
            model(tokenizer),
            model(other),
            A2DConfig(output_dir=str(tmp_path)),
            data,
            data,
            tokenizer,
        )
    same_size = train_tokenizer((pair.target for pair in PAIRS), 400)
    with pytest.raises(UserError, match=r"is \d+ in the teacher's|is None|differ"):
        A2DTrainer(
            model(tokenizer),
            model(same_size),
            A2DConfig(output_dir=str(tmp_path)),
            data,
            data,
            tokenizer,
            teacher_processing_class=same_size,
        )


def test_a_missing_tokenizer_is_asked_for(tmp_path, tokenizer, data):
    config = A2DConfig(str(tmp_path), report_to=[], bf16=False)
    distiller = A2DTrainer(model(tokenizer), model(tokenizer, seed=1), config, data)
    with pytest.raises(UserError, match="pass processing_class=tokenizer"):
        distiller.train()


def test_a_sentence_beyond_the_budget_is_refused_with_the_mend(tmp_path, tokenizer, data):
    with pytest.raises(UserError, match=r"does not fit max_tokens=5: raise max_tokens"):
        trainer(tmp_path, tokenizer, data, max_tokens=5).train()


def test_a_dataset_without_tokens_is_refused_with_the_mend(tmp_path, tokenizer, data):
    with pytest.raises(UserError, match="lacks the column 'labels': tokenise it first"):
        trainer(tmp_path, tokenizer, data.remove_columns("labels")).train()


def test_an_untrained_teacher_is_warned_of(tmp_path, tokenizer, data, caplog):
    with caplog.at_level(logging.WARNING, logger="a2d"):
        trainer(tmp_path, tokenizer, data, max_steps=1).train()
    assert "not better than chance" in caplog.text


def test_geometry_of_the_alignment_comes_from_both_models(tmp_path, tokenizer, data):
    alignment = trainer(tmp_path, tokenizer, data).alignment
    assert alignment.student == Geometry(2, 1, 2, 2)
    assert alignment.teacher == Geometry(3, 2, 4, 4)
    assert alignment.weights["encoder"].shape == (12, 4)
    assert alignment.weights["cross"].shape == (8, 2)


def test_counted_parameters_are_those_saved(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    distiller.save_model(str(tmp_path))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        saved = {k: file.get_tensor(k).numel() for k in file.keys()}  # noqa: SIM118
    bias = saved.pop("final_logits_bias")  # a buffer of zeros
    assert bias == len(tokenizer)
    for network in (distiller.student, load_model(tmp_path)):
        assert count_parameters(network) == sum(saved.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graphics card computes then")
def test_the_process_is_left_alone_if_asked(tmp_path, tokenizer, data, monkeypatch):
    found = []
    monkeypatch.setattr(training, "tune_process", lambda: 1 / 0)
    distiller = trainer(tmp_path, tokenizer, data, max_steps=1, tune_cpu=False)
    distiller.model.register_forward_pre_hook(lambda *_: found.append(functional.dropout))
    distiller.train()
    assert set(found) == {functional.dropout}


@pytest.mark.parametrize("family", ["marian", "m2m_100", "t5"])
def test_the_students_settings_are_restored(tmp_path, family):
    from test_families import sentences, tiny
    from test_families import tokenizer as words

    student = tiny(family).float()
    for module in (student.config, *student.modules()):
        for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
            if hasattr(module, name):
                setattr(module, name, 0.3)
    weight = student.get_input_embeddings().weight

    def settings():
        places = (student.config, *student.modules())
        names = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
        rates = [getattr(place, name, None) for place in places for name in names]
        hooks = dict(weight._post_accumulate_grad_hooks or {})
        return student.config._attn_implementation, rates, hooks

    before = settings()
    config = A2DConfig(str(tmp_path), max_steps=2, max_tokens=32, report_to=[], disable_tqdm=True)
    data = sentences(4)
    distiller = A2DTrainer(
        student, tiny(family, seed=1).float(), config, data, data, processing_class=words()
    )
    assert settings() == before
    distiller.train()
    assert settings() == before
    distiller.evaluate()
    assert settings() == before
