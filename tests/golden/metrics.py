"""Writes metrics.json: what scikit-learn makes of ties, tiny sets and ordinary ones. Needs numpy and scikit-learn 1.9."""

import json
import pathlib

import numpy as np
from sklearn import metrics as m


def case(name, labels, scores, threshold=0.5):
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=float)
    calls = (scores >= threshold).astype(int)
    both = len(set(labels.tolist())) == 2
    precision, recall, _ = m.precision_recall_curve(labels, scores) if labels.any() else ([0], [0], None)
    f1s = [2 * p * r / (p + r) if p + r else 0 for p, r in zip(precision, recall)]
    return {
        "name": name,
        "labels": labels.tolist(),
        "scores": scores.tolist(),
        "threshold": threshold,
        "auroc": m.roc_auc_score(labels, scores) if both else None,
        "aupr": m.average_precision_score(labels, scores) if labels.any() else None,
        "base_rate": float(labels.mean()),
        "f1": m.f1_score(labels, calls) if labels.any() or calls.any() else None,
        "f1_best": float(max(f1s)) if labels.any() else None,
        "macro_f1": m.f1_score(labels, calls, average="macro", labels=[0, 1], zero_division=0),
        "mcc": m.matthews_corrcoef(labels, calls) if both else None,
        "brier": float(np.mean((scores - labels) ** 2)),
        "log_loss": m.log_loss(labels, scores, labels=[0, 1]),
    }


rng = np.random.RandomState(0)


def drawn(n, rate, digits):
    labels = (rng.rand(n) < rate).astype(int)
    return labels, np.round(np.clip(0.3 * labels + rng.rand(n) * 0.7, 0, 1), digits)


cases = [
    case("one positive", [1], [0.7]),
    case("one negative", [0], [0.2]),
    case("one negative, called", [0], [0.8]),
    case("two, right", [0, 1], [0.1, 0.9]),
    case("two, wrong", [0, 1], [0.9, 0.1]),
    case("two, tied", [0, 1], [0.5, 0.5]),
    case("all tied", [0, 1, 1, 0, 0, 0], [0.25] * 6),
    case("positives only", [1, 1, 1], [0.2, 0.5, 0.9]),
    case("negatives only", [0, 0, 0], [0.2, 0.4, 0.9]),
    case("certain and wrong", [1, 0, 1, 0], [0.0, 1.0, 1.0, 0.0]),
    case("ties across the classes", [1, 0, 1, 0, 1, 0, 0, 1], [0.9, 0.9, 0.7, 0.7, 0.7, 0.3, 0.1, 0.1]),
    case("one digit", *drawn(60, 0.3, 1)),
    case("two digits, rare", *drawn(200, 0.05, 2), threshold=0.61),
    case("distinct", *drawn(150, 0.4, 9), threshold=0.37),
]
out = pathlib.Path(__file__).with_suffix(".json")
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
