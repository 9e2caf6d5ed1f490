// Where a matrix comes from and where its polar factor goes to, some numbers of a row at a time.

#pragma once

#include <cmath>

#include "products.h"

// How a parameter is stepped: m += fresh (g - m) and p -= rate (polar + decay p), decayed only where
// polar p >= 0 if `cautious`. `fresh` is 1 - momentum, which float32 does not know to its last digits.
struct How {
    float momentum, fresh;
    int32_t nesterov;
    float rate, decay;
    int32_t cautious;
};

namespace {

constexpr int LINE = 16;  // numbers of a cache line

// A matrix of a stack, divided by its size, is replaced.
struct Stacked {
    float* x;
    long stride;
    float size;

    template <class M>
    void begin(M&) {}
    void read(long row, long column, int count, float* to) const {
        alignas(ALIGNED) float numbers[SIDE] = {};
        memcpy(numbers, x + row * stride + column, count * sizeof *to);
        for (int i = 0; i < SIDE; i += LANES) store(to + i, load<Floats>(numbers + i) / size);
    }
    void expect(long, long) const {}
    void write(long row, long column, int count, const float* from) const {
        memcpy(x + row * stride + column, from, count * sizeof *from);
    }
};

// What a matrix is multiplied and divided by for its norm to be 1.
struct Scale {
    float lift = 1, size = 1;

    Scale() {}
    explicit Scale(double norm)
        : lift(norm > 1e30 ? 0x1p-60f : norm < 1e-30 ? 0x1p60f : 1),
          size(norm == 0 ? 1 : float(norm * lift)) {}
    Floats of(Floats numbers) const { return numbers * lift / size; }
};

inline Doubles squared(Floats numbers) {  // in double, where squares neither over- nor underflow
    const Doubles wide = __builtin_convertvector(numbers, Doubles);
    return wide * wide;
}

inline double total(const Doubles& sums) {
    double all = 0;
    for (int i = 0; i < LANES; i++) all += sums[i];
    return all;
}

inline void copy(float* to, const float* from, int count) {
    count == SIDE ? memcpy(to, from, SIDE * sizeof *to) : memcpy(to, from, count * sizeof *to);
}

// The polar factor of a matrix goes elsewhere; both lie without gaps.
struct Given {
    const float* x;
    float* to;
    long columns;
    Scale scale;

    template <class M>
    void begin(M& matrix) {
        scale = Scale(std::sqrt(matrix.sum(columns * matrix.rows, [&](long from, long until) {
            Doubles squares{};
            for (long i = from; i < until; i += SIDE) {
                alignas(ALIGNED) float a[SIDE] = {};
                copy(a, x + i, int(std::min<long>(SIDE, until - i)));
                for (int j = 0; j < SIDE; j += LANES) squares += squared(load<Floats>(a + j));
            }
            return total(squares);
        })));
    }
    void read(long row, long column, int count, float* into) const {
        alignas(ALIGNED) float a[SIDE] = {};
        copy(a, x + row * columns + column, count);
        for (int i = 0; i < SIDE; i += LANES) store(into + i, scale.of(load<Floats>(a + i)));
    }
    void expect(long row, long column) const {
        for (int i = 0; i < SIDE; i += LINE) __builtin_prefetch(to + row * columns + column + i, 1);
    }
    void write(long row, long column, int count, const float* from) const {
        copy(to + row * columns + column, from, count);
    }
};

inline Floats lerp(Floats a, Floats b, float weight) {
    return weight < 0.5f ? a + weight * (b - a) : b - (b - a) * (1 - weight);
}

// A parameter with its gradient and momentum, which lie alike, is stepped.
struct Stepped {
    const float* g;
    float *m, *p;
    long columns, stride;
    const How* how;
    Scale scale;

    // Momenta are updated, and their norm found.
    template <class M>
    void begin(M& matrix) {
        const long together = stride == columns ? columns * matrix.rows : columns;  // without a gap
        scale = Scale(std::sqrt(matrix.sum(columns * matrix.rows, [&](long from, long to) {
            Doubles squares{};
            while (from < to) {
                const long row = from / together, column = from % together;
                const long count = std::min(to - from, together - column);
                for (long i = 0; i < count; i += SIDE)
                    average(row * stride + column + i, int(std::min<long>(SIDE, count - i)), squares);
                from += count;
            }
            return total(squares);
        })));
    }
    // Update some momenta, and add up the squares of what is to be orthogonalised.
    void average(long at, int count, Doubles& squares) {
        alignas(ALIGNED) float a[SIDE] = {}, b[SIDE] = {};
        copy(a, g + at, count);
        copy(b, m + at, count);
        for (int i = 0; i < SIDE; i += LANES)
            store(b + i, lerp(load<Floats>(b + i), load<Floats>(a + i), how->fresh));
        copy(m + at, b, count);
        for (int i = 0; i < SIDE; i += LANES)
            squares += squared(ahead(load<Floats>(a + i), load<Floats>(b + i)));
    }
    Floats ahead(Floats gradient, Floats momentum) const {
        return how->nesterov ? lerp(gradient, momentum, how->momentum) : momentum;
    }
    void read(long row, long column, int count, float* to) const {
        alignas(ALIGNED) float a[SIDE] = {}, b[SIDE] = {};
        copy(a, g + row * stride + column, count);
        copy(b, m + row * stride + column, count);
        for (int i = 0; i < SIDE; i += LANES)
            store(to + i, scale.of(ahead(load<Floats>(a + i), load<Floats>(b + i))));
    }
    // Rows lie far apart: asked for before a product is computed, they are there after it.
    void expect(long row, long column) const {
        for (int i = 0; i < SIDE; i += LINE) __builtin_prefetch(p + row * stride + column + i, 1);
    }
    void write(long row, long column, int count, const float* from) const {
        alignas(ALIGNED) float old[SIDE] = {};
        float* to = p + row * stride + column;
        copy(old, to, count);
        for (int i = 0; i < SIDE; i += LANES) {
            const Floats step = load<Floats>(from + i), now = load<Floats>(old + i);
            Floats decay = how->decay == 0 ? Floats{} : now * how->decay;  // not 0 · inf
            if (how->cautious) decay = (Floats)((Words)decay & (Words)(step * now >= 0));
            store(old + i, now - how->rate * (step + decay));
        }
        copy(to, old, count);
    }
};

}  // namespace
