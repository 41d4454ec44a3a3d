"""Naive implementations of the objective's terms: plain loops over lists of floats."""

import math


def log_softmax(scores):
    highest = max(scores)
    total = sum(math.exp(score - highest) for score in scores)
    return [score - highest - math.log(total) for score in scores]


def cross_entropy(logits, targets, smoothing):
    """Cross-entropy with fairseq's label smoothing, over the V-1 other tokens."""
    loss = 0.0
    for row, target in zip(logits, targets, strict=True):
        for token, log in enumerate(log_softmax(row)):
            share = 1 - smoothing if token == target else smoothing / (len(row) - 1)
            loss -= share * log
    return loss


def word_level_kd(student, teacher, temperature):
    loss = 0.0
    for student_row, teacher_row in zip(student, teacher, strict=True):
        predicted = log_softmax([logit / temperature for logit in student_row])
        target = log_softmax([logit / temperature for logit in teacher_row])
        for p, t in zip(predicted, target, strict=True):
            loss -= temperature**2 * math.exp(t) * p
    return loss


def visible(group, source, target):
    """Map each query position of a sentence to the keys that it may attend to."""
    if group == "encoder":
        return {q: [k for k in range(len(source)) if source[k]] for q in positions(source)}
    if group == "cross":
        return {q: [k for k in range(len(source)) if source[k]] for q in positions(target)}
    return {q: [k for k in range(q + 1) if target[k]] for q in positions(target)}


def positions(valid):
    return [position for position, is_token in enumerate(valid) if is_token]


def attention_transfer(group, weight, maps, teacher, source, target):
    """Row-wise KL summed over query rows, averaged over teacher maps; and its gradients.

    Takes weight[t][c], maps[b][c][q][k], teacher[b][t][q][k], source[b][position] and
    target[b][position]; returns the value and the gradients w.r.t. weight and maps, by index.
    """
    value, weight_gradient, maps_gradient = 0.0, {}, {}
    for b in range(len(maps)):
        rows = visible(group, source[b], target[b])
        for q, keys in rows.items():
            for t in range(len(weight)):
                scores = [
                    sum(weight[t][c] * maps[b][c][q][k] for c in range(len(weight[t])))
                    for k in keys
                ]
                row_of_teacher = [teacher[b][t][q][k] for k in keys]
                logs = log_softmax(scores) if keys else []
                for k, p, log in zip(keys, row_of_teacher, logs, strict=True):
                    if p > 0:
                        value += p * (math.log(p) - log) / len(weight)
                    gradient = (sum(row_of_teacher) * math.exp(log) - p) / len(weight)
                    for c in range(len(weight[t])):
                        add(weight_gradient, (t, c), gradient * maps[b][c][q][k])
                        add(maps_gradient, (b, c, q, k), gradient * weight[t][c])
    return value, weight_gradient, maps_gradient


def add(gradient, index, amount):
    gradient[index] = gradient.get(index, 0.0) + amount
