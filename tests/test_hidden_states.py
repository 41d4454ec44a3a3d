"""A2D with hidden states: additional distance, saved parameters."""

import naive
import torch
from features import WIDTHS, agree, cases, dot, losses_of, squares, with_gradients
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
def test_hidden_states_add_their_distance(c, group, formula):
    arguments = *c.shapes, FORMULAS[formula], GROUPS, "random"
    without, with_states = A2D(*arguments).double(), A2DHidden(*arguments, WIDTHS).double()
    without.alignment.load_state_dict(with_states.alignment.state_dict())
    with_gradients(c)
    loss, loss_without = (losses_of(transfer, c)[group] for transfer in (with_states, without))
    if group == "cross":
        assert loss == loss_without
        return

    def twin(weight, *hidden):
        tokens = {"encoder": c.source, "decoder": c.target}[group].tolist()
        teacher_layers = [layer.tolist() for layer in c.teacher.hidden[group]]
        total = 0.0
        for b in range(len(tokens)):
            for n in naive.positions(tokens[b]):
                states = [number for layer in hidden for number in layer[b][n]]
                target = [number for layer in teacher_layers for number in layer[b][n]]
                total += squares([dot(row, states) for row in weight], target) / len(target)
        return total

    inputs = [with_states.projections[group].weight, *c.student.hidden[group]]
    assert agree(loss - loss_without, twin, inputs)


def test_all_parameters_are_saved(tmp_path):
    shapes = Geometry(2, 1, 2, 2), Geometry(4, 2, 4, 4)
    arguments = *shapes, FORMULAS["paper"], GROUPS, "random", WIDTHS
    transfers = [A2DHidden(*arguments) for _ in "ab"]
    transfers[0].save(tmp_path)
    assert not all(map(torch.equal, *(transfer.parameters() for transfer in transfers)))
    transfers[1].load(tmp_path)
    assert all(map(torch.equal, *(transfer.parameters() for transfer in transfers)))
    assert AttentionAlignment.load(tmp_path / "alignment.safetensors").teacher == shapes[1]
