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

inline Floats lerp(Floats a, Floats b, float weight) {
    return weight < 0.5f ? a + weight * (b - a) : b - (b - a) * (1 - weight);
}

// A parameter with its gradient and momentum, which lie alike, is stepped.
struct Stepped {
    const float* g;
    float *m, *p;
    long columns, stride;
    const How* how;
    float lift = 1, size = 1;  // what the momentum is multiplied and divided by

    // Momenta are updated, and their norm found: of squares in double, which neither over- nor underflow.
    template <class M>
    void begin(M& matrix) {
        const long together = stride == columns ? columns * matrix.rows : columns;  // without a gap
        const double norm = std::sqrt(matrix.sum(columns * matrix.rows, [&](long from, long to) {
            Doubles squares{};
            while (from < to) {
                const long row = from / together, column = from % together;
                const long count = std::min(to - from, together - column);
                for (long i = 0; i < count; i += SIDE)
                    average(row * stride + column + i, int(std::min<long>(SIDE, count - i)), squares);
                from += count;
            }
            double total = 0;
            for (int i = 0; i < LANES; i++) total += squares[i];
            return total;
        }));
        lift = norm > 1e30 ? 0x1p-60f : norm < 1e-30 ? 0x1p60f : 1;
        size = norm == 0 ? 1 : float(norm * lift);
    }
    // Update some momenta, and add up the squares of what is to be orthogonalised.
    void average(long at, int count, Doubles& squares) {
        alignas(ALIGNED) float a[SIDE] = {}, b[SIDE] = {};
        copy(a, g + at, count);
        copy(b, m + at, count);
        for (int i = 0; i < SIDE; i += LANES)
            store(b + i, lerp(load<Floats>(b + i), load<Floats>(a + i), how->fresh));
        copy(m + at, b, count);
        for (int i = 0; i < SIDE; i += LANES) {
            const Floats u = ahead(load<Floats>(a + i), load<Floats>(b + i));
            squares += __builtin_convertvector(u, Doubles) * __builtin_convertvector(u, Doubles);
        }
    }
    Floats ahead(Floats gradient, Floats momentum) const {
        return how->nesterov ? lerp(gradient, momentum, how->momentum) : momentum;
    }
    void read(long row, long column, int count, float* to) const {
        alignas(ALIGNED) float a[SIDE] = {}, b[SIDE] = {};
        copy(a, g + row * stride + column, count);
        copy(b, m + row * stride + column, count);
        for (int i = 0; i < SIDE; i += LANES)
            store(to + i, ahead(load<Floats>(a + i), load<Floats>(b + i)) * lift / size);
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
    static void copy(float* to, const float* from, int count) {
        count == SIDE ? memcpy(to, from, SIDE * sizeof *to) : memcpy(to, from, count * sizeof *to);
    }
};

}  // namespace
