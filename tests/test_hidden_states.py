"""A2D with hidden states aligned besides: what they add, and that all that is learned is kept."""

import naive
import torch
from features import WIDTHS, agree, cases, dot, losses_of, squares, watched
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d.families import Geometry
from a2d.method.alignment import AttentionAlignment
from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS
from a2d.method.hidden_states import A2DHidden
from a2d.method.transfer import A2D


@given(cases(), st.sampled_from(GROUPS), st.sampled_from(["geometric", "paper"]))
@settings(max_examples=50, deadline=None)
def test_they_add_their_distance(c, group, formula):
    arguments = *c.shapes, FORMULAS[formula], GROUPS, "random"
    alone, both = A2D(*arguments).double(), A2DHidden(*arguments, WIDTHS).double()
    alone.alignment.load_state_dict(both.alignment.state_dict())
    watched(c)
    whole, part = (losses_of(transfer, c)[group] for transfer in (both, alone))
    if group == "cross":
        assert whole == part
        return

    def twin(weight, *hidden):
        tokens = {"encoder": c.source, "decoder": c.target}[group].tolist()
        theirs = [layer.tolist() for layer in c.teacher.hidden[group]]
        total = 0.0
        for b in range(len(tokens)):
            for n in naive.positions(tokens[b]):
                states = [number for layer in hidden for number in layer[b][n]]
                wanted = [number for layer in theirs for number in layer[b][n]]
                total += squares([dot(row, states) for row in weight], wanted) / len(wanted)
        return total

    inputs = [both.projections[group].weight, *c.student.hidden[group]]
    assert agree(whole - part, twin, inputs)


def test_all_that_is_learned_is_saved(tmp_path):
    shapes = Geometry(2, 1, 2, 2), Geometry(4, 2, 4, 4)
    arguments = *shapes, FORMULAS["paper"], GROUPS, "random", WIDTHS
    made = [A2DHidden(*arguments) for _ in "ab"]
    made[0].save(tmp_path)
    assert not all(map(torch.equal, *(transfer.parameters() for transfer in made)))
    made[1].load(tmp_path)
    assert all(map(torch.equal, *(transfer.parameters() for transfer in made)))
    assert AttentionAlignment.load(tmp_path / "alignment.safetensors").teacher == shapes[1]
