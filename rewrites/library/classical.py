"""Operators of classical machine learning that plain arithmetic expresses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from rewrites import example, require, rule, tensor

ML = "ai.onnx.ml"
HEAD = f'< ir_version: 8, opset_import: [ "" : 18, "{ML}" : 1 ] > g '


@rule(
    name="ml/binarizer-to-greater",
    matches=f"{ML}::Binarizer",
    examples=[
        example(text=f"{HEAD}(float[2,3] x) => (float[2,3] y) {{ y = {ML}.Binarizer<threshold=0.5>(x) }}"),
        example(text=f"{HEAD}(float[n] x) => (float[n] y) {{ y = {ML}.Binarizer(x) }}"),
    ],
)
class BinarizerToGreater:
    """Binarizer -> Greater Cast. Source: ONNX-ML operator specification; the parser has no importer."""

    def rewrite(op, X, threshold):
        return op.Cast(op.Greater(X, np.array(threshold, X.dtype)), to=X.dtype)


@rule(
    name="ml/array-feature-extractor-to-gather",
    matches=f"{ML}::ArrayFeatureExtractor",
    examples=[
        example(
            text=f"{HEAD}(float[3,4] x, int64[2] i) => (float[3,2] y) {{ y = {ML}.ArrayFeatureExtractor(x, i) }}",
            i=tensor(2, dtype="int64", values=[3, 0]),
        ),
        example(
            text=f"{HEAD}(float[n,4] x, int64[1] i) => (float[n,1] y) {{ y = {ML}.ArrayFeatureExtractor(x, i) }}",
            i=tensor(1, dtype="int64", values=[1]),
        ),
    ],
)
class ArrayFeatureExtractorToGather:
    """ArrayFeatureExtractor -> Gather. Source: ONNX-ML operator specification; the parser has no importer."""

    def rewrite(op, X, Y):
        return op.Gather(X, op.Reshape(Y, [-1]), axis=X.rank - 1)


def vectorizer(shape, made, **attributes):
    """An example of n-grams over the pool 2 3 5 4, 5 6, 7 8, 6 7."""
    options = {
        "max_gram_length": 2,
        "min_gram_length": 1,
        "mode": '"TF"',
        "ngram_counts": "[0, 4]",
        "ngram_indexes": "[0,1,2,3,4,5,6]",
        "pool_int64s": "[2,3,5,4,5,6,7,8,6,7]",
        "max_skip_count": 0,
        **attributes,
    }
    given = ", ".join(f"{k} = {v}" for k, v in options.items())
    text = f"g (int32[{shape}] x) => (float[{made}] y) {{ y = TfIdfVectorizer<{given}>(x) }}"
    rows = np.array([1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8])
    spec = tensor(
        *(s if s == "n" else int(s) for s in shape.split(",")),
        dtype="int32",
        values=rows if shape == "12" else rows.reshape(2, 6),
    )
    return example(text=text, x=spec, _sizes={"n": 2})


@rule(
    name="onnx/tfidf-to-equal",
    matches="TfIdfVectorizer",
    examples=[
        vectorizer("12", "7", max_skip_count=5),
        vectorizer("n,6", "n,7", min_gram_length=2),
        vectorizer("12", "7", mode='"TFIDF"', weights="[0.5,1.0,2.0,3.0,1.0,1.0,2.0]"),
    ],
    refuses=[
        example(
            text="g (int32[n] x) => (float[1] y) { y = TfIdfVectorizer<max_gram_length=1, max_skip_count=0,"
            " min_gram_length=1,"
            ' mode="TF", ngram_counts=[0], ngram_indexes=[0], pool_int64s=[2]>(x) }',
            because="length",
        )
    ],
)
class TfIdfToEqual:
    """TfIdfVectorizer -> Gather Equal ReduceSum: every window compared with every n-gram of the pool.

    Source: ONNX operator specification; the parser has no importer.
    """

    def check(node, X):
        require("pool_int64s" in node.given, "TensorRT has no strings")
        require(X.shape.is_static(-1), "the length of the rows must be known")

    def rewrite(op, node, X, mode):
        given, parts = node.given, []
        for n, grams in pools(given):
            used = given["min_gram_length"] <= n <= given["max_gram_length"] and len(grams)
            if used:
                parts.append(
                    (counted(op, X, grams.astype(X.dtype), windows(X.shape[-1], n, given["max_skip_count"])), grams)
                )
            else:
                parts.append((None, grams))
        indexes, at, total = np.array(given["ngram_indexes"]), 0, None
        width = int(indexes.max()) + 1
        for counts, grams in parts:
            place = np.zeros((len(grams), width), np.float32)
            place[np.arange(len(grams)), indexes[at : at + len(grams)]] = 1
            at += len(grams)
            if counts is not None:
                here = op.MatMul(counts, place)
                total = here if total is None else op.Add(total, here)
        return weighted(op, total, mode.decode() if isinstance(mode, bytes) else mode, given.get("weights"), indexes)


def weighted(op, counts, mode, weights, indexes):
    """Counts, or presence, times the weights of the n-grams."""
    if mode == "IDF":
        counts = op.Cast(op.Greater(counts, 0.0), to=np.float32)
    if mode == "TF" or weights is None:
        return counts
    factors = np.zeros(int(indexes.max()) + 1, np.float32)
    factors[indexes] = weights
    return op.Mul(counts, factors)


def pools(given):
    """(n, [n-grams, n]) for n = 1, 2, ..."""
    flat, starts = np.array(given["pool_int64s"]), [*given["ngram_counts"], len(given["pool_int64s"])]
    return [(n, flat[a:b].reshape(-1, n)) for n, (a, b) in enumerate(pairwise(starts), 1)]


def windows(length, n, most_skipped):
    """The positions of all windows of n elements, with every number of elements skipped between them."""
    steps = range(1, 2 if n == 1 else most_skipped + 2)
    rows = [[start + step * i for i in range(n)] for step in steps for start in range(length - step * (n - 1))]
    return np.array(rows, np.int64).reshape(-1, n)


def counted(op, x, grams, places):
    """How often every n-gram is found, [..., n-grams]."""
    if not len(places):
        return op.Cast(
            op.MatMul(op.Cast(op.Mul(x, 0), to=np.float32), np.zeros((x.shape[-1], len(grams)), np.float32)),
            to=np.float32,
        )
    matched = None
    for i in range(places.shape[1]):
        here = op.Unsqueeze(op.Gather(x, places[:, i], axis=x.rank - 1), [x.rank - 1])
        same = op.Equal(here, grams[:, i : i + 1])
        matched = same if matched is None else op.And(matched, same)
    return op.ReduceSum(op.Cast(matched, to=np.float32), [-1], keepdims=0)
