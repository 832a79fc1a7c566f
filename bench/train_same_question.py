"""Makes `plugins/smallai_chat/same_question.json`: `python -m bench.train_same_question`.

Boosted trees that decide whether two questions have the same answer, from the alignment of their words and what an
embedding model says. They learn from the tuning half of `bench.scope` and from `bench.facts`, each taught question also
with questions of general knowledge about its words, and with both models, whose similarities are on one scale. Each
feature can only speak for "same", or only against it, so that few rows are enough. Prints the cross-validated figures;
no row of the unseen half is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.questions import MODELS, CachedModel, Pair, embedding_model, fact_pairs, general_pairs, pairs
from smallai_chat.calibration import Calibration
from smallai_chat.question_words import read
from smallai_chat.same_question import FEATURES, MIN_LIKELIHOOD, cannot_be_same, features_of, texts_of

TARGET = Path(__file__).parents[1] / "plugins" / "smallai_chat" / "same_question.json"
_SPEAKS_FOR_SAME = {"closeness", "coverage", "containment"}
_N_FOLDS = 8
# There are twice as many of these as of paraphrases, and made by templates. Cross-validated, with 0, 0.05, 0.1, 0.4 and
# 1: 91.1, 91.1, 90.7, 90.5 and 89.0 % of the paraphrases found, and 19.3, 3.4, 2.3, 1.4 and 0.7 % of these.
_WEIGHT_OF_GENERAL = 0.1


def learned_rows(name: str) -> tuple[list[Pair], list[list[float]]]:
    """Returns the pairs that the trees decide with that embedding model, and their features."""
    found: list[Pair] = []
    values: list[list[float]] = []
    with embedding_model(name) as model:
        if model is None:
            raise SystemExit(1)
        cached, calibration = CachedModel(model), Calibration()
        known = [*pairs("tune"), *fact_pairs()]
        known += general_pairs(known)
        # All at once is much faster.
        cached.embed([text for pair in known for text in texts_of(pair.stored, pair.asked, pair.language)])
        for pair in known:
            meaning = calibration.of(pair.language, cached.embed)
            first, second = read(pair.stored, pair.language), read(pair.asked, pair.language)
            if meaning.is_reliable and not cannot_be_same(first, second):
                found.append(pair)
                values.append(features_of(first, second, meaning, cached.embed))
    return found, values


def classifier() -> Any:
    """Returns the untrained trees. Their size was chosen by the cross-validation below."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=100,
        max_leaf_nodes=8,
        min_samples_leaf=10,
        monotonic_cst=[1 if name in _SPEAKS_FOR_SAME else -1 for name in FEATURES],
        l2_regularization=1.0,
        # A false answer is worse than a missed paraphrase.
        class_weight={0: 2, 1: 1},
        random_state=0,
    )


def as_json(model: Any) -> dict[str, Any]:
    """Returns the trees as `same_question` reads them."""
    trees = [
        [
            [-1, round(float(node["value"]), 5), 0, 0]
            if node["is_leaf"]
            else [
                int(node["feature_idx"]),
                round(float(node["num_threshold"]), 6),
                int(node["left"]),
                int(node["right"]),
            ]
            for node in predictors[0].nodes
        ]
        for predictors in model._predictors
    ]
    return {"features": list(FEATURES), "base": float(np.ravel(model._baseline_prediction)[0]), "trees": trees}


def main() -> None:
    """Prints the cross-validated figures and writes the trees."""
    from sklearn.model_selection import GroupKFold

    found: list[Pair] = []
    values: list[list[float]] = []
    for name in MODELS:
        more, their_values = learned_rows(name)
        found += more
        values += their_values
    matrix, is_same = np.array(values), np.array([pair.kind == "same" for pair in found])
    # All pairs of a row are in one fold: they share the taught question.
    groups = np.array([pair.row for pair in found])
    general = np.array([pair.kind == "general" for pair in found])
    weights = np.where(general, _WEIGHT_OF_GENERAL, 1.0)
    likelihood = np.zeros(len(found))
    for train, test in GroupKFold(_N_FOLDS).split(matrix, is_same, groups):
        fitted = classifier().fit(matrix[train], is_same[train], weights[train])
        likelihood[test] = fitted.predict_proba(matrix[test])[:, 1]
    said = likelihood >= MIN_LIKELIHOOD
    print(f"cross-validated: {said[is_same].mean():.1%} of {is_same.sum()} found, ", end="")
    print(f"{said[~is_same].mean():.1%} of {(~is_same).sum()} others that no rule excludes, ", end="")
    print(f"{said[general].mean():.1%} of {general.sum()} of general knowledge among them")
    TARGET.write_text(json.dumps(as_json(classifier().fit(matrix, is_same, weights)), separators=(",", ":")) + "\n")
    print(json.dumps({"bench": "train_same_question", "rows": len(found)}))


if __name__ == "__main__":
    main()
