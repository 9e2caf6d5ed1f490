// Which tensors hold NaN or infinity.

#include "elementwise.h"

namespace {

template <class Bits>
bool holds(const Bits* x, long count, Bits exponent) {
    Bits found = 0;  // the places, and how far ahead, that read fastest (benchmarks/README.md)
    const auto ask = [&](long at) { __builtin_prefetch(x + at); };
    by_turns<12, LINE_BYTES / sizeof(Bits), 512 / sizeof(Bits)>(count, ask, [&](long from, long many) {
#pragma omp simd reduction(| : found)
        for (long i = from; i < from + many; i++) found |= (x[i] & exponent) == exponent ? 1 : 0;
    });
    return found;
}

template <class Bits>
long look(const Bits* const* x, const long* sizes, long tensors, long threads, uint8_t* bad, Bits exponent) {
    share(sizes, tensors, threads, [&](long i, long from, long count) {
        if (holds(x[i] + from, count, exponent)) __atomic_store_n(bad + i, 1, __ATOMIC_RELAXED);
    });
    long found = 0;
    for (long i = 0; i < tensors; i++) found += bad[i];
    return found;
}

}  // namespace

// Set `bad` of those that do, and return how many there are. The exponent's bits, of a number of `bytes`, are
// all set in what is not finite.
extern "C" long nonfinite(const void* const* x, const long* sizes, long tensors, long bytes,
                          unsigned long long exponent, long threads, uint8_t* bad) {
    switch (bytes) {
        case 2: return look((const uint16_t* const*)x, sizes, tensors, threads, bad, uint16_t(exponent));
        case 4: return look((const uint32_t* const*)x, sizes, tensors, threads, bad, uint32_t(exponent));
        default: return look((const uint64_t* const*)x, sizes, tensors, threads, bad, uint64_t(exponent));
    }
}
