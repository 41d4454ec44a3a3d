"""Students that start from a part of their teacher: structured pruning with reconstruction.

`prune` works in three steps. It chooses the channels, head directions and neurons that the student
keeps (`a2d.models.subspaces`), copies their weights, and fits the student's modules to the
teacher's activations. The fit is necessary because modules compute something else when they read
only a part of their former input, or when a layer before them is removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from a2d.errors import UserError
from a2d.families import Geometry, family_of, sizes_of
from a2d.models.activations import Batch, Recorder, has_bias, normalise, norms, projections
from a2d.models.subspaces import HeadMoments, choose_channels, map_heads, share_heads
from a2d.text.batching import IGNORE_INDEX

_RIDGE = 1e-3
"""Strength of the ridge penalty on changes of weights, as a share of the inputs' mean square."""

_SENTENCES = 128
"""Number of sentences that the teacher gets at a time, sorted by length: little is padding."""

_MAX_FLOATS = 2**28
"""Largest number of the teacher's activations in memory at a time: 1 GB in float32."""

_WIDTHS = ("width", "heads", "feed_forward", "decoder_heads", "decoder_feed_forward")
"""Sizes in which a student that takes layers whole equals its teacher."""

_WRITERS = ("output", "contract")
"""Roles of the modules that write to the residual stream."""

Progress = Callable[[int, int], None]
"""Function that is called with the numbers of finished steps and of all."""


def ignore_progress(finished: int, total: int) -> None:
    """Do nothing."""


class Subspaces(NamedTuple):
    """Parts of the teacher that the student keeps.

    Attributes:
        names: name of each linear module and norm of the student → name of the teacher's module.
        channels: indices of channels of the teacher's residual stream.
        rows, columns: outputs and inputs of the teacher's linear modules, by the name of the
            student's module: indices, or a matrix, (student's size, teacher's size) for rows and
            (teacher's size, student's size) for columns.
        heads: by the name of the student's attention module, the teacher's heads that each of its
            heads is made from.
    """

    names: dict[str, str]
    channels: Tensor
    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    heads: dict[str, list[list[int]]]


def prune(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    teacher_name: Callable[[str], str],
    batch: Batch,
    progress: Progress = ignore_progress,
) -> None:
    """Start a smaller student from its teacher's weights, in place.

    Args:
        teacher: a model of the student's family, at least as wide.
        student: a model with random weights. Weights that the teacher lacks stay random.
        teacher_name: maps names of the student's weights to names of the teacher's.
        batch: sample text.
        progress: called with the numbers of fitted modules and of all.
    """
    progress(0, _count_fits(student))
    subspaces = choose_subspaces(teacher, student, teacher_name, batch)
    take_weights(teacher, student, teacher_name, subspaces)
    reconstruct(teacher, student, subspaces, batch, progress)


def _count_fits(student: PreTrainedModel) -> int:
    """Number of modules that `reconstruct` fits."""
    return len(projections(student)) + len(norms(student))


def choose_subspaces(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    teacher_name: Callable[[str], str],
    batch: Batch,
) -> Subspaces:
    """Choose the parts that a student keeps by the teacher's activations on sample text."""
    same = have_same_widths(student, teacher)
    squares, products = _equal_measures(teacher) if same else _measure(teacher, batch)
    inputs = [squares[name] for name, role in projections(teacher).items() if role not in _WRITERS]
    scores = torch.stack([square / square.sum() for square in inputs]).mean(0)
    width = sizes_of(student.config)["width"]
    channels = choose_channels(scores, width, family_of(student.config).sinusoidal)
    roles = projections(student)
    names = {name: teacher_name(f"{name}.").removesuffix(".") for name in (*roles, *norms(student))}
    subspaces = Subspaces(
        names,
        channels,
        {name: channels for name, role in roles.items() if role in _WRITERS},
        {name: channels for name, role in roles.items() if role not in _WRITERS},
        {},
    )
    _choose_heads(teacher, student, subspaces, products)
    for name, role in roles.items():
        if role == "contract":
            weight = _weight(teacher, names[name])[channels]
            energy = squares[names[name]] * weight.square().sum(0)
            size = min(student.get_submodule(name).in_features, len(energy))
            neurons = energy.topk(size).indices.sort().values
            subspaces.columns[name] = neurons
            for sibling in _siblings(roles, name):
                if roles[sibling] == "expand":
                    subspaces.rows[sibling] = neurons
    return subspaces


def _choose_heads(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    subspaces: Subspaces,
    products: dict[str, Tensor],
) -> None:
    """Fill in `heads`, and `rows` and `columns` of attention modules."""
    roles, family = projections(student), family_of(student.config)
    moments, outputs, importance = {}, {}, {}
    for name in (name for name, role in roles.items() if role == "output"):
        attention = _parent(name)
        parts = {
            roles[sibling]: products[subspaces.names[sibling]]
            for sibling in _siblings(roles, name)
            if roles[sibling] != "value"
        }
        moments[attention] = HeadMoments(parts["query"], parts["key"], parts["output"])
        outputs[attention] = _weight(teacher, subspaces.names[name])[subspaces.channels]
        blocks = outputs[attention].unflatten(1, parts["output"].shape[:2])
        importance[attention] = torch.einsum("whd,hde,whe->h", blocks, parts["output"], blocks)
    if family.head_bias:  # one bias may serve all layers of a stack
        groups = {name: family.group(student.get_submodule(name)) for name in importance}
        importance = {
            name: torch.stack([importance[n] for n in groups if groups[n] == group]).mean(0)
            for name, group in groups.items()
        }
    for name in (name for name, role in roles.items() if role == "output"):
        attention = _parent(name)
        heads = head_count(student, name)
        width = student.get_submodule(name).in_features // heads
        depth = moments[attention].query.shape[1]
        shared = share_heads(importance[attention], heads, width, depth)
        maps = map_heads(moments[attention], outputs[attention], shared, width)
        teacher_scale = teacher.get_submodule(_parent(subspaces.names[name])).scaling
        student_scale = student.get_submodule(attention).scaling
        subspaces.heads[attention] = shared
        for sibling in _siblings(roles, name):
            if roles[sibling] == "output":
                subspaces.columns[sibling] = maps.output
            else:
                scale = teacher_scale / student_scale if roles[sibling] == "query" else 1.0
                subspaces.rows[sibling] = scale * getattr(maps, roles[sibling])


def take_weights(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    teacher_name: Callable[[str], str],
    subspaces: Subspaces,
) -> None:
    """Copy the teacher's weights that a student keeps, in place.

    Some models multiply embeddings by the square root of the width. The embeddings of a narrower
    student are enlarged to compensate for its smaller factor.

    Raises:
        UserError: a weight of the student has another shape than the teacher's remaining weight.
    """
    family, roles = family_of(student.config), projections(student)
    width, teacher_width = (sizes_of(model.config)["width"] for model in (student, teacher))
    scaled = family.scaled_embeddings and getattr(student.config, family.scaled_embeddings)
    factor = math.sqrt(teacher_width / width) if scaled else 1.0
    embeddings = _embeddings(teacher)
    weights, state = teacher.state_dict(), student.state_dict()
    for name, old in state.items():
        if family.computed_weights and name.endswith(family.computed_weights):
            continue
        module, _, kind = name.rpartition(".")
        weight = weights[teacher_name(name) if teacher_name(name) in weights else name]
        if module in roles:
            new = _part(weight, kind, subspaces.rows[module], subspaces.columns[module])
            new = _fill(new, old, roles[module])
        elif family.head_bias and name.endswith(family.head_bias):
            heads = subspaces.heads[_parent(module)]
            new = torch.stack([weight[:, group].mean(1) for group in heads], 1)
        elif weight.shape[:-1] == old.shape[:-1] and weight.shape[-1] == teacher_width:
            new = weight[..., subspaces.channels]
            new = new * factor if weight.data_ptr() in embeddings else new
        else:
            new = weight
        if new.shape != old.shape:
            raise UserError(
                f"the student cannot start from the teacher: {name} has the shape "
                f"{tuple(old.shape)}, the teacher's {tuple(weight.shape)}."
            )
        state[name] = new.to(old.dtype)
    student.load_state_dict(state)


def _part(weight: Tensor, kind: str, rows: Tensor, columns: Tensor) -> Tensor:
    """Take rows and columns of a weight, or rows of a bias."""
    part = weight.double()
    part = rows @ part if rows.is_floating_point() else part[rows]
    if kind == "bias":
        return part
    return part @ columns if columns.is_floating_point() else part[:, columns]


def _fill(new: Tensor, old: Tensor, role: str) -> Tensor:
    """Enlarge a weight to the student's size, with weights that can learn and change no output yet.

    New keys, values and neurons keep the student's random weights. New queries, and the weights
    that read new values or neurons, start at 0.
    """
    if new.ndim == 1 and len(new) == len(old):
        return new
    full = torch.zeros_like(old, dtype=new.dtype)
    full[tuple(map(slice, new.shape))] = new
    if role in ("key", "value", "expand"):
        missing = (full == 0).all(dim=tuple(range(1, full.ndim)))
        full[missing] = old[missing].to(full.dtype)
    return full


def reconstruct(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    subspaces: Subspaces,
    batch: Batch,
    progress: Progress = ignore_progress,
) -> None:
    """Fit a student's modules, in the order of computation, to its teacher's activations.

    Each module gets its inputs from the modules before it, which are fitted already. Ridge
    regression then changes its weights as little as necessary. The targets are the teacher's

    - queries, keys, values and neurons, as far as the student keeps them,
    - residual stream after a module that writes to it, so that errors of earlier modules are
      corrected, too,
    - outputs of norms.

    Args:
        teacher: the teacher.
        student: the student, changed in place.
        subspaces: parts of the teacher that the student keeps.
        batch: sample text.
        progress: called with the numbers of fitted modules and of all.
    """
    _Reconstruction(teacher, student, subspaces, batch, progress).run()


class _Targets:
    """Targets of the fit: the teacher's activations, recorded when they are needed.

    One pass over the sample text records several modules, as many as `_MAX_FLOATS` allows. `take`
    frees the activations that it returns.
    """

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, subspaces: Subspaces, batch: Batch
    ) -> None:
        self._teacher, self._subspaces, self._batch = teacher, subspaces, batch
        self._roles, self._norms = projections(student), norms(student)
        tokens = int(max(batch["attention_mask"].sum(), (batch["labels"] != IGNORE_INDEX).sum()))
        self._groups: list[list[str]] = [[]]
        floats = 0
        for name, module in student.named_modules():
            if name not in subspaces.names or self._roles.get(name) in _WRITERS:
                continue
            width = 2 * len(subspaces.channels)  # of a norm
            if name in self._roles:
                width = module.out_features
            if floats and floats + width * tokens > _MAX_FLOATS:
                self._groups.append([])
                floats = 0
            self._groups[-1].append(name)
            floats += width * tokens
        self._recorded: dict[str, tuple[Tensor, Tensor]] = {}

    def take(self, name: str) -> tuple[Tensor, Tensor]:
        """Return inputs and outputs of the teacher's module, as far as the student keeps them.

        Args:
            name: the student's module: a norm, or a linear module that reads the residual stream.

        Returns:
            Inputs of a norm (tokens, channels), empty for a linear module; outputs
            (tokens, outputs).
        """
        if name not in self._recorded:
            self._record(next(group for group in self._groups if name in group))
        return self._recorded.pop(name)

    def _record(self, group: Sequence[str]) -> None:
        student_names = {self._subspaces.names[name]: name for name in group}
        channels = self._subspaces.channels
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in group}

        def record(teacher_name: str, inputs: Tensor, outputs: Tensor) -> None:
            name = student_names[teacher_name]
            if name in self._norms:
                parts[name].append((inputs[:, channels], outputs[:, channels]))
                return
            rows = self._subspaces.rows[name]
            targets = outputs.double() @ rows.T if rows.is_floating_point() else outputs[:, rows]
            parts[name].append((inputs[:0], targets.to(outputs.dtype)))

        recorder = Recorder(self._teacher, self._batch)
        for teacher_name in student_names:
            recorder.after(teacher_name, record)
        recorder.run(_SENTENCES)
        for name in group:
            inputs, outputs = zip(*parts.pop(name), strict=True)
            self._recorded[name] = torch.cat(inputs), torch.cat(outputs)


class _Reconstruction:
    """Pass of the student over the sample text that fits each module before it runs."""

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        subspaces: Subspaces,
        batch: Batch,
        progress: Progress,
    ) -> None:
        self._student, self._progress = student, progress
        self._roles, self._norms = projections(student), norms(student)
        self._targets = _Targets(teacher, student, subspaces, batch)
        self._writer: tuple[str, Tensor] | None = None
        self._recorder = Recorder(student, batch)
        self._read: tuple[Tensor, _Regression] | None = None
        self._fitted = 0

    def run(self) -> None:
        """Fit all modules."""
        for name, role in self._roles.items():
            self._recorder.before(name, self._defer if role in _WRITERS else self._fit_reader)
        for name in self._norms:
            self._recorder.before(name, self._fit_norm)
        self._recorder.run()

    def _fit_reader(self, name: str, inputs: Tensor) -> None:
        module, (_, targets) = self._student.get_submodule(name), self._targets.take(name)
        if self._read is None or self._read[0] is not inputs:  # queries, keys and values share them
            self._read = inputs, _Regression(inputs[self._recorder.text(name)], has_bias(module))
        regression = self._read[1]
        outputs = linear(regression.states, module.weight, module.bias)
        regression.correct(module, targets - outputs[:, : targets.shape[1]])
        self._count()

    def _defer(self, name: str, inputs: Tensor) -> None:
        """Defer the fit of a module that writes: the next norm reads the stream after it."""
        self._writer = name, inputs

    def _fit_norm(self, name: str, inputs: Tensor) -> None:
        text, norm = self._recorder.text(name), self._norms[name]
        stream, outputs = self._targets.take(name)
        if self._writer is not None:
            writer, writer_inputs = self._writer
            module = self._student.get_submodule(writer)
            regression = _Regression(writer_inputs[text], has_bias(module))
            weight, bias = regression.correct(module, stream - inputs[text])
            inputs[text] += linear(regression.states, weight, bias)
            self._writer = None
            self._count()
        states, targets = normalise(norm, inputs[text].double()), outputs.double()
        if has_bias(norm):
            centred = states - states.mean(0)
            gain = (centred * targets).sum(0) / centred.square().sum(0)
            _set(norm, "bias", targets.mean(0) - gain * states.mean(0))
        else:
            gain = (states * targets).sum(0) / states.square().sum(0)
        _set(norm, "weight", gain)
        self._count()

    def _count(self) -> None:
        self._fitted += 1
        self._progress(self._fitted, _count_fits(self._student))


def _set(module: torch.nn.Module, name: str, value: Tensor) -> None:
    module.get_parameter(name).copy_(value)


class _Regression:
    """Ridge regression that corrects linear modules with the same inputs.

    Args:
        states: the inputs (tokens, inputs).
        bias: whether the modules have a bias.
    """

    def __init__(self, states: Tensor, bias: bool) -> None:
        self.states, self._bias = states, bias
        inputs = states.double()
        if bias:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        gram = inputs.T @ inputs
        gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
        self._inputs, self._factors = inputs, torch.linalg.lu_factor(gram)

    def correct(self, module: torch.nn.Linear, errors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Correct a module.

        Args:
            module: changed in place.
            errors: targets minus outputs (tokens, outputs), of all outputs or the first ones.

        Returns:
            Changes of the weight and of the bias.
        """
        solution = torch.linalg.lu_solve(*self._factors, self._inputs.T @ errors.double())
        change = solution.T.to(module.weight.dtype)
        weight, count = change[:, : module.in_features], errors.shape[1]
        module.weight[:count] += weight
        if not self._bias:
            return weight, None
        bias = change[:, -1]
        module.bias[:count] += bias
        return weight, bias


def _measure(model: PreTrainedModel, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sum squares and products of a model's activations.

    Returns:
        Summed squares of the inputs of each linear module (width), and summed products within heads
        (heads, head width, head width) of queries, keys and inputs of output projections.
    """
    roles = projections(model)
    squares: dict[str, Tensor] = {}
    products: dict[str, Tensor] = {}

    def add(name: str, inputs: Tensor, outputs: Tensor) -> None:
        square = inputs.square().sum(0, dtype=torch.float64)
        squares[name] = squares[name] + square if name in squares else square
        if roles[name] in ("query", "key", "output"):
            states = (inputs if roles[name] == "output" else outputs).double()
            heads = states.unflatten(-1, (head_count(model, name), -1))
            product = torch.einsum("thd,the->hde", heads, heads)
            products[name] = products[name] + product if name in products else product

    recorder = Recorder(model, batch)
    for name in roles:
        recorder.after(name, add)
    recorder.run(_SENTENCES)
    return squares, products


def _equal_measures(model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return measures as `_measure`, by which everything is equally important.

    A student that keeps everything needs no measurement, which takes a third of its start.
    """
    squares, products = {}, {}
    for name, role in projections(model).items():
        module = model.get_submodule(name)
        squares[name] = torch.ones(module.in_features, dtype=torch.float64)
        if role in ("query", "key", "output"):
            heads = head_count(model, name)
            size = module.in_features if role == "output" else module.out_features
            products[name] = torch.eye(size // heads, dtype=torch.float64).repeat(heads, 1, 1)
    return squares, products


def have_same_widths(student: PreTrainedModel, teacher: PreTrainedModel) -> bool:
    """Check whether two models have the same widths and heads."""
    sizes, others = (sizes_of(model.config) for model in (student, teacher))
    return all(sizes.get(name) == others.get(name) for name in _WIDTHS)


def head_count(model: PreTrainedModel, name: str) -> int:
    """Number of heads of the attention module that a linear module belongs to."""
    group = family_of(model.config).group(model.get_submodule(_parent(name)))
    return Geometry.of(model.config).heads(group)


def _embeddings(model: PreTrainedModel) -> set[int]:
    """Addresses of a model's token embeddings, which several names may share."""
    stacks = model, model.get_encoder(), model.get_decoder()
    return {stack.get_input_embeddings().weight.data_ptr() for stack in stacks}


def _weight(model: PreTrainedModel, name: str) -> Tensor:
    weight: Tensor = model.get_submodule(name).weight.detach().double()
    return weight


def _parent(name: str) -> str:
    """Name of the module that contains a module."""
    return name.rpartition(".")[0]


def _siblings(roles: dict[str, str], name: str) -> list[str]:
    """Names of the linear modules with the same parent, `name` included."""
    return [sibling for sibling in roles if _parent(sibling) == _parent(name)]
