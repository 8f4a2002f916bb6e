"""ProbSparse attention head by head, compiled like the kernels of `compiled.py`.

What chosen queries need is a few rows of large tensors. Operators over whole tensors pass over memory some forty times
to gather, mask and scatter them; here what a head needs stays in the cache.

All arrays are float32 and contiguous, and heads are feature-major, as `to_heads` writes them. What is asked has
the heads' queries first; the memory has their keys and values last: in self-attention both are the same array.
B batch, H heads, Q queries, S memory steps, E head size, U sampled keys of a query, K chosen queries; X heads with
queries and whatever follows them, Y heads with keys and values and whatever precedes them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from prunecast.kernels.compiled import F, Float32s, Integers, compiled, exponential, in_parallel, inlined

ZERO, LOWEST = F(0), np.finfo(np.float32).min

_part = compiled()


@in_parallel
def attend_batch(  # noqa: PLR0917 - compiled functions take positions only
    asked_BXEQ: Float32s,
    memory_BYES: Float32s,
    sampled_QU: Integers,
    causal: bool,
    chosen_BHK: Integers,
    weights_BHKS: Float32s,
    context_BHQE: Float32s,
) -> None:
    """Fills in what each query gets, which queries were chosen, and their weights: zeros where they may not look."""
    batch, heads, count, steps = weights_BHKS.shape
    first_key, size = memory_BYES.shape[1] - 2 * heads, memory_BYES.shape[2]
    scale = F(1 / math.sqrt(size))
    for n in prange(batch * heads):
        b, h = n // heads, n % heads
        q_EQ, k_ES = asked_BXEQ[b, h], memory_BYES[b, first_key + h]
        v_ES, context_QE = memory_BYES[b, first_key + heads + h], context_BHQE[b, h]
        _choose(q_EQ, k_ES, sampled_QU, chosen_BHK[b, h])
        if causal:
            _sums(v_ES, context_QE)
        else:
            _means(v_ES, context_QE)
        for j in range(count):
            query, weights_S = chosen_BHK[b, h, j], weights_BHKS[b, h, j]
            seen = query + 1 if causal else steps
            _combine(q_EQ[:, query] * scale, k_ES, weights_S, seen)
            _softmax(weights_S, seen)
            for e in range(size):
                context_QE[query, e] = _dot(weights_S, v_ES[e], seen)


@in_parallel
def attend_backward(  # noqa: PLR0917 - compiled functions take positions only
    asked_BXEQ: Float32s,
    memory_BYES: Float32s,
    chosen_BHK: Integers,
    causal: bool,
    weights_BHKS: Float32s,
    context_BHQE: Float32s,
    gradient_BHQE: Float32s,
    d_asked_BXEQ: Float32s,
    d_memory_BYES: Float32s,
) -> None:
    """Fills in the gradients of queries, keys and values from that of `attend`'s context."""
    batch, heads, count, steps = weights_BHKS.shape
    first_key, size = memory_BYES.shape[1] - 2 * heads, memory_BYES.shape[2]
    scale = F(1 / math.sqrt(size))
    for n in prange(batch * heads):
        b, h = n // heads, n % heads
        q_EQ, d_q_EQ = asked_BXEQ[b, h], d_asked_BXEQ[b, h]
        k_ES, d_k_ES = memory_BYES[b, first_key + h], d_memory_BYES[b, first_key + h]
        v_ES, d_v_ES = memory_BYES[b, first_key + heads + h], d_memory_BYES[b, first_key + heads + h]
        _others_backward(gradient_BHQE[b, h], chosen_BHK[b, h], causal, d_v_ES)
        d_q_EQ[:] = ZERO
        d_k_ES[:] = ZERO
        d_scores_KS, gradient_EK, asked_EK = (
            np.zeros((count, steps), F),
            np.empty((size, count), F),
            np.empty((size, count), F),
        )
        for j in range(count):
            query, weights_S, d_scores_S = chosen_BHK[b, h, j], weights_BHKS[b, h, j], d_scores_KS[j]
            seen = query + 1 if causal else steps
            gradient_E = gradient_BHQE[b, h, query]
            _combine(gradient_E, v_ES, d_scores_S, seen)
            mean = _dot(gradient_E, context_BHQE[b, h, query], size)
            for s in range(seen):
                d_scores_S[s] = (d_scores_S[s] - mean) * weights_S[s]
            for e in range(size):
                gradient_EK[e, j], asked_EK[e, j] = gradient_E[e], q_EQ[e, query] * scale
                d_q_EQ[e, query] = _dot(d_scores_S, k_ES[e], seen) * scale
        for e in range(size):
            _add(gradient_EK[e], weights_BHKS[b, h], 0, d_v_ES[e], steps)
            _add(asked_EK[e], d_scores_KS, 0, d_k_ES[e], steps)


@_part
def _choose(q_EQ: Float32s, k_ES: Float32s, sampled_QU: Integers, chosen_K: Integers) -> None:
    """Fills in the queries that stand out most, of equal ones the first."""
    measure_Q = _measure(q_EQ, k_ES, sampled_QU)
    for j in range(len(chosen_K)):
        chosen_K[j] = _first_largest(measure_Q)
        measure_Q[chosen_K[j]] = -np.inf


@_part
def _measure(q_EQ: Float32s, k_ES: Float32s, sampled_QU: Integers) -> Float32s:
    """Returns by how much each query's largest score of its sampled keys exceeds their sum over S, (Q)."""
    (size, queries), steps, samples = q_EQ.shape, k_ES.shape[1], sampled_QU.shape[1]
    measure_Q, scores_S, asked_E = np.empty(queries, F), np.empty(steps, F), np.empty(size, F)
    for query in range(queries):
        for e in range(size):
            asked_E[e] = q_EQ[e, query]
        # all scores: vectors of them are cheaper than the features of scattered keys
        _combine(asked_E, k_ES, scores_S, steps)
        total, largest = ZERO, LOWEST
        for u in range(samples):
            score = scores_S[np.uint64(sampled_QU[query, u])]  # no sign, no wrapping around
            total += score
            largest = score if score > largest else largest
        measure = largest - total / F(steps)
        measure_Q[query] = np.inf if np.isnan(measure) else measure  # chosen first, as the plain operators do
    return measure_Q


@_part
def _first_largest(x: Float32s) -> int:
    """Returns the place of the largest number; the last place, if there are none but what is not a number."""
    largest, place = _largest(x, len(x)), 0
    while place < len(x) - 1 and x[place] != largest:
        place += 1
    return place


@compiled(fastmath={"nnan", "nsz"})
def _largest(x: Float32s, count: int) -> np.float32:
    """Returns the largest of the first numbers; the flags are those that make it vector instructions."""
    largest = LOWEST
    for i in range(count):
        largest = max(largest, x[i])
    return largest


@inlined
def _combine(factors_E: Float32s, rows_ES: Float32s, sum_S: Float32s, count: int) -> None:
    """Fills in the first `count` numbers of factors @ rows: vectors of steps, several rows in registers at a time."""
    if len(factors_E) < 8:
        sum_S[:count] = ZERO
        _add(factors_E, rows_ES, 0, sum_S, count)
    else:
        _combine_eight(factors_E, rows_ES, sum_S, count)
        _add(factors_E, rows_ES, 8, sum_S, count)


@inlined
def _add(factors: Float32s, rows: Float32s, first: int, total: Float32s, count: int) -> None:
    """Adds the first `count` numbers of the rows from `first` on, each times its factor."""
    whole = first + (len(factors) - first) // 4 * 4
    for e in range(first, whole, 4):
        f0, f1, f2, f3 = factors[e], factors[e + 1], factors[e + 2], factors[e + 3]
        r0, r1, r2, r3 = rows[e], rows[e + 1], rows[e + 2], rows[e + 3]
        for s in range(count):
            total[s] += f0 * r0[s] + f1 * r1[s] + f2 * r2[s] + f3 * r3[s]
    for e in range(whole, len(factors)):
        factor, row = factors[e], rows[e]
        for s in range(count):
            total[s] += factor * row[s]


@inlined
def _combine_eight(f: Float32s, r: Float32s, sum_S: Float32s, count: int) -> None:
    """The first eight rows at once: nothing is read back."""
    f0, f1, f2, f3, f4, f5, f6, f7 = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]
    r0, r1, r2, r3, r4, r5, r6, r7 = r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]
    for s in range(count):
        first = f0 * r0[s] + f1 * r1[s] + f2 * r2[s] + f3 * r3[s]
        sum_S[s] = first + f4 * r4[s] + f5 * r5[s] + f6 * r6[s] + f7 * r7[s]


@inlined
def _dot(x: Float32s, y: Float32s, count: int) -> np.float32:
    total = ZERO
    for i in range(count):
        total += x[i] * y[i]
    return total


@_part
def _softmax(x: Float32s, count: int) -> None:
    """Turns the first `count` scores into weights, the others into zeros."""
    largest, total = _largest(x, count), ZERO
    for i in range(count):
        x[i] = exponential(x[i] - largest)
        total += x[i]
    for i in range(count):
        x[i] /= total
    x[count:] = ZERO


@_part
def _sums(v_ES: Float32s, context_QE: Float32s) -> None:
    """Fills in the sum of the values so far for each query."""
    sum_E = np.zeros(len(v_ES), F)
    for query in range(len(context_QE)):
        for e in range(len(v_ES)):
            sum_E[e] += v_ES[e, query]
            context_QE[query, e] = sum_E[e]


@_part
def _means(v_ES: Float32s, context_QE: Float32s) -> None:
    """Fills in the mean of the values for each query."""
    mean_E, steps = np.empty(len(v_ES), F), v_ES.shape[1]
    for e in range(len(v_ES)):
        total = ZERO
        for s in range(steps):
            total += v_ES[e, s]
        mean_E[e] = total / F(steps)
    for query in range(len(context_QE)):
        for e in range(len(mean_E)):
            context_QE[query, e] = mean_E[e]


@_part
def _others_backward(gradient_QE: Float32s, chosen_K: Integers, causal: bool, d_v_ES: Float32s) -> None:
    """Fills in the gradient of the values from the queries that were not chosen."""
    size, steps = d_v_ES.shape
    sum_E, counts_Q = np.zeros(size, F), np.ones(len(gradient_QE), F)
    for query in chosen_K:
        counts_Q[query] = ZERO
    for query in range(len(gradient_QE) - 1, -1, -1):
        for e in range(size):
            sum_E[e] += counts_Q[query] * gradient_QE[query, e]
            if causal:
                d_v_ES[e, query] = sum_E[e]
    if not causal:
        for e in range(size):
            d_v_ES[e] = sum_E[e] / F(steps)
