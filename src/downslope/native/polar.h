// The iterations of an orthogonalisation, one matrix after the other, as a list of products written down
// elsewhere. They run on the threads of a team: of OpenMP's (polar_openmp.cpp) or of XLA's (polar_xla.cpp).
//
// Every matrix is kept packed, as a left operand by rows, as a right one by columns. A product writes its
// blocks in the order in which the next ones read them, so nothing is copied in between. Of a symmetric
// product the blocks on and below the diagonal are computed, and stored twice. Sums are rounded once.

#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <vector>

#include "products.h"
#include "sources.h"
#include "tiles.h"

namespace {

enum Failure : int { NONE, NO_MEMORY, UNKNOWN };
enum Kind : int32_t { GRAM, SYMMETRIC, WHOLE, APPLY, COMBINE, UNIT };
enum Part : int { MOMENTUM, PRODUCTS, WRITE, PARTS };
enum Multiplier : int { FLOAT32, BFLOAT16, TILES };

}  // namespace

// One product, alpha left right + beta added + identity I, or a combination of three. Operands and results
// are the numbers of square matrices, -1 for none.
struct Instruction {
    int32_t kind, left, right, added;
    int32_t by_rows, by_columns;  // where the result goes
    int32_t scaled;               // whether APPLY multiplies by what UNIT divided by
    float alpha, beta, identity, gamma;
};

namespace {

// Adds the time that a thread takes to its three parts of `seconds`, if they are asked for.
class Watch {
  public:
    Watch(double* seconds, long thread) : seconds(seconds ? seconds + PARTS * thread : nullptr) { start(); }
    void start() {
        if (seconds) since = now();
    }
    void lap(Part part) {
        if (!seconds) return;
        const double until = now();
        seconds[part] += until - since;
        since = until;
    }

  private:
    double* seconds;
    double since = 0;
    static double now() {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
};

template <class T, class Team>
class Matrix {
    typedef typename T::Number Number;

  public:
    Matrix(Team& team, long rows, long columns, const Instruction* program, long length, long squares,
           long threads)
        : rows(rows),
          team(team),
          tall(rows > columns),
          m(std::min(rows, columns)),
          n(std::max(rows, columns)),
          blocks((m + SIDE - 1) / SIDE),
          along((n + SIDE - 1) / SIDE),
          threads(threads),
          program(program),
          length(length) {
        const long square = blocks * blocks, rectangle = blocks * along;
        const long spared = (threads == 1 ? TOGETHER : along) * blocks;
        const long many = squares * square + (T::ALIKE ? 2 : 3) * rectangle + spared;
        memory.reset((uint32_t*)::operator new(many * WORDS<T> * 4, std::align_val_t(ALIGNED)));
        by_rows = memory.get() + squares * square * WORDS<T>;
        across = T::ALIKE ? by_rows : by_rows + rectangle * WORDS<T>;
        by_columns = across + rectangle * WORDS<T>;
        spare = by_columns + rectangle * WORDS<T>;
        pieces = (rows * columns + PIECE - 1) / PIECE;
        sums.reset(new std::atomic<double>[pieces]);
    }

    // Take a matrix through the program. Where all threads of a team call it together, they share the work.
    template <class Source>
    void run(Source source, Watch watch) {
        source.begin(*this);
        watch.lap(MOMENTUM);
        each(along, [&](long j) { take(source, j); });
        for (long i = 0; i < length; i++) {
            if (i == length - 1) watch.lap(PRODUCTS);
            const Instruction& next = program[i];
            switch (next.kind) {
                case GRAM: gram(next); break;
                case SYMMETRIC: product_of_squares(next, true); break;
                case WHOLE: product_of_squares(next, false); break;
                case APPLY: i == length - 1 ? finish(next, source, watch) : apply(next); break;
                case COMBINE: combine(next); break;
                case UNIT: unit(next); break;
            }
        }
    }

    // The sum of what `f` returns for the pieces of a range.
    template <class F>
    double sum(long count, F f) {
        each(pieces, [&](long i) {
            sums[i].store(f(i * PIECE, std::min((i + 1) * PIECE, count)), std::memory_order_relaxed);
        });
        double total = 0;
        for (long i = 0; i < pieces; i++) total += sums[i].load(std::memory_order_relaxed);
        return total;
    }

    const long rows;

  private:
    static constexpr long PIECE = 1 << 13;  // numbers
    static constexpr long TOGETHER = 4;     // panels that are multiplied by one another's while it is near
    struct Delete {
        void operator()(uint32_t* p) const { ::operator delete(p, std::align_val_t(ALIGNED)); }
    };

    Team& team;
    const bool tall;
    const long m, n, blocks, along, threads;
    const Instruction* program;
    const long length;
    std::unique_ptr<uint32_t, Delete> memory;
    // The matrix by rows and its transpose by columns, whose product GRAM is, and the matrix by columns, which
    // APPLY multiplies; of a tall one the latter is the transpose by rows.
    uint32_t *by_rows, *across, *by_columns, *spare;
    long pieces;
    std::unique_ptr<std::atomic<double>[]> sums;  // a late thread may read what it needs no more
    float divided = 1;

    template <class F>
    void each(long count, F f) {
        if (threads == 1) {
            for (long i = 0; i < count; i++) f(i);
        } else {
            team.each(count, f);
        }
    }

    uint32_t* square(int which, long panel = 0, long block = 0) const {
        return memory.get() + ((which * blocks + panel) * blocks + block) * WORDS<T>;
    }
    uint32_t* rows_of(long i, long j) const { return by_rows + (i * along + j) * WORDS<T>; }
    uint32_t* across_of(long i, long j) const { return across + (i * along + j) * WORDS<T>; }
    uint32_t* columns_of(long j, long i) const { return by_columns + (j * blocks + i) * WORDS<T>; }
    long steps(long k) const { return (k + T::STEP - 1) / T::STEP; }
    static int inside(long size, long block) { return int(std::min<long>(SIDE, size - block * SIDE)); }

    // A wide matrix is seen as it lies, a tall one as its transpose.
    void keep(const Number* block, long i, long j, uint32_t* column) {
        uint32_t *rows = rows_of(i, j), *other = across_of(i, j);
        if (tall)
            pack<T>(block, column, other, T::ALIKE ? nullptr : rows, nullptr);
        else
            pack<T>(block, rows, column, nullptr, T::ALIKE ? nullptr : other);
    }

    template <class Source>
    void take(const Source& source, long j) {
        for (long i = 0; i < blocks; i++) {
            const long top = tall ? j : i, left = tall ? i : j;
            const int rows = inside(tall ? n : m, top), columns = inside(tall ? m : n, left);
            alignas(ALIGNED) Number block[SIDE * SIDE] = {};
            for (int r = 0; r < rows; r++) {
                alignas(ALIGNED) float row[SIDE];
                source.read(top * SIDE + r, left * SIDE, columns, row);
                for (int s = 0; s < SIDE; s += LANES)
                    T::store_rounded(block + r * SIDE + s, load<Floats>(row + s));
            }
            keep(block, i, j, columns_of(j, i));
        }
    }

    // Do `f(i, j)` for all blocks of a grid, or of its lower half: square tiles of them, whose panels stay in
    // reach.
    template <class F>
    void tiles(long height, long width, bool half, F f) {
        long side = TOGETHER;
        while (side > 1 && height * width < 4 * threads * side * side * (half ? 2 : 1)) side /= 2;
        const long down = (height + side - 1) / side, across = (width + side - 1) / side;
        each(half ? down * (down + 1) / 2 : down * across, [&](long which) {
            long top = which / across, left = which % across;
            if (half) {
                for (top = 0, left = which; left > top; top++) left -= top + 1;
            }
            for (long j = left * side; j < std::min((left + 1) * side, width); j++)
                for (long i = std::max(top * side, half ? j : 0); i < std::min((top + 1) * side, height); i++)
                    f(i, j);
        });
    }

    void gram(const Instruction& now) {
        tiles(blocks, blocks, true,
              [&](long i, long j) { product(now, rows_of(i, 0), across_of(j, 0), i, j, steps(n), true); });
    }

    void product_of_squares(const Instruction& now, bool half) {
        tiles(blocks, blocks, half, [&](long i, long j) {
            product(now, square(now.left, i), square(now.right, j), i, j, steps(m), half);
        });
    }

    void product(const Instruction& now, const uint32_t* a, const uint32_t* b, long i, long j, long count,
                 bool half) {
        alignas(ALIGNED) float totals[SIDE * SIDE];
        multiply<T>(a, b, count, inside(m, i), inside(m, j), half && i == j, totals);
        if (half && i == j) mirror(totals);  // two sums of the same terms are not always added up alike
        const uint32_t* term = now.added < 0 ? nullptr : square(now.added, j, i);
        alignas(ALIGNED) Number block[SIDE * SIDE];
        for (int r = 0; r < SIDE; r++)
            for (int s = 0; s < SIDE; s += LANES) {
                Floats sum = load<Floats>(totals + r * SIDE + s) * now.alpha;
                if (term) sum += T::row(term, r, s) * now.beta;
                if (const int lane = r - s; i == j && lane >= 0 && lane < LANES && r < inside(m, i))
                    sum[lane] += now.identity;
                T::store_rounded(block + r * SIDE + s, sum);
            }
        const bool twice = half && i != j;
        const auto place = [&](bool made, int which, long panel, long at) {
            return made && which >= 0 ? square(which, panel, at) : nullptr;
        };
        pack<T>(block, place(true, now.by_rows, i, j), place(true, now.by_columns, j, i),
                place(twice, now.by_rows, j, i), place(twice, now.by_columns, i, j));
    }

    static void round(const float* totals, Number* block) {
        for (int i = 0; i < SIDE * SIDE; i += LANES) T::store_rounded(block + i, load<Floats>(totals + i));
    }

    // Multiply the matrix. Alone a thread takes a few columns and puts them back, which fits its cache;
    // together they leave all where it is until all of it is read.
    void apply(const Instruction& now) {
        const auto one = [&](long i, long j, long at) {
            alignas(ALIGNED) float totals[SIDE * SIDE];
            alignas(ALIGNED) Number block[SIDE * SIDE];
            multiplied(now, i, j, totals);
            round(totals, block);
            keep(block, i, j, spare + (at * blocks + i) * WORDS<T>);
        };
        if (threads > 1) {
            tiles(blocks, along, false, [&](long i, long j) { one(i, j, j); });
            each(1, [&](long) { std::swap(by_columns, spare); });
            return;
        }
        for (long first = 0; first < along; first += TOGETHER) {
            const long last = std::min(first + TOGETHER, along);
            for (long i = 0; i < blocks; i++)
                for (long j = first; j < last; j++) one(i, j, j - first);
            memcpy(columns_of(first, 0), spare, (last - first) * blocks * WORDS<T> * 4);
        }
    }

    // The last product goes back to where the matrix came from.
    template <class Source>
    void finish(const Instruction& now, const Source& source, Watch& watch) {
        tiles(blocks, along, false, [&](long i, long j) {
            const long top = (tall ? j : i) * SIDE, left = (tall ? i : j) * SIDE;
            const int rows = inside(tall ? n : m, tall ? j : i), columns = inside(tall ? m : n, tall ? i : j);
            watch.start();
            for (int r = 0; r < rows; r++) source.expect(top + r, left);
            alignas(ALIGNED) float totals[SIDE * SIDE];
            multiplied(now, i, j, totals);
            for (int r = 0; r < SIDE * SIDE; r += LANES)
                store(totals + r, T::rounded(load<Floats>(totals + r)));
            watch.lap(PRODUCTS);
            for (int r = 0; r < rows; r++) source.write(top + r, left, columns, totals + r * SIDE);
            watch.lap(WRITE);
        });
    }

    void multiplied(const Instruction& now, long i, long j, float* totals) {
        const uint32_t *a = square(now.left, i), *b = columns_of(j, 0);
        const int rows = inside(tall ? n : m, tall ? j : i), columns = inside(tall ? m : n, tall ? i : j);
        multiply<T>(tall ? b : a, tall ? a : b, steps(m), rows, columns, false, totals);
        if (const float factor = now.scaled ? 1 / std::sqrt(divided) : 1; factor != 1)
            for (int r = 0; r < SIDE * SIDE; r++) totals[r] *= factor;
    }

    void combine(const Instruction& now) {
        if constexpr (T::STEP == 1) {
            const float* a = (const float*)square(now.left);
            const float* b = (const float*)square(now.right);
            const float* c = now.added < 0 ? nullptr : (const float*)square(now.added);
            float* to = (float*)square(now.by_rows);
            each(blocks, [&](long panel) {
                for (long i = panel * blocks * WORDS<T>; i < (panel + 1) * blocks * WORDS<T>; i++)
                    to[i] = now.alpha * a[i] + now.beta * b[i] + (c ? now.gamma * c[i] : 0);
            });
        }
    }

    // Divide a square by its norm, which is kept; 1 where it is zero.
    void unit(const Instruction& now) {
        if constexpr (T::STEP == 1) {
            float* a = (float*)square(now.left);
            const long many = blocks * blocks * WORDS<T>;
            each(1, [&](long) {
                double total = 0;
                for (long i = 0; i < many; i++) total += double(a[i]) * a[i];
                divided = total > 0 ? float(std::sqrt(total)) : 1;
                for (long i = 0; i < many; i++) a[i] /= divided;
            });
        }
    }
};

// Small matrices go one to a thread, and so do those left over where sharing would not be sooner.
template <class T, class Team, class F>
void orthogonalise(Team& team, F source, long count, long rows, long columns, const Instruction* program,
                   long length, long squares, long threads, double* seconds) {
    const double work = double(std::min(rows, columns)) * rows * columns;
    if (count * work < 1e5) threads = 1;
    const long rest = count % threads;
    // Waiting for one another takes as long as 1e6 multiply-adds.
    const bool shared = rest * (1.0 / threads + 1e6 / work) < 1;
    const long alone = threads == 1 ? count : work < 2e7 ? count - (shared ? rest : 0) : 0;
    typedef Matrix<T, Team> Own;
    std::vector<std::unique_ptr<Own>> own;
    std::unique_ptr<Own> together;  // all memory is there before anything is written
    const long hands = std::min(threads, alone);
    for (long i = 0; i < hands; i++)
        own.emplace_back(new Own(team, rows, columns, program, length, squares, 1));
    if (alone < count) together.reset(new Own(team, rows, columns, program, length, squares, threads));
    if (alone)
        team.run(hands, [&](long mine) {
            const typename T::Unit unit;
            team.each(alone, [&](long i) { own[mine]->run(source(i), Watch(seconds, mine)); });
        });
    if (together)
        team.run(threads, [&](long mine) {
            const typename T::Unit unit;
            for (long i = alone; i < count; i++) together->run(source(i), Watch(seconds, mine));
        });
}

template <class Team, class F>
int orthogonalise_by(int multiplier, Team& team, F source, long count, long rows, long columns,
                     const Instruction* program, long length, long squares, long threads, double* seconds) {
    try {
        const auto with = [&](auto numbers) {
            orthogonalise<decltype(numbers)>(team, source, count, rows, columns, program, length, squares,
                                             threads, seconds);
            return NONE;
        };
        if (multiplier == FLOAT32) return with(Float32{});
#ifdef __AVX512BF16__
        if (multiplier == BFLOAT16) return with(Bfloat16{});
#endif
#ifdef HAS_TILES
        if (multiplier == TILES && has_tiles()) return with(Tiles{});
#endif
        return UNKNOWN;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}

}  // namespace

extern "C" int lanes() {
    return LANES;
}

extern "C" int has_bfloat16() {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}
