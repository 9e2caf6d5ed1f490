// Products of matrices in blocks of 32 x 32, in the order in which they are read ("packed").
//
// A panel holds 32 rows of a left operand or 32 columns of a right one, [step][row] or [step][column], where
// a step is what one instruction multiplies: one float32, or two bfloat16 whose products it adds up in
// float32.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int SIDE = 32;    // of a block
constexpr int VECTORS = 2;  // of a row, summed at a time
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // 16 sums, 2 vectors and a number in 32 registers
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8, ROWS = 4;  // 8, 2 and 1 in 16
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr long CHUNK = 128;  // steps for which two panels stay in the first-level cache
constexpr size_t ALIGNED = 64;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(4 * LANES)));

template <class V>
inline V load(const void* from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}
template <class V>
inline void store(void* to, V v) {
    memcpy(to, &v, sizeof v);
}

// a0 b0 a1 b1 ... of the lower or the upper halves.
template <bool UPPER, class V, size_t... I>
inline V interleaved(V a, V b, std::index_sequence<I...>) {
    constexpr size_t n = sizeof...(I), from = UPPER ? n / 2 : 0;
#ifdef __clang__
    return __builtin_shufflevector(a, b, (from + I / 2 + (I % 2) * n)...);
#else
    return __builtin_shuffle(a, b, V{decltype(V{}[0] + 0)(from + I / 2 + (I % 2) * n)...});
#endif
}
template <bool UPPER, class V>
inline V interleaved(V a, V b) {
    return interleaved<UPPER>(a, b, std::make_index_sequence<sizeof(V) / sizeof(a[0])>());
}

// The transpose of LANES vectors: every round interleaves one half of the rows with the other.
inline void transpose(Words* v) {
    Words w[LANES];
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            w[2 * i] = interleaved<false>(v[i], v[i + LANES / 2]);
            w[2 * i + 1] = interleaved<true>(v[i], v[i + LANES / 2]);
        }
        memcpy(v, w, sizeof w);
    }
}

// What the iterations run in. `row` reads some numbers of a row of a block that is packed by columns. ALIKE: a
// matrix by rows is its transpose by columns. A thread that multiplies holds a Unit.
struct Float32 {
    typedef float Number;
    struct Unit {};
    static constexpr int STEP = 1;
    static constexpr bool ALIKE = true;
    static Floats add_product(Floats sum, uint32_t a, Words b) {
        float number;
        memcpy(&number, &a, sizeof number);
        return sum + number * (Floats)b;
    }
    static void store_rounded(Number* to, Floats v) { store(to, v); }
    static Floats rounded(Floats v) { return v; }
    static Floats row(const uint32_t* block, int i, int j) { return load<Floats>(block + i * SIDE + j); }
};

#ifdef __AVX512BF16__
struct Bfloat16 {
    typedef uint16_t Number;
    struct Unit {};
    static constexpr int STEP = 2;
    static constexpr bool ALIKE = true;
    static Floats add_product(Floats sum, uint32_t a, Words b) {
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
    }
    static void store_rounded(Number* to, Floats v) { store(to, _mm512_cvtneps_pbh((__m512)v)); }
    static Floats rounded(Floats v) {
        return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)), 16);
    }
    // Two rows share their words.
    static Floats row(const uint32_t* block, int i, int j) {
        const Words pair = load<Words>(block + i / 2 * SIDE + j);
        return (Floats)(i % 2 ? pair & 0xffff0000u : pair << 16);
    }
};
#endif

template <class T>
constexpr long WORDS = SIDE * SIDE / T::STEP;  // of a block

// Write a block to where it is an operand by columns, which are rows that share words side by side.
template <class T>
void pack_columns(const typename T::Number* from, uint32_t* to) {
    if constexpr (T::STEP == 1) {
        memcpy(to, from, SIDE * SIDE * sizeof *from);
    } else {
        for (int i = 0; i < SIDE; i += 2, to += SIDE)
            for (int j = 0; j < SIDE; j += 2 * LANES) {
                const Halves one = load<Halves>(from + i * SIDE + j),
                             two = load<Halves>(from + (i + 1) * SIDE + j);
                store(to + j, interleaved<false>(one, two));
                store(to + j + LANES, interleaved<true>(one, two));
            }
    }
}

// Write a block to where it is an operand by rows: its words, transposed.
template <class T>
void pack_rows(const typename T::Number* from, uint32_t* to) {
    for (int i = 0; i < SIDE; i += LANES)
        for (int step = 0; step < SIDE / T::STEP; step += LANES) {
            Words v[LANES];
            for (int r = 0; r < LANES; r++) v[r] = load<Words>(from + (i + r) * SIDE + step * T::STEP);
            transpose(v);
            for (int r = 0; r < LANES; r++) store(to + (step + r) * SIDE + i, v[r]);
        }
}

// Write a block, and its transpose, to where each is an operand, null for nowhere.
template <class T>
void pack(const typename T::Number* from, uint32_t* rows, uint32_t* columns, uint32_t* transpose_rows,
          uint32_t* transpose_columns) {
    if (rows) pack_rows<T>(from, rows);
    if (columns) pack_columns<T>(from, columns);
    if (transpose_rows) pack_columns<T>(from, transpose_rows);
    if (transpose_columns) pack_rows<T>(from, transpose_columns);
}

// Replace what is above a block's diagonal by the mirror image of what is below.
void mirror(float* block) {
    Words at;
    for (int i = 0; i < LANES; i++) at[i] = i;
    for (int i = 0; i < SIDE; i += LANES)
        for (int j = 0; j <= i; j += LANES) {
            Words v[LANES];
            for (int r = 0; r < LANES; r++) v[r] = load<Words>(block + (i + r) * SIDE + j);
            transpose(v);
            for (int r = 0; r < LANES; r++) {
                float* to = block + (j + r) * SIDE + i;
                store(to, i == j ? (Words)(at > Words{} + r ? v[r] : load<Words>(to)) : v[r]);
            }
        }
}

// totals (+)= the products of some rows and some vectors of columns.
template <class T, int ROWS, int VECTORS>
void add_products(const uint32_t* a, const uint32_t* b, long steps, float* totals, bool first) {
    Floats sums[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; j++)
            sums[i][j] = first ? Floats{} : load<Floats>(totals + i * SIDE + j * LANES);
#pragma GCC unroll 2
    for (long step = 0; step < steps; step++, a += SIDE, b += SIDE) {
        Words v[VECTORS];
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; j++) v[j] = load<Words>(b + j * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
            for (int j = 0; j < VECTORS; j++) sums[i][j] = T::add_product(sums[i][j], a[i], v[j]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; j++) store(totals + i * SIDE + j * LANES, sums[i][j]);
}

// totals = the product of a panel's first `rows` rows and another's `columns`, where tiles cover them.
template <class T, int ROWS, int VECTORS>
void multiply(const uint32_t* a, const uint32_t* b, long steps, int rows, int columns, bool half,
              float* totals) {
    for (long start = 0; start < steps; start += CHUNK)
        for (int i = 0; i < rows; i += ROWS)
            for (int j = 0; j < (half ? std::min(i + ROWS, columns) : columns); j += VECTORS * LANES)
                add_products<T, ROWS, VECTORS>(a + start * SIDE + i, b + start * SIDE + j,
                                               std::min(CHUNK, steps - start), totals + i * SIDE + j,
                                               start == 0);
}

// The same, and zeros past the edges; `half` leaves out tiles above the diagonal, and what is there is not
// told.
template <class T>
void multiply(const uint32_t* a, const uint32_t* b, long steps, int rows, int columns, bool half,
              float* totals) {
    if (std::min(rows, columns) < SIDE) memset(totals, 0, SIDE * SIDE * sizeof(float));
    half ? multiply<T, 2 * ROWS, VECTORS / 2>(a, b, steps, rows, columns, half, totals)
         : multiply<T, ROWS, VECTORS>(a, b, steps, rows, columns, half, totals);
}

}  // namespace
