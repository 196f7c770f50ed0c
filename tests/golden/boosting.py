"""Writes boosting.json: the trees, leaves and staged scores of scikit-learn's gradient boosting. Needs numpy and
scikit-learn 1.9, whose one criterion ("squared_error") orders the splits of a node as "friedman_mse" did.

scikit-learn draws features, and so breaks ties between them, by its own generator, and rounding breaks ties between the
splits of one feature: a case is kept only when ten seeds, and every feature mirrored, give the same scores at every stage,
so that there are no ties to break."""

import json
import pathlib

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.utils.class_weight import compute_sample_weight


def trees(model):
    return [
        {
            "feature": t.feature.tolist(),
            "right": [int(r) - i if r >= 0 else 0 for i, r in enumerate(t.children_right)],
            "value": np.where(t.feature < 0, t.value.ravel(), t.threshold).tolist(),
        }
        for t in (e.tree_ for e in model.estimators_.ravel())
    ]


def case(name, columns, labels, balanced=False, **growth):
    x = np.array(columns, dtype=np.float32).T
    weights = compute_sample_weight("balanced" if balanced else None, labels)
    fit = lambda seed, x=x: GradientBoostingClassifier(random_state=seed, **growth).fit(x, labels, weights)
    model = fit(0)
    # Whether a node of one residual is pure is a matter of rounding.
    if any(((e.tree_.impurity < 1e-12) & (e.tree_.feature >= 0)).any() for e in model.estimators_.ravel()):
        return None
    stages = lambda m, x: np.array(list(m.staged_decision_function(x)))
    mirrored = fit(0, -x)
    if np.abs(stages(mirrored, -x) - stages(model, x)).max() > 1e-9:
        return None
    # Features that divide a node alike leave the scores alone, so the trees are compared as well.
    for other in map(fit, range(1, 10)):
        if trees(other) != trees(model) or np.abs(stages(other, x) - stages(model, x)).max() > 1e-9:
            return None
    return {
        "name": name,
        "columns": [[float(v) for v in c] for c in columns],
        "labels": [int(y) for y in labels],
        "growth": {
            "trees": growth["n_estimators"],
            "depth": growth["max_depth"],
            "learning_rate": growth["learning_rate"],
            "balanced": balanced,
        },
        "prior": 0.0 if balanced else float(np.log(np.mean(labels) / (1 - np.mean(labels)))),
        "trees": trees(model),
        "staged": [s.ravel().tolist() for s in model.staged_decision_function(x[:5])],
        "probability": model.predict_proba(x)[:, 1].tolist(),
        "importances": model.feature_importances_.tolist(),
    }


def first(name, make, **growth):
    """The first of many draws without ties."""
    for seed in range(3000):
        found = case(name, *make(np.random.RandomState(seed)), **growth)
        if found:
            return found
    raise SystemExit(f"{name}: every draw has ties")


def distinct(features, n, rate):
    def make(rng):
        columns = [np.round((rng.permutation(n) + 0.5) / n * 10 - 5, 3) for _ in range(features)]
        odds = columns[0] * 0.4 + (columns[1] if features > 1 else 0) * 0.3 + rng.randn(n)
        return columns, (odds > np.quantile(odds, 1 - rate)).astype(int)

    return make


def sparse(n):
    """Measurements as peaks give them: mostly 0, equal values, a constant column, values that are one to a split."""

    def make(rng):
        columns = [np.round(rng.rand(n) * (rng.rand(n) < share), 2) for share in (0.7, 0.4)]
        columns += [np.full(n, 2.5), np.where(rng.rand(n) < 0.5, 0.0, 5e-8)]
        odds = columns[0] * 2 - columns[1] + 0.5 * rng.randn(n)
        return columns, (odds > np.quantile(odds, 0.7)).astype(int)

    return make


cases = [
    first("one feature", distinct(1, 120, 0.4), n_estimators=12, max_depth=2, learning_rate=0.1),
    first("four features", distinct(4, 250, 0.5), n_estimators=8, max_depth=3, learning_rate=0.1),
    first("deep", distinct(3, 300, 0.5), n_estimators=2, max_depth=5, learning_rate=0.1),
    first("rare positives, fast", distinct(3, 300, 0.08), n_estimators=6, max_depth=2, learning_rate=0.7),
    first("peaks", sparse(200), n_estimators=10, max_depth=3, learning_rate=0.3),
    first("stumps", distinct(2, 40, 0.5), n_estimators=20, max_depth=1, learning_rate=0.5),
    first("balanced", distinct(3, 300, 0.08), balanced=True, n_estimators=6, max_depth=3, learning_rate=0.3),
    first("balanced peaks", sparse(200), balanced=True, n_estimators=10, max_depth=2, learning_rate=0.3),
]
out = pathlib.Path(__file__).with_suffix(".json")
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
