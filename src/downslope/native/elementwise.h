// What the lines that a rule writes down are made of, and how tensors are shared among threads.

#pragma once

#include <stdint.h>

struct Bfloat16 {
    uint16_t bits;
};
#if defined(__ARM_FP16_FORMAT_IEEE)  // where g++ 12 announces _Float16 and has it in C alone
typedef __fp16 Float16;
#elif defined(__FLT16_MAX__)
typedef _Float16 Float16;
#endif

namespace {

constexpr long GRAIN = 1 << 15;  // numbers, of which a thread is given no fewer
constexpr long LINE_BYTES = 64;  // by which memory is read
constexpr long SPREAD = 1 << 14;  // numbers, of which no fewer are gone over at several places

template <class Real>
inline void read(Real& to, Bfloat16 from) {
    const uint32_t bits = uint32_t(from.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    to = value;
}
template <class Real, class Number>
inline void read(Real& to, Number from) {
    to = Real(from);
}

// Rounds to nearest, of two equally near to even, which may carry into infinity; NaN stays NaN.
inline void write(Bfloat16& to, float from) {
    uint32_t bits;
    __builtin_memcpy(&bits, &from, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    to.bits = uint16_t(from != from ? 0x7fc0 : rounded);
}
template <class Real, class Number>
inline void write(Number& to, Real from) {
    to = Number(from);
}

inline float root(float a) {
    return __builtin_sqrtf(a);
}
inline double root(double a) {
    return __builtin_sqrt(a);
}
inline float absolute(float a) {
    return __builtin_fabsf(a);
}
inline double absolute(double a) {
    return __builtin_fabs(a);
}
template <class Real>
inline Real larger(Real a, Real b) {
    return a > b || a != a ? a : b;  // NaN, where one of them is
}

inline long least(long a, long b) {
    return a < b ? a : b;
}

// Call `take(from, count)` so that every number is in one of the ranges. Several places have their turns, and what a
// place needs AHEAD is prefetched by `ask(from)`: more is on its way from memory then than a core asks for by itself.
template <long PLACES, long TURN, long AHEAD, class Ask, class Take>
inline void by_turns(long numbers, Ask ask, Take take) {
    const long each = numbers > SPREAD ? numbers / PLACES / TURN * TURN : 0;
    for (long i = 0; i < each; i += TURN)
        for (long from = i; from < PLACES * each; from += each) {
            ask(from + AHEAD);
            take(from, TURN);
        }
    if (PLACES * each < numbers) take(PLACES * each, numbers - PLACES * each);
}

// Call `take(i, from, count)` so that of each tensor i every number is in one of the ranges.
template <class Take>
void share(const long* sizes, long tensors, long threads, Take take) {
    long total = 0;
    for (long i = 0; i < tensors; i++) total += sizes[i];
    const long parts = total / GRAIN < 1 ? 1 : least(threads, total / GRAIN);
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
    for (long part = 0; part < parts; part++) {
        const long begin = total / parts * part, end = part + 1 < parts ? total / parts * (part + 1) : total;
        for (long i = 0, start = 0; i < tensors && start < end; start += sizes[i++]) {
            const long from = begin > start ? begin - start : 0, to = least(sizes[i], end - start);
            if (from < to) take(i, from, to - from);
        }
    }
}

}  // namespace
