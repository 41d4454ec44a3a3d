"""Training of students with transformers' `Trainer`."""
