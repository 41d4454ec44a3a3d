"""Short training that saves its student; test_distributed.py runs it in one or two processes."""

import sys

import torch

from a2d import A2DConfig, A2DTrainer
from a2d.models.loading import new_model
from a2d.models.tokenizer import train_tokenizer
from a2d.text.batching import tokenise
from a2d.text.corpus import read_corpus

output, accumulation = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
pairs = [pair for pair in read_corpus("builtin:de-dsb/train")[:400] if len(pair.source) < 60][:96]
tokenizer = train_tokenizer((text for pair in pairs for text in pair), 400)
sizes = {"width": 16, "feed_forward": 32, "dropout": 0.0}
torch.manual_seed(0)
student = new_model(tokenizer, encoder_layers=1, decoder_layers=1, heads=2, **sizes)
teacher = new_model(tokenizer, encoder_layers=2, decoder_layers=2, heads=4, **sizes)
data = tokenise(pairs, tokenizer)
trainer = A2DTrainer(
    student,
    teacher,
    A2DConfig(
        output_dir=output,
        max_tokens=128,
        max_steps=6,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
        optim="sgd",
        logging_steps=3,
        eval_strategy="steps",
        eval_steps=6,
        save_strategy="no",
        report_to=[],
        bf16=False,
        disable_tqdm=True,
    ),
    data,
    data.select(range(32)),
    tokenizer,
)
trainer.train()
trainer.save_model(output)
trainer.save_state()
