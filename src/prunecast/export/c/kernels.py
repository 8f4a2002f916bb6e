"""The C that every written model has in front: vectors of any width, functions of them, and the kernels.

It is C99 with the vector extensions of GCC and Clang; other compilers get vectors of one number. The width is chosen
when it is compiled: 16 numbers with AVX-512, 8 with AVX2, 4 with NEON, Helium and SSE, else 1; `-DPC_W=1` asks for one.
Sums run in the same order whatever the width. exp, erf, tanh and the square root are its own, so that no mathematics
library is needed and every processor with fused multiply-adds gives the same bits.

Three kernels leave zeros of a constant weight out. `jammed` takes four rows together: a column that several of them
have is loaded once for all; so it suits two of four (2:4) and blocks of outputs (16x1) as well. `rowwise` takes one row
at a time, which has less to look up where hardly any column is shared, and `blocked` four columns of a row at once,
where these are zero together (1x4, 1x16). All go through the weight in blocks of columns, so that what they load of the
activations stays in the processor's nearest cache, and so that eight bits tell a column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunecast.export.c.program import Numbers
from prunecast.export.c.steps import up

ROWS = 4
"""Rows of a weight that are computed together: what is loaded of the columns serves them all."""

TILES = (6, 3, 2, 1)
"""Vectors of columns for which there is a kernel."""

WIDTHS = {"jammed": 1, "rowwise": 1, "blocked": 4}
"""Sparse kernel -> columns that go together."""

EIGHT = "8"
"""What names of kernels end in whose weight is in 8 bits."""

WIDEST = {"product": "PC_TILE", "columns": "PC_TILE", "jammed": "PC_JAM", "rowwise": "6", "blocked": "6"}
"""Kernel -> the most vectors for which it is compiled: for as many as its sums stay in registers."""

VECTORS = r"""
#include <stddef.h>
/* declared here: a bare compiler has no string.h */
void *memcpy(void *to, const void *from, size_t bytes);

#ifndef PC_W
#if !defined(__GNUC__)
#define PC_W 1
#elif defined(__AVX512F__)
#define PC_W 16
#elif defined(__AVX2__)
#define PC_W 8
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define PC_W 4
#elif defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE > 1
#define PC_W 4
#else
#define PC_W 1
#endif
#endif
#if PC_W > PC_PADDING
#undef PC_W
#define PC_W PC_PADDING
#endif
#if PC_W == 4 && defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE > 1
#define PC_HELIUM 1
#include <arm_mve.h>
#endif
/* rows, and vectors of columns, whose sums a kernel keeps in registers: there are 32, 16, and 8 on Helium */
#if PC_W == 16 || defined(__aarch64__) || (PC_W == 1 && defined(__arm__))
#define PC_ROWS 4
#define PC_TILE 6
#define PC_JAM 6
#elif defined(PC_HELIUM)
#define PC_ROWS 2
#define PC_TILE 3
#define PC_JAM 1
#else
#define PC_ROWS 4
#define PC_TILE 3
#define PC_JAM 3
#endif
#if defined(__clang__)
#define PC_INLINE static inline __attribute__((always_inline, unused))
#define PC_APART static __attribute__((noinline, unused))
#elif defined(__GNUC__)
#define PC_INLINE static inline __attribute__((always_inline, unused))
/* noipa: where GCC 12 makes one counter of several addresses (ivopts), two of its passes (pure-const, modref) no longer
   see that a function writes, and its callers drop the call: a fault of that compiler, not of aliasing here */
#define PC_APART static __attribute__((noipa, unused))
#else
#define PC_INLINE static inline
#define PC_APART static
#endif

/* keeps what was loaded in a register: GCC would load it again for each of its uses */
#if (PC_W == 16 && defined(__AVX512F__)) || (PC_W == 8 && defined(__AVX__)) || (PC_W == 4 && defined(__SSE2__))
#define PC_HOLD(v) __asm__("" : "+v"(v))
#elif PC_W == 4 && defined(__aarch64__)
#define PC_HOLD(v) __asm__("" : "+w"(v))
#else
#define PC_HOLD(v) (void)(v)
#endif

#if PC_W > 1
typedef float pc_v __attribute__((vector_size(4 * PC_W)));
typedef int pc_i __attribute__((vector_size(4 * PC_W)));
typedef float pc_u __attribute__((vector_size(4 * PC_W), aligned(4), may_alias));
PC_INLINE pc_v pc_ld(const float *p) { return (pc_v)*(const pc_u *)p; }
PC_INLINE void pc_st(float *p, pc_v v) { *(pc_u *)p = (pc_u)v; }
PC_INLINE pc_v pc_set(float x) { return x - (pc_v){0}; }
PC_INLINE pc_i pc_bits(pc_v v) { return (pc_i)v; }
PC_INLINE pc_v pc_number(pc_i i) { return (pc_v)i; }
/* x where a > b, else y; and a sum's next part: GCC makes neither of Helium's own */
#ifdef PC_HELIUM
PC_INLINE pc_v pc_above(pc_v a, pc_v b, pc_v x, pc_v y) { return vpselq_f32(x, y, vcmpgtq_f32(a, b)); }
#define PC_ADD(sum, number, v) sum = vfmaq_n_f32(sum, v, number)
#else
PC_INLINE pc_v pc_above(pc_v a, pc_v b, pc_v x, pc_v y)
{
    pc_i m = a > b;
    return (pc_v)(((pc_i)x & m) | ((pc_i)y & ~m));
}
#endif
#else
typedef float pc_v;
typedef int pc_i;
PC_INLINE pc_v pc_ld(const float *p) { return *p; }
PC_INLINE void pc_st(float *p, pc_v v) { *p = v; }
PC_INLINE pc_v pc_set(float x) { return x; }
union pc_pun { pc_v v; pc_i i; };
PC_INLINE pc_i pc_bits(pc_v v) { union pc_pun one; one.v = v; return one.i; }
PC_INLINE pc_v pc_number(pc_i i) { union pc_pun one; one.i = i; return one.v; }
PC_INLINE pc_v pc_above(pc_v a, pc_v b, pc_v x, pc_v y) { return a > b ? x : y; }
#endif
#ifndef PC_ADD
#define PC_ADD(sum, number, v) sum += (number) * (v)
#endif

/* numbers that lie `step` apart, of which `count` are there */
PC_INLINE pc_v pc_lds(const float *p, ptrdiff_t step, int count)
{
    float t[PC_W];
    for (int i = 0; i < PC_W; i++) t[i] = p[(i < count ? i : 0) * step];
    return pc_ld(t);
}
/* the first `count` numbers only */
PC_INLINE void pc_stn(float *p, pc_v v, int count)
{
    if (count >= PC_W) {
        pc_st(p, v);
    } else {
        float t[PC_W];
        pc_st(t, v);
        for (int i = 0; i < PC_W - 1; i++)
            if (i < count) p[i] = t[i];
    }
}
PC_INLINE pc_v pc_maximum(pc_v a, pc_v b) { return pc_above(a, b, a, b); }
PC_INLINE pc_v pc_minimum(pc_v a, pc_v b) { return pc_above(a, b, b, a); }
PC_INLINE pc_v pc_greater(pc_v a, pc_v b) { return pc_above(a, b, pc_set(1.0f), pc_set(0.0f)); }
PC_INLINE pc_v pc_neg(pc_v x) { return -x; }
PC_INLINE pc_v pc_abs(pc_v x) { return pc_maximum(x, -x); }
PC_INLINE pc_v pc_square(pc_v x) { return x * x; }
PC_INLINE pc_v pc_relu(pc_v x) { return pc_maximum(x, pc_set(0.0f)); }
PC_INLINE pc_v pc_where(pc_v c, pc_v x, pc_v y) { return pc_above(pc_abs(c), pc_set(0.0f), x, y); }

/* 2^n exp(r) of |r| < ln(2) / 2 by a polynomial (Cephes); 0 below -87, where numbers leave the normal range */
PC_INLINE pc_v pc_exp(pc_v x)
{
    const pc_v magic = pc_set(12582912.0f); /* adding it leaves a whole number in the last bits */
    pc_v at = pc_minimum(pc_maximum(x, pc_set(-87.0f)), pc_set(88.0f));
    pc_v whole = at * 1.44269504f + magic;
    pc_i power = (pc_bits(whole) - pc_bits(magic)) * (1 << 23);
    pc_v n = whole - magic, r = at - n * 0.693359375f + n * 2.12194440e-4f;
    pc_v p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return pc_above(x, pc_set(-87.0f), pc_number(pc_bits(p) + power), pc_set(0.0f));
}
PC_INLINE pc_v pc_sigmoid(pc_v x) { return 1.0f / (1.0f + pc_exp(-x)); }
/* a rational function (Eigen) */
PC_INLINE pc_v pc_tanh(pc_v x)
{
    x = pc_minimum(pc_maximum(x, pc_set(-7.90531110763549805f)), pc_set(7.90531110763549805f));
    pc_v s = x * x;
    pc_v p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    pc_v q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return x * p / q;
}
/* a rational function (Eigen) */
PC_INLINE pc_v pc_erf(pc_v x)
{
    x = pc_minimum(pc_maximum(x, pc_set(-4.0f)), pc_set(4.0f));
    pc_v s = x * x;
    pc_v p = s * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * s + -2.10102402082508e-06f;
    p = p * s + -5.69250639462346e-05f;
    p = p * s + -7.34990630326855e-04f;
    p = p * s + -2.95459980854025e-03f;
    p = p * s + -1.60960333262415e-02f;
    pc_v q = s * -1.45660718464996e-05f + -2.13374055278905e-04f;
    q = q * s + -1.68282697438203e-03f;
    q = q * s + -7.37332916720468e-03f;
    q = q * s + -1.42647390514189e-02f;
    return x * p / q;
}
PC_INLINE pc_v pc_gelu(pc_v x) { return 0.5f * x * (1.0f + pc_erf(x * 0.70710678f)); }
PC_INLINE pc_v pc_elu(pc_v x) { return pc_above(x, pc_set(0.0f), x, pc_exp(pc_minimum(x, pc_set(0.0f))) - 1.0f); }
/* Newton's steps from a guess by the bits; 0 gives a large number, so that its square root is 0 */
PC_INLINE pc_v pc_rsqrt(pc_v x)
{
    pc_v y = pc_number(0x5f375a86 - (pc_bits(x) >> 1));
    for (int i = 0; i < 4; i++) y = y * (1.5f - 0.5f * x * y * y);
    return y;
}
PC_INLINE pc_v pc_sqrt(pc_v x)
{
    pc_v y = x * pc_rsqrt(x);
    return y + 0.5f * (x - y * y) * pc_rsqrt(pc_maximum(x, pc_set(1e-38f)));
}
PC_INLINE int pc_at(float index, int size)
{
    int at = (int)index;
    return at < 0 ? 0 : at < size ? at : size - 1;
}
PC_APART int pc_finite(const float *p, int count)
{
    for (int i = 0; i < count; i++)
        if (p[i] - p[i] != 0.0f) return 0;
    return 1;
}
"""

ALONG = r"""
PC_APART void pc_softmax(const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy, int rows, int columns)
{
    for (int j = 0; j < columns; j += PC_W) {
        pc_v top = pc_ld(x + j), sum = pc_set(0.0f);
        for (int r = 1; r < rows; r++) top = pc_maximum(top, pc_ld(x + r * ldx + j));
        for (int r = 0; r < rows; r++) {
            pc_v e = pc_exp(pc_ld(x + r * ldx + j) - top);
            sum += e;
            pc_stn(y + r * ldy + j, e, columns - j);
        }
        sum = 1.0f / sum;
        for (int r = 0; r < rows; r++) pc_stn(y + r * ldy + j, pc_ld(y + r * ldy + j) * sum, columns - j);
    }
}
PC_APART void pc_layer_norm(const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy, int rows, int columns,
                            const float *weight, const float *bias, float epsilon)
{
    for (int j = 0; j < columns; j += PC_W) {
        pc_v mean = pc_set(0.0f), square = pc_set(0.0f);
        for (int r = 0; r < rows; r++) mean += pc_ld(x + r * ldx + j);
        mean *= 1.0f / (float)rows;
        for (int r = 0; r < rows; r++) square += pc_square(pc_ld(x + r * ldx + j) - mean);
        pc_v scale = pc_rsqrt(square * (1.0f / (float)rows) + epsilon);
        for (int r = 0; r < rows; r++) {
            pc_v normal = (pc_ld(x + r * ldx + j) - mean) * scale;
            pc_stn(y + r * ldy + j, normal * weight[r] + bias[r], columns - j);
        }
    }
}
/* places of the largest, in falling order; of equal ones the first */
PC_APART void pc_top(const float *x, ptrdiff_t step, int size, float *y, ptrdiff_t ldy, int count, float *left)
{
    for (int i = 0; i < size; i++) left[i] = 1.0f;
    for (int k = 0; k < count; k++) {
        int best = -1;
        for (int i = 0; i < size; i++)
            if (left[i] != 0.0f && (best < 0 || x[i * step] > x[best * step])) best = i;
        left[best] = 0.0f;
        y[k * ldy] = (float)best;
    }
}
/* gates of each step by the inputs, (4 hidden), in torch's order: input, forget, cell, output */
PC_APART void pc_lstm(const float *gates, ptrdiff_t ldg, const float *w, ptrdiff_t ldw, float *y, ptrdiff_t ldy,
                      float *state, ptrdiff_t cells, int length, int hidden)
{
    float *cell = state + cells;
    const float *before = NULL;
    for (int i = 0; i < hidden; i++) cell[i] = 0.0f;
    for (int t = 0; t < length; t++) {
        for (int j = 0; j < 4 * hidden; j += PC_W) {
            pc_v sum = pc_ld(gates + t * ldg + j);
            if (before != NULL)
                for (int k = 0; k < hidden; k++) sum += before[k] * pc_ld(w + k * ldw + j);
            pc_stn(state + j, sum, 4 * hidden - j);
        }
        for (int i = 0; i < hidden; i += PC_W) {
            pc_v c = pc_sigmoid(pc_ld(state + hidden + i)) * pc_ld(cell + i);
            c += pc_sigmoid(pc_ld(state + i)) * pc_tanh(pc_ld(state + 2 * hidden + i));
            pc_stn(cell + i, c, hidden - i);
            pc_stn(y + t * ldy + i, pc_sigmoid(pc_ld(state + 3 * hidden + i)) * pc_tanh(c), hidden - i);
        }
        before = y + t * ldy;
    }
}
"""

PRODUCT = r"""
/* y = activation(scale * product + bias) + residual; columns are contiguous in x, y and the residual */
struct pc_product {
    const float *s;                          /* numbers of the weight */
    const unsigned char *eight;              /* the same in 8 bits, with a scale for each row */
    const float *scales, *scales_columns;
    ptrdiff_t s_row, s_depth, s_rows;        /* from row to row, along the sum, from 4 rows to the next 4 */
    ptrdiff_t ldx, ldy, ldr;
    int rows, depth, columns;
    const float *bias_rows, *bias_columns;
    float scale;
    int activation;                          /* 0 none, 1 gelu, 2 relu, 3 elu, 4 tanh, 5 sigmoid */
    const unsigned char *q;                  /* counts and columns of the numbers that are not zero */
    int block;                               /* columns of the weight in a block of these */
};
PC_APART void pc_finish(const struct pc_product *p, float *y, const float *residual, int row, int rows, int at, int n)
{
    int scaled = p->scale != 1.0f || p->scales || p->scales_columns;
    if (!scaled && !p->bias_rows && !p->bias_columns && !p->activation && !residual) return;
    for (int r = row; r < row + rows; r++) {
        pc_v bias = pc_set(p->bias_rows ? p->bias_rows[r] : 0.0f);
        pc_v scale = pc_set(p->scales ? p->scale * p->scales[r] : p->scale);
        for (int j = at; j < at + n * PC_W; j += PC_W) {
            pc_v v = pc_ld(y + r * p->ldy + j);
            if (p->scales_columns) v = v * pc_ld(p->scales_columns + j);
            v = v * scale + bias;
            if (p->bias_columns) v += pc_ld(p->bias_columns + j);
            switch (p->activation) {
            case 1: v = pc_gelu(v); break;
            case 2: v = pc_relu(v); break;
            case 3: v = pc_elu(v); break;
            case 4: v = pc_tanh(v); break;
            case 5: v = pc_sigmoid(v); break;
            default: break;
            }
            if (residual) v += pc_ld(residual + r * p->ldr + j);
            pc_st(y + r * p->ldy + j, v);
        }
    }
}
"""

LOAD_EIGHT = r"""
#if defined(PC_HELIUM)
PC_INLINE pc_v pc_ld8(const signed char *p) { return vcvtq_f32_s32(vldrbq_s32(p)); }
#elif PC_W > 1
typedef signed char pc_c __attribute__((vector_size(PC_W), aligned(1), may_alias));
PC_INLINE pc_v pc_ld8(const signed char *p) { return __builtin_convertvector(*(const pc_c *)p, pc_v); }
#else
PC_INLINE pc_v pc_ld8(const signed char *p) { return *p; }
#endif
"""

WALK = r"""
PC_APART void pc_{kind}(const struct pc_product *p, const float *x, float *y, const float *residual)
{{
    int at = 0, left = (p->columns + PC_W - 1) / PC_W;
    while (left > 0) {{
{calls}
    }}
}}
"""


def products(used: Collection[str]) -> str:
    """Returns the kernels of products that are used, for each number of vectors.

    Args:
        used: "product", "jammed", "rowwise", "blocked"; the same with an 8 at the end for weights in 8 bits; "columns8"
            for such a weight whose outputs are the columns.
    """
    bodies = {"product": _dense, "columns": _dense, "jammed": _jammed, "rowwise": _rowwise, "blocked": _blocked}
    parts = [LOAD_EIGHT] if "columns8" in used else []
    parts += [_eight()] if {*EIGHT_OF.values()} & {*used} else []
    for kind in sorted(used):
        body = bodies[kind.removesuffix(EIGHT)]
        parts += [_tile(kind, body(tile), tile) for tile in TILES]
        parts.append(_walk(kind))
    return "".join(parts)


def _eight() -> str:
    """Returns the table from a byte to the number that it is: a load takes less than a conversion."""
    numbers = ", ".join(f"{byte - 256 * (byte > 127)}.0f" for byte in range(256))
    return f"static const float pc_eight[256] = {{{numbers}}};\n"


def _walk(kind: str) -> str:
    """Returns the function that goes over all columns, as many vectors at a time as there is a kernel for."""
    calls = []
    for tile in TILES:
        then = f"pc_{kind}{tile}(p, x, y, residual, at); at += {tile} * PC_W; left -= {tile}; continue;"
        calls += [
            f"#if {WIDEST[kind.removesuffix(EIGHT)]} >= {tile}",
            f"        if (left >= {tile}) {{ {then} }}",
            "#endif",
        ]
    return WALK.format(kind=kind, calls="\n".join(calls))


def _tile(kind: str, body: Iterator[str], tile: int) -> str:
    given = "const struct pc_product *p, const float *xs, float *ys, const float *residual, int at"
    head = f"PC_APART void pc_{kind}{tile}({given})"
    lines = "\n".join(line if line.startswith("#") else f"    {line}" for line in body)
    if kind == "columns8":  # the same, but for where numbers of the weight come from
        lines = lines.replace("const float *x = xs", "const signed char *x = (const signed char *)p->eight")
        lines = f"    (void)xs;\n{lines.replace('pc_ld(x', 'pc_ld8(x')}"
    elif kind.endswith(EIGHT):
        lines = lines.replace("const float *s = p->s", "const unsigned char *s = p->eight")
        lines = re.sub(r"\bs\[[^]]*\]", r"pc_eight[\g<0>]", lines)
    return f"#if {WIDEST[kind.removesuffix(EIGHT)]} >= {tile}\n{head}\n{{\n{lines}\n}}\n#endif\n"


def _sums(rows: int, tile: int) -> str:
    return ", ".join(f"a{row}{vector} = pc_set(0.0f)" for row in range(rows) for vector in range(tile))


def _loads(tile: int, uses: int) -> str:
    hold = " PC_HOLD(x{0});" if uses > 1 else ""
    return " ".join(f"pc_v x{vector} = pc_ld(x + {vector} * PC_W);{hold.format(vector)}" for vector in range(tile))


def _stores(rows: int, tile: int) -> str:
    return " ".join(
        f"pc_st(y + {row} * p->ldy + {vector} * PC_W, a{row}{vector});" for row in range(rows) for vector in range(tile)
    )


def _dense(tile: int) -> Iterator[str]:
    yield "int r = 0;"
    for rows in (ROWS, 2, 1):
        yield f"#if PC_ROWS >= {rows}"
        yield f"for (; r + {rows} <= p->rows; r += {rows}) {{"
        yield f"    const float *s = p->s + (r / {ROWS}) * p->s_rows + (r % {ROWS}) * p->s_row;"
        yield "    const float *x = xs + at;"
        yield f"    float *y = ys + r * p->ldy + at;\n    pc_v {_sums(rows, tile)};"
        if rows > 1:  # a weight's rows lie side by side: their places are known when this is compiled
            yield "    if (p->s_row == 1) {"
            yield from _dense_sums(rows, tile, "1")
            yield "    } else {"
            yield from _dense_sums(rows, tile, "p->s_row")
            yield "    }"
        else:
            yield from _dense_sums(rows, tile, "p->s_row")
        yield f"    {_stores(rows, tile)}"
        yield f"    pc_finish(p, ys, residual, r, {rows}, at, {tile});"
        yield "}"
        yield "#endif"


def _dense_sums(rows: int, tile: int, step: str) -> Iterator[str]:
    yield "    for (int k = 0; k < p->depth; k++, x += p->ldx, s += p->s_depth) {"
    yield f"        {_loads(tile, rows)}"
    for row in range(rows):
        adds = " ".join(f"PC_ADD(a{row}{vector}, s[{row} * {step}], x{vector});" for vector in range(tile))
        yield f"        {adds}"
    yield "    }"


def _blocks(rows: int, tile: int, inner: Iterator[str]) -> Iterator[str]:
    """Yields the loops over blocks of columns of the weight and groups of its rows, around what a group does."""
    yield "const float *s = p->s;"
    yield "const unsigned char *q = p->q;"
    yield "for (int first = 0; first < p->depth; first += p->block) {"
    yield f"    for (int r = 0; r < p->rows; r += {rows}) {{"
    yield "        const float *from = xs + first * p->ldx + at;"
    yield f"        float *y = ys + r * p->ldy + at;\n        pc_v {_sums(rows, tile)};"
    for row in range(rows):
        there = "" if row == 0 else f" && r + {row} < p->rows"
        loads = " ".join(f"a{row}{vector} = pc_ld(y + {row} * p->ldy + {vector} * PC_W);" for vector in range(tile))
        yield f"        if (first{there}) {{ {loads} }}"
    for line in inner:
        yield f"        {line}"
    for row in range(rows):
        stores = " ".join(f"pc_st(y + {row} * p->ldy + {vector} * PC_W, a{row}{vector});" for vector in range(tile))
        yield f"        {'' if row == 0 else f'if (r + {row} < p->rows) '}{{ {stores} }}"
    finish = f"pc_finish(p, ys, residual, r, p->rows - r < {rows} ? p->rows - r : {rows}, at, {tile});"
    yield f"        if (first + p->block >= p->depth) {finish}"
    yield "    }"
    yield "}"


def _jammed(tile: int) -> Iterator[str]:
    """Yields the kernel for four rows at once: their columns come by which of the rows have them."""

    def inner() -> Iterator[str]:
        yield f"const unsigned char *counts = q; q += {2**ROWS - 1};"
        for mask in range(1, 2**ROWS):
            rows = [row for row in range(ROWS) if mask >> row & 1]
            adds = " ".join(f"PC_ADD(a{row}{v}, s[{at}], x{v});" for at, row in enumerate(rows) for v in range(tile))
            yield f"for (int n = counts[{mask - 1}]; n > 0; n--, s += {len(rows)}) {{"
            yield f"    const float *x = from + *q++ * p->ldx; {_loads(tile, len(rows))}"
            yield f"    {adds}"
            yield "}"

    return _blocks(ROWS, tile, inner())


def _rowwise(tile: int) -> Iterator[str]:
    """Yields the kernel for one row at a time."""

    def inner() -> Iterator[str]:
        yield "for (int n = *q++; n > 0; n--, s++) {"
        yield f"    const float *x = from + *q++ * p->ldx; {_loads(tile, 1)}"
        yield "    " + " ".join(f"PC_ADD(a0{v}, s[0], x{v});" for v in range(tile))
        yield "}"

    return _blocks(1, tile, inner())


def _blocked(tile: int) -> Iterator[str]:
    """Yields the kernel for one row at a time, whose columns come four together."""

    def inner() -> Iterator[str]:
        yield f"for (int n = *q++; n > 0; n--, s += {WIDTHS['blocked']}) {{"
        yield f"    const float *x = from + {WIDTHS['blocked']} * *q++ * p->ldx;"
        for column in range(WIDTHS["blocked"]):
            adds = " ".join(f"PC_ADD(a0{v}, s[{column}], x{v});" for v in range(tile))
            yield f"    {{ {_loads(tile, 1)} {adds} }} x += p->ldx;"
        yield "}"

    return _blocks(1, tile, inner())


# Weights as the kernels read them

Kernel = Literal["product", "jammed", "rowwise", "blocked", "product8", "jammed8", "rowwise8", "blocked8"]

EIGHT_OF: Mapping[Kernel, Kernel] = {
    "product": "product8",
    "jammed": "jammed8",
    "rowwise": "rowwise8",
    "blocked": "blocked8",
}
"""Kernel -> the same for a weight in 8 bits."""

DENSE_BELOW, WIDE_FROM = 0.1, 0.93
"""Shares of zeros from which a weight is stored without them, and in blocks as wide as eight bits tell."""

SHARED_BELOW, FILLED_FROM = 0.73, 0.9
"""Columns that four rows load, as a share of their numbers, below which they go together (80 % of random zeros); share
of the numbers in blocks of four columns that are not zero from which these go together."""

NARROW_COLUMNS = {"jammed": 171, "rowwise": 128, "blocked": 128}
"""Columns in a block of weights with fewer zeros than that."""

MOST_COLUMNS = 255
"""Columns in a block: eight bits count them."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight as a kernel reads it.

    Attributes:
        kernel: name of the kernel.
        numbers: in the order in which they are read; whole ones of 8 bits where it has scales.
        codes: counts and columns in that order; empty of a dense one.
        block: columns in a block of a sparse one.
    """

    kernel: Kernel
    numbers: Numbers | NDArray[np.int8]
    codes: NDArray[np.uint8]
    block: int

    @property
    def bytes(self) -> int:
        """What it takes of flash."""
        return self.numbers.nbytes + self.codes.nbytes


KernelChoice = Callable[[Numbers, int], tuple[Kernel, int]]
"""Weight (O, I) and columns of what it is multiplied with -> its kernel, and columns of the weight in a block."""


def packed_weight(
    weight: Numbers, columns: int, choose: KernelChoice | None = None, scales: Numbers | None = None
) -> Packed:
    """Returns a weight (O, I) as the fastest kernel reads it.

    Args:
        weight: its numbers.
        columns: of what it is multiplied with.
        choose: the kernel and its block; by the model of costs when None.
        scales: (O,), of a weight in 8 bits: what is packed are the whole numbers that these multiply.
    """
    kernel, block = (choose or chosen)(weight, columns)
    whole = weight if scales is None else np.rint(weight / scales[:, None])
    found = dense_weight(whole) if kernel == "product" else sparse_weight(whole, kernel, block)
    return found if scales is None else replace(found, kernel=EIGHT_OF[kernel], numbers=found.numbers.astype(np.int8))


def chosen(weight: Numbers, columns: int) -> tuple[Kernel, int]:
    """Returns the kernel for a weight (O, I) and the columns in a block of it.

    What takes least, in us, by `benchmarks/c_engine.py --kernels` on an AMD EPYC with AVX-512, 512 x 512 weights, 96
    columns, random zeros 0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95: dense 422, 401, 421, 399, 408, 418, 400, 401; jammed
    413, 369, 293, 202, 138, 99, 49, 16; by row 526, 466, 367, 253, 158, 94, 40, 10. What decides between the last two
    are the columns that four rows load for each of their numbers: 0.47 at 0.5, 0.74 at 0.8; of other patterns as many
    as there are. More zeros pay with wider blocks: fewer sums are put down and taken up again.
    """
    numbers = np.count_nonzero(weight)
    zeros = 1 - numbers / weight.size
    if zeros < DENSE_BELOW:
        return "product", weight.shape[1]
    kernel: Kernel = "rowwise"
    if np.count_nonzero(_units(weight, "jammed").any((1, 3))) < SHARED_BELOW * numbers:
        kernel = "jammed"
    elif weight.shape[1] % WIDTHS["blocked"] == 0:
        units = np.count_nonzero(_units(weight, "blocked").any((1, 3)))
        kernel = "blocked" if numbers >= FILLED_FROM * units * WIDTHS["blocked"] else kernel
    widest = NARROW_COLUMNS[kernel] if kernel == "jammed" or zeros < WIDE_FROM else MOST_COLUMNS * WIDTHS[kernel]
    blocks = -(-weight.shape[1] // widest)
    return kernel, up(-(-weight.shape[1] // blocks), WIDTHS[kernel])


def dense_weight(weight: Numbers) -> Packed:
    """Returns a weight with four rows interleaved, the last of them filled up with zeros."""
    outputs, inputs = weight.shape
    filled = np.pad(weight, ((0, -outputs % ROWS), (0, 0)))
    numbers = filled.reshape(-1, ROWS, inputs).transpose(0, 2, 1)
    return Packed("product", np.ascontiguousarray(numbers).reshape(-1), np.empty(0, np.uint8), inputs)


def sparse_weight(weight: Numbers, kernel: Kernel, block: int) -> Packed:
    """Returns a weight without its zeros.

    For each block of columns, for each group of rows, come first how many columns are in each subset of the rows (of
    one row there is one subset), then these columns, counted from the start of the block. Where columns come several
    together, these are counted.
    """
    units = _units(weight, kernel)
    groups, rows, _, width = units.shape
    blocks, subsets, many = -(-weight.shape[1] // block), 2**rows - 1, block // width
    there = (units != 0).any(3)
    subset = (there * (1 << np.arange(rows))[:, None]).sum(1)
    group, column = np.nonzero(subset)
    which = subset[group, column] - 1
    order = np.lexsort((column, which, group, column // many))
    group, column, which = group[order], column[order], which[order]
    numbers = units[group, :, column][there[group, :, column]].reshape(-1)
    chunk = (column // many) * groups + group
    counts = np.zeros((blocks * groups, subsets), np.intp)
    np.add.at(counts, (chunk, which), 1)
    starts = np.cumsum(np.r_[0, counts.sum(1) + subsets])
    codes = np.zeros(starts[-1], np.uint8)
    codes[(starts[:-1, None] + np.arange(subsets)).reshape(-1)] = counts.reshape(-1)
    codes[np.arange(len(column)) + (chunk + 1) * subsets] = column % many
    return Packed(kernel, np.ascontiguousarray(numbers, dtype=np.float32), codes, block)


def _units(weight: Numbers, kernel: Kernel) -> Numbers:
    """Returns a weight as (groups of rows, rows, columns, columns that go together), filled up with zeros."""
    rows, width = ROWS if kernel == "jammed" else 1, WIDTHS.get(kernel, 1)
    filled = np.pad(weight, ((0, -len(weight) % rows), (0, 0)))
    return filled.reshape(-1, rows, weight.shape[1] // width, width)
