"""Training in two processes with a cache, from its last checkpoint; test_two_processes.py runs it.

Arguments: the folder of the training, and the update after which the second process is killed (0:
none). Dropout draws random numbers in both processes.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from a2d import A2DConfig, A2DTrainer
from a2d.models.loading import new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.text.batching import tokenise
from a2d.text.corpus import read_corpus
from a2d.training.teacher_cache import open_or_build

output, last = Path(sys.argv[1]), int(sys.argv[2])


class Kill(TrainerCallback):
    """The second process is killed like by the system when memory is full."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == last and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)


torch.set_num_threads(1)
pairs = [pair for pair in read_corpus("builtin:de-dsb/train")[:400] if len(pair.source) < 60][:96]
tokenizer = train_tokenizer((text for pair in pairs for text in pair), 400)
sizes = {"width": 16, "feed_forward": 32, "dropout": 0.1}
torch.manual_seed(0)
student = new_model(tokenizer, encoder_layers=1, decoder_layers=1, heads=2, **sizes)
teacher = new_model(tokenizer, encoder_layers=2, decoder_layers=2, heads=4, **sizes)
data = tokenise(pairs, tokenizer)
with PartialState().main_process_first():
    cache = open_or_build(output / "cache", teacher, data)
trainer = A2DTrainer(
    student,
    teacher,
    A2DConfig(
        output_dir=str(output),
        max_tokens=128,
        max_steps=7,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        report_to=[],
        bf16=True,
        disable_tqdm=True,
    ),
    data,
    data.select(range(32)),
    tokenizer,
    teacher_cache=cache,
    callbacks=[Kill()],
)
trainer.train(resume_from_checkpoint=True)
trainer.save_model(str(output))
