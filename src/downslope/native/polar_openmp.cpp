// Orthogonalisation and whole steps on the threads of OpenMP, called with the addresses of numbers.

#include <atomic>

#include "polar.h"

namespace {

struct Team {
    // Call `f(hand)` on so many threads at once. They count themselves: beside torch's OpenMP library there may
    // be the compiler's, and either may be asked for their numbers.
    template <class F>
    void run(long hands, F f) {
        std::atomic<long> hand{0};
#pragma omp parallel num_threads(hands)
        f(hand++);
    }
    // Share a range among the threads that `run` started, all of which call this.
    template <class F>
    void each(long count, F f) {
#pragma omp for schedule(dynamic)
        for (long i = 0; i < count; i++) f(i);
    }
};

}  // namespace

// The program's matrices of one shape are (rows, columns); all return one of `Failure`.

// Replace each of `count` matrices, divided by its size, by what the program makes of it. `step` numbers lie
// between two matrices, `stride` between two rows.
extern "C" int orthogonalise(float* x, const float* sizes, long step, long stride, long count, long rows,
                             long columns, const Instruction* program, long length, long squares,
                             long threads, int multiplier) {
    Team team;
    const auto source = [=](long i) { return Stacked{x + i * step, stride, sizes[i]}; };
    return orthogonalise_by(multiplier, team, source, count, rows, columns, program, length, squares, threads,
                            nullptr);
}

// Step each of `count` parameters, of which the addresses are given; `stride` numbers lie between two rows.
// `seconds`, unless it is null, is for the three parts of each thread's time.
extern "C" int step(const float* const* g, float* const* m, float* const* p, long stride, const How* how,
                    double* seconds, long count, long rows, long columns, const Instruction* program,
                    long length, long squares, long threads, int multiplier) {
    Team team;
    const auto source = [=](long i) { return Stepped{g[i], m[i], p[i], columns, stride, how}; };
    return orthogonalise_by(multiplier, team, source, count, rows, columns, program, length, squares, threads,
                            seconds);
}
