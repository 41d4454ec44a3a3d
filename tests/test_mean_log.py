"""Logs of several seeds as one curve, from entries as the Trainer writes them."""

from a2d.runs.results import mean_log


def logged(bleu, seconds):
    """Trainer log of four steps with validations after the second and the fourth."""

    def entry(step, time, **figures):
        return {**figures, "epoch": step / 4, "step": step, "seconds": seconds * time}

    return [
        entry(1, 1, loss=7.0, ce=6.0, grad_norm=1.0, learning_rate=0.1),
        entry(2, 2, loss=6.0, ce=5.0, grad_norm=1.0, learning_rate=0.1),
        entry(2, 3, eval_loss=6.5, eval_ce=5.5, eval_bleu=bleu),
        entry(3, 4, loss=5.0, ce=4.0, grad_norm=1.0, learning_rate=0.1),
        entry(4, 6, eval_loss=5.5, eval_ce=4.5, eval_bleu=2 * bleu),  # no logging step
        entry(4, 7, train_runtime=9.0, total_flos=1.0, train_loss=6.0),
    ]


class TestMeanLog:
    def points(self, log, *keys):
        return [tuple(e[key] for key in keys) for e in log if all(key in e for key in keys)]

    def test_keeps_training_and_validation_of_one_step(self):
        log = mean_log([logged(8.0, 1.0)])
        assert self.points(log, "step", "ce") == [(1, 6), (2, 5), (3, 4)]
        assert self.points(log, "step", "eval_bleu", "eval_ce") == [(2, 8, 5.5), (4, 16, 4.5)]
        assert self.points(log, "step", "seconds") == [(1, 1), (2, 3), (3, 4), (4, 7)]

    def test_is_the_mean_over_seeds(self):
        log = mean_log([logged(8.0, 1.0), logged(9.0, 3.0), logged(13.0, 5.0)])
        assert self.points(log, "step", "eval_bleu") == [(2, 10), (4, 20)]
        assert self.points(log, "epoch", "ce") == [(0.25, 6), (0.5, 5), (0.75, 4)]
        assert self.points(log, "step", "seconds") == [(1, 3), (2, 9), (3, 12), (4, 21)]

    def test_leaves_out_what_a_seed_does_not_have(self):
        first, second = logged(8.0, 1.0), logged(9.0, 1.0)
        stopped = [entry for entry in second if entry["step"] < 4]
        unscored = [entry for entry in stopped if "eval_bleu" not in entry]
        log = mean_log([first, stopped])
        assert self.points(log, "step") == [(1,), (2,), (3,)]
        assert self.points(log, "eval_bleu") == [(8.5,)]
        assert self.points(mean_log([unscored, first]), "eval_bleu") == []

    def test_of_no_logs(self):
        assert mean_log([]) == []
