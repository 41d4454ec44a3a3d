"""`A2DTrainer`: normalisation, files, checkpoints, method requirements."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
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
from a2d.training.outputs import model_outputs
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
    """Gradients of one update over `batches` (lists of sentence indices)."""
    distiller = trainer(folder, tokenizer, data, **settings)
    collate = distiller.data_collator
    inputs = [collate([data[i] for i in batch]) for batch in batches]
    totals = distiller._get_num_items_in_batch(inputs, torch.device("cpu"))
    with distiller.prepare_student():
        losses = [distiller.training_step(distiller.model, x, totals) for x in inputs]
    by_name = {name: p.grad for name, p in distiller.model.named_parameters() if p.requires_grad}
    return sum(losses), by_name


def test_micro_batches_do_not_change_the_step(tmp_path, tokenizer, data):
    batch_loss, batch_gradients = gradients(tmp_path, tokenizer, data, [range(8)])
    micro_loss, micro_gradients = gradients(tmp_path, tokenizer, data, [[i] for i in range(8)])
    torch.testing.assert_close(batch_loss, micro_loss, rtol=1e-5, atol=0)
    total = torch.stack([gradient.norm() for gradient in batch_gradients.values()]).norm()
    for name, gradient in batch_gradients.items():
        # The keys' biases have no gradient but round-off: a softmax over keys ignores them.
        scale = gradient.norm() if "k_proj.bias" not in name else total
        assert (gradient - micro_gradients[name]).norm() <= 1e-5 * scale, name


def test_gradient_accumulation_equals_one_big_batch(tmp_path, tokenizer, data):
    # 8 sentences of one length: one batch of 8 or eight of 1 are then the same step.
    length = max(
        set(map(len, data["input_ids"])),
        key=lambda n: sum(len(row["input_ids"]) == n == len(row["labels"]) for row in data),
    )
    rows = [i for i, r in enumerate(data) if len(r["input_ids"]) == len(r["labels"]) == length]
    same_length = data.select([rows[i % len(rows)] for i in range(8)])
    # Plain gradient descent: Adam's first step would magnify round-off in gradients near zero.
    settings = {"max_steps": 1, "max_grad_norm": 0.0, "optim": "sgd", "warmup_steps": 0}
    big = trainer(tmp_path / "1", tokenizer, same_length, max_tokens=8 * length, **settings)
    small = trainer(
        tmp_path / "8",
        tokenizer,
        same_length,
        max_tokens=length,
        gradient_accumulation_steps=8,
        **settings,
    )
    initial = {name: p.detach().clone() for name, p in big.student.named_parameters()}
    big.train()
    small.train()
    for (name, p), (_, q) in zip(
        big.student.named_parameters(), small.student.named_parameters(), strict=True
    ):
        step, other = p - initial[name], q - initial[name]
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
def test_loader_processes_read_the_cache(tmp_path, tokenizer, data, method):
    losses = []
    for workers in (0, 2):
        settings = {"method": method, "dataloader_num_workers": workers, "logging_steps": 1}
        distiller = trainer(tmp_path / str(workers), tokenizer, data, **settings)
        folder = tmp_path / "cache"
        distiller.teacher_cache = open_or_build(folder, distiller.teacher, data, states=True)
        loader = distiller.get_train_dataloader()
        assert loader.base_dataloader.num_workers == workers
        assert CACHED in next(iter(loader))
        losses.append(losses_of(distiller))
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.full
def test_torch_compile_gives_the_same_losses(tmp_path, tokenizer, data):
    losses = []
    for compiled in (False, True):
        settings = {"torch_compile": compiled, "logging_steps": 1}
        if compiled:
            settings["torch_compile_backend"] = "eager"  # traces without generating code
        graphs = counters["stats"]["unique_graphs"]
        losses.append(losses_of(trainer(tmp_path, tokenizer, data, **settings)))
        assert (counters["stats"]["unique_graphs"] > graphs) == compiled
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_baseline_logs_cross_entropy_alone_and_needs_no_teacher(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data, teacher=False, method="baseline")
    distiller.train()
    logged = {key for entry in distiller.state.log_history for key in entry}
    assert "ce" in logged
    assert logged.isdisjoint({"kd", "encoder", "decoder", "cross"})
    assert distiller.alignment is None


def test_validation_losses_do_not_depend_on_batches(tmp_path, tokenizer, data):
    results = [
        trainer(tmp_path, tokenizer, data, max_tokens=budget).evaluate() for budget in (64, 512)
    ]
    for name in ("eval_loss", *(f"eval_{term}" for term in TERMS)):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-5)


def test_training_does_not_change_the_teacher(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    initial = {name: p.clone() for name, p in distiller.teacher.named_parameters()}
    distiller.train()
    assert not distiller.teacher.training
    for name, p in distiller.teacher.named_parameters():
        assert torch.equal(p, initial[name])
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
    alignment_ids = {id(p) for p in distiller.alignment.parameters()}
    for group in groups:
        is_alignment = [id(p) in alignment_ids for p in group["params"]]
        assert all(is_alignment) or not any(is_alignment)
        assert group["lr"] == (0.5 if is_alignment and all(is_alignment) else 1e-3)
    all_ids = [id(p) for group in groups for p in group["params"]]
    assert len(all_ids) == len(set(all_ids))
    assert set(all_ids) == {id(p) for p in distiller.model.parameters() if p.requires_grad}


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


def test_validation_ignores_sampling_and_limits_of_the_model(tmp_path, tokenizer, data):
    scores = []
    for settings in ({}, {"do_sample": True, "top_k": 9, "max_length": 3}):
        distiller = trainer(tmp_path, tokenizer, data)
        distiller.student.generation_config.update(**settings)
        scores.append(distiller.evaluate(data)["eval_chrf"])
        assert distiller.student.generation_config.do_sample == settings.get("do_sample")
    assert scores[0] == scores[1] > 0


def test_resumed_training_equals_an_uninterrupted_one(tmp_path, tokenizer, data):
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
    # The process is killed while it writes the last checkpoint, in the third epoch.
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
    """The process is killed after the last checkpoint, before training returns."""
    settings = {
        "max_steps": 30 if patience else 5,
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": "constant_with_warmup",
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
    longer = trainer(tmp_path, tokenizer, data, **settings | {"max_steps": 32})
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 32


class StopAfter(TrainerCallback):
    """Callback that ends a training early, as early stopping does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def test_a_checkpoint_of_another_step_is_set_aside(tmp_path, caplog):
    for step in (4, 8):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        seal(checkpoint)
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
    checkpoint = tmp_path / "checkpoint-8"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    seal(checkpoint)
    assert last_checkpoint(tmp_path) is None
    assert "trainer_state.json is damaged" in caplog.text


def test_epoch_reaches_a_wrapped_sampler(tmp_path, tokenizer, data):
    """accelerate wraps the sampler for two processes; one process resumes after its first batch."""
    distiller = trainer(tmp_path, tokenizer, data)
    distiller.get_train_dataloader()
    shard = BatchSamplerShard(distiller._train_sampler, 2, 0, even_batches=False)
    distiller.state.epoch = 2.4  # after resuming in the third epoch
    arguments = distiller.args, distiller.state, distiller.control
    distiller.callback_handler.on_epoch_begin(*arguments)
    sampler = TokenBatchSampler(lengths(data), 128, seed=3)
    sampler.set_epoch(2)
    assert list(SkipBatchSampler(shard, 1)) == list(sampler)[2::2]


def test_attention_transfer_decays_epoch_by_epoch(tmp_path, tokenizer, data, monkeypatch):
    weights = record_weights(monkeypatch, "encoder")
    settings = {"max_tokens": 512, "gradient_accumulation_steps": 2}
    settings |= {"decay": 0.5, "beta_until": None}
    distiller = trainer(tmp_path, tokenizer, data, **settings, max_steps=-1, num_train_epochs=3)
    distiller.train()
    batches = len(distiller.get_train_dataloader())
    beta = distiller.args.beta
    assert weights == [weight for weight in (beta, beta / 2, beta / 4) for _ in range(batches)]


def test_attention_transfer_falls_to_zero_update_by_update(tmp_path, tokenizer, data, monkeypatch):
    weights = record_weights(monkeypatch, "cross")
    settings = {"gradient_accumulation_steps": 2, "beta": 2.0, "beta_until": 0.5, "max_steps": 8}
    trainer(tmp_path, tokenizer, data, **settings).train()
    assert weights == pytest.approx(np.repeat([1, 0.75, 0.5, 0.25, 0, 0, 0, 0], 2))


def test_attention_transfer_falls_faster_on_a_plateau(tmp_path, tokenizer, data):
    """β reaches zero with the learning rate, although the training ends early."""
    settings = {"beta_until": 1.0, "max_steps": 8, "plateau_patience": 1}
    settings |= {"metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 2}
    distiller = trainer(tmp_path, tokenizer, data, **settings, save_strategy="steps", save_steps=2)
    schedule = distiller.create_scheduler(8, distiller.create_optimizer())
    distiller.state.global_step, distiller.state.max_steps = 3, 8
    (weight,) = {t.weight_at(distiller._moment) for t in distiller.objective.terms[2:3]}
    assert weight == pytest.approx(distiller.args.beta * 5 / 8)
    schedule.finish(3)  # a third of the 3 past updates follows
    assert schedule.end == 4
    (weight,) = {t.weight_at(distiller._moment) for t in distiller.objective.terms[2:3]}
    assert weight == pytest.approx(distiller.args.beta / 4)


def record_weights(monkeypatch, name):
    """List that collects the weights of a term in the training batches."""
    weights, weight_at = [], Term.weight_at

    def record(term, progress):
        weight = weight_at(term, progress)
        if term.name == name:
            weights.append(weight)
        return weight

    monkeypatch.setattr(Term, "weight_at", record)
    return weights


def test_several_validation_sets_by_name(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    distiller.eval_dataset = {"one": data.select(range(9)), "two": data.select(range(9, 20))}
    metrics = distiller.evaluate()
    separate = {name: distiller.evaluate(part) for name, part in distiller.eval_dataset.items()}
    for name, expected in separate.items():
        assert metrics[f"eval_{name}_ce"] == expected["eval_ce"]
    assert metrics["eval_one_ce"] != metrics["eval_two_ce"]
    distiller.train()


def test_bf16_default_is_off_with_fp16(monkeypatch, tmp_path):
    monkeypatch.setattr("a2d.training.config.bf16_is_fast", lambda: True)
    assert A2DConfig(str(tmp_path), report_to=[]).bf16
    config = A2DConfig(str(tmp_path), fp16=True, report_to=[])
    assert (config.fp16, config.bf16) == (True, False)


@pytest.mark.parametrize(
    "settings", [{"bf16": True}, {"bf16": False, "teacher_precision": "bfloat16"}]
)
def test_outputs_of_a_bf16_teacher_are_close_to_float32(tmp_path, tokenizer, data, settings):
    teacher = model(tokenizer, seed=1)
    config = A2DConfig(str(tmp_path), max_tokens=128, report_to=[], **settings)
    distiller = A2DTrainer(model(tokenizer), teacher, config, data, processing_class=tokenizer)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in distiller.teacher.parameters()} == {torch.bfloat16}
    enable_capture(teacher.eval())
    batch = distiller.data_collator([data[i] for i in range(5)])
    needs = distiller._unwrapped.needs
    rounded = distiller._teacher_outputs(batch, needs)
    with torch.no_grad():
        exact_outputs = model_outputs(teacher, batch, needs)
    for value, exact in [
        (rounded.tokens.logits.float(), exact_outputs.tokens.logits),
        *((s.features.maps[group].stacked() for s in (rounded, exact_outputs)) for group in GROUPS),
    ]:
        assert (value - exact).norm() < 0.01 * exact.norm()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes then")
def test_cpu_tuning_and_fast_dropout(tmp_path, tokenizer, data, monkeypatch):
    calls, library, functions = [], functional.dropout, []
    monkeypatch.setattr(training, "tune_process", lambda: calls.append("tuned"))
    distiller = trainer(tmp_path, tokenizer, data, max_steps=1)
    assert calls == ["tuned"]
    distiller.model.register_forward_pre_hook(lambda *_: functions.append(functional.dropout))
    distiller.train()
    assert functions[0] is cpu.dropout
    assert functional.dropout is library


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
def test_gradient_checkpointing_repeats_dropout(tmp_path, tokenizer, data):
    weights = []
    for recompute in (False, True):
        distiller = trainer(
            tmp_path, tokenizer, data, dropout=0.5, gradient_checkpointing=recompute, max_steps=2
        )
        torch.manual_seed(0)
        distiller.train()
        weights.append(torch.cat([p.detach().flatten() for p in distiller.student.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["kd", "a2d", "a2d+hidden", "minilm"])
def test_a_float32_student_learns_from_a_bf16_teacher(tmp_path, tokenizer, data, method):
    gradients = []
    for half in (False, True):
        config = A2DConfig(
            str(tmp_path),
            method=method,
            bf16=False,
            teacher_precision="bfloat16" if half else "float32",
            max_tokens=128,
            report_to=[],
        )
        distiller = A2DTrainer(
            model(tokenizer), model(tokenizer, seed=1), config, data, processing_class=tokenizer
        )
        distiller.create_optimizer()
        batch = distiller.data_collator([data[i] for i in range(5)])
        torch.manual_seed(0)  # of dropout
        with distiller.prepare_student():
            distiller.training_step(distiller.model, batch)
        parameters = [p for p in distiller.student.parameters() if p.grad is not None]
        assert {p.dtype for p in parameters} == {torch.float32}
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
    assert 0 < (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm()


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
def test_pickled_objects_in_a_checkpoint_are_refused(name, tmp_path, tokenizer, data):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer(tmp_path, tokenizer, data, **settings).train()
    checkpoint = tmp_path / "checkpoint-2"
    torch.save({"object": Planted(tmp_path / "ran")}, checkpoint / name)
    seal(checkpoint)  # like an attacker
    again = trainer(tmp_path, tokenizer, data, **settings | {"max_steps": 4})
    with pytest.raises(UserError, match="checkpoint-2 is not a checkpoint of this training"):
        again.train(resume_from_checkpoint=True)
    assert not (tmp_path / "ran").exists()


class Planted:
    """Object that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_a_missing_teacher_is_refused(tmp_path, tokenizer, data):
    with pytest.raises(UserError, match="'a2d' needs a teacher"):
        trainer(tmp_path, tokenizer, data, teacher=False)


def test_different_vocabularies_are_refused(tmp_path, tokenizer, data):
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


def test_a_missing_tokenizer_is_refused(tmp_path, tokenizer, data):
    config = A2DConfig(str(tmp_path), report_to=[], bf16=False)
    distiller = A2DTrainer(model(tokenizer), model(tokenizer, seed=1), config, data)
    with pytest.raises(UserError, match="pass processing_class=tokenizer"):
        distiller.train()


def test_a_sentence_beyond_the_budget_is_refused(tmp_path, tokenizer, data):
    with pytest.raises(UserError, match=r"does not fit max_tokens=5: raise max_tokens"):
        trainer(tmp_path, tokenizer, data, max_tokens=5).train()


def test_a_dataset_without_tokens_is_refused(tmp_path, tokenizer, data):
    with pytest.raises(UserError, match="lacks the column 'labels': tokenise it first"):
        trainer(tmp_path, tokenizer, data.remove_columns("labels")).train()


def test_an_untrained_teacher_causes_a_warning(tmp_path, tokenizer, data, caplog):
    with caplog.at_level(logging.WARNING, logger="a2d"):
        trainer(tmp_path, tokenizer, data, max_steps=1).train()
    assert "not better than chance" in caplog.text


def test_geometry_of_the_alignment_comes_from_both_models(tmp_path, tokenizer, data):
    alignment = trainer(tmp_path, tokenizer, data).alignment
    assert alignment.student == Geometry(2, 1, 2, 2)
    assert alignment.teacher == Geometry(3, 2, 4, 4)
    assert alignment.weights["encoder"].shape == (12, 4)
    assert alignment.weights["cross"].shape == (8, 2)


def test_count_parameters_equals_the_saved_weights(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    distiller.save_model(str(tmp_path))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        sizes = {k: file.get_tensor(k).numel() for k in file.keys()}  # noqa: SIM118
    bias = sizes.pop("final_logits_bias")  # a buffer of zeros
    assert bias == len(tokenizer)
    for network in (distiller.student, load_model(tmp_path)):
        assert count_parameters(network) == sum(sizes.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes then")
def test_without_tuning_the_process_is_not_changed(tmp_path, tokenizer, data, monkeypatch):
    functions = []
    monkeypatch.setattr(training, "tune_process", lambda: 1 / 0)
    distiller = trainer(tmp_path, tokenizer, data, max_steps=1, tune_cpu=False)
    distiller.model.register_forward_pre_hook(lambda *_: functions.append(functional.dropout))
    distiller.train()
    assert set(functions) == {functional.dropout}


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
        modules = (student.config, *student.modules())
        names = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
        rates = [getattr(module, name, None) for module in modules for name in names]
        hooks = dict(weight._post_accumulate_grad_hooks or {})
        return student.config._attn_implementation, rates, hooks

    initial = settings()
    config = A2DConfig(str(tmp_path), max_steps=2, max_tokens=32, report_to=[], disable_tqdm=True)
    data = sentences(4)
    distiller = A2DTrainer(
        student, tiny(family, seed=1).float(), config, data, data, processing_class=words()
    )
    assert settings() == initial
    distiller.train()
    assert settings() == initial
    distiller.evaluate()
    assert settings() == initial


def test_arguments_of_evaluate_and_predict_reach_the_search(tmp_path, tokenizer, data, monkeypatch):
    distiller, calls = trainer(tmp_path, tokenizer, data), []
    generate = distiller.model.generate

    def watch(*args, **kwargs):
        calls.append(kwargs)
        return generate(*args, **kwargs)

    monkeypatch.setattr(distiller.model, "generate", watch)
    distiller.evaluate(num_beams=3, max_length=7)
    assert {(c["num_beams"], c["max_length"]) for c in calls} == {(3, 7)}
    calls.clear()
    output = distiller.predict(data.select(range(4)), num_beams=2, max_new_tokens=5)
    assert {(c["num_beams"], c["max_new_tokens"], "max_length" in c) for c in calls} == {
        (2, 5, False)
    }
    assert output.predictions.shape[1] == 6  # with the decoder's start token
    calls.clear()
    distiller.args.generation_max_length = 9
    distiller.evaluate()
    assert {(c["num_beams"], c["max_length"]) for c in calls} == {(1, 9)}
    distiller.args.generation_max_length = None
    calls.clear()
    distiller.evaluate()
    assert {c["num_beams"] for c in calls} == {1}
    assert all(c["max_length"] > 7 for c in calls)


def test_missing_and_empty_data_are_refused(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    empty = data.select([])
    distiller.train_dataset = None
    with pytest.raises(UserError, match="needs a train_dataset"):
        distiller.train()
    distiller.train_dataset = empty
    with pytest.raises(UserError, match="train_dataset has no sentence pairs"):
        distiller.train()
    with pytest.raises(UserError, match="eval_dataset has no sentence pairs"):
        distiller.evaluate(empty)
    distiller.train_dataset, distiller.eval_dataset = data, empty
    distiller.train()  # nothing is validated


def test_only_training_completes_the_generation_settings(tmp_path, tokenizer, data):
    distiller = trainer(tmp_path, tokenizer, data)
    distiller.get_train_dataloader()
    distiller.evaluate()
    assert distiller.student.generation_config.max_length is None
    distiller.train()
    assert distiller.student.generation_config.max_length >= max(lengths(data)[:, 1])
