// Products on a processor's matrix units (AMX): one instruction adds 16 x 16 sums of 32 products of bfloat16.
//
// A tile of a left operand holds 16 rows of 32 numbers as they lie, one of a right operand 16 steps of 16
// columns, as its panels do. So a matrix by rows is not its transpose by columns, as it is for vectors.

#pragma once

#include "products.h"

#if defined(__AVX512BF16__) && defined(EMULATE_TILES)
#include "tiles_emulated.h"
#define HAS_TILES
#elif defined(__AVX512BF16__) && defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_TILES
#endif

#ifdef HAS_TILES

namespace {

constexpr int TILE = 16;              // rows, and words of a row
constexpr long TILE_ROW = TILE * 4;   // bytes
constexpr long PANEL_ROW = SIDE * 4;  // of a right operand's panel

// Compilers do not know of all that the instructions for tiles read, or write: it is in memory from here on.
inline void in_memory(const void* it) { asm volatile("" ::"r"(it) : "memory"); }

struct Tiles : Bfloat16 {
    static constexpr bool ALIKE = false;

    // Gives this thread's tiles their shape while it lives, and then the one that they had.
    class Unit {
      public:
        Unit() {
            _tile_storeconfig(&before);
            in_memory(&before);
            Shapes ours{};
            ours.palette = 1;
            for (int i = 0; i < 8; i++) ours.bytes[i] = TILE_ROW, ours.rows[i] = TILE;
            in_memory(&ours);
            _tile_loadconfig(&ours);
        }
        ~Unit() {
            if (before.palette)
                _tile_loadconfig(&before);
            else
                _tile_release();
        }
        Unit(const Unit&) = delete;

      private:
        struct alignas(64) Shapes {
            uint8_t palette, start, reserved[14];
            uint16_t bytes[16];
            uint8_t rows[16];
        };
        Shapes before;
    };
};

// Write a block's words, transposed, to where 16 rows of 32 of them are 32 rows of 16.
inline void turn(const uint32_t* from, uint32_t* to) {
    for (int column = 0; column < SIDE; column += TILE) {
        Words v[TILE];
        for (int step = 0; step < TILE; step++) v[step] = load<Words>(from + step * SIDE + column);
        transpose(v);
        for (int step = 0; step < TILE; step++) store(to + (column + step) * TILE, v[step]);
    }
}

template <>
inline void pack<Tiles>(const uint16_t* from, uint32_t* rows, uint32_t* columns, uint32_t* transpose_rows,
                        uint32_t* transpose_columns) {
    if (rows)
        for (int i = 0; i < SIDE; i++) store(rows + i * TILE, load<Words>(from + i * SIDE));
    if (transpose_columns) pack_rows<Bfloat16>(from, transpose_columns);
    if (!columns && !transpose_rows) return;
    alignas(ALIGNED) uint32_t paired[WORDS<Tiles>];
    uint32_t* to = columns ? columns : paired;
    pack_columns<Bfloat16>(from, to);
    if (transpose_rows) turn(to, transpose_rows);
}

// The products of the panels' 16 first rows and columns, and of the others where they are asked for.
template <bool LOWER, bool RIGHT, bool CORNER>
inline void multiply_tiles(const uint32_t* a, const uint32_t* b, long steps, float* totals) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (; steps > 0; steps -= TILE, a += WORDS<Tiles>, b += WORDS<Tiles>) {
        _tile_loadd(4, a, TILE_ROW);
        _tile_loadd(6, b, PANEL_ROW);
        _tile_dpbf16ps(0, 4, 6);
        if (RIGHT) {
            _tile_loadd(7, b + TILE, PANEL_ROW);
            if (CORNER) _tile_dpbf16ps(1, 4, 7);
        }
        if (LOWER) {
            _tile_loadd(5, a + TILE * TILE, TILE_ROW);
            _tile_dpbf16ps(2, 5, 6);
            if (RIGHT) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, totals, PANEL_ROW);
    _tile_stored(1, totals + TILE, PANEL_ROW);
    _tile_stored(2, totals + TILE * SIDE, PANEL_ROW);
    _tile_stored(3, totals + TILE * SIDE + TILE, PANEL_ROW);
}

template <>
inline void multiply<Tiles>(const uint32_t* a, const uint32_t* b, long steps, int rows, int columns, bool half,
                            float* totals) {
    in_memory(a);
    const bool lower = rows > TILE, right = columns > TILE;
    if (lower && right)
        half ? multiply_tiles<true, true, false>(a, b, steps, totals)
             : multiply_tiles<true, true, true>(a, b, steps, totals);
    else if (lower)
        multiply_tiles<true, false, false>(a, b, steps, totals);
    else if (right)
        multiply_tiles<false, true, true>(a, b, steps, totals);
    else
        multiply_tiles<false, false, false>(a, b, steps, totals);
    in_memory(totals);
}

}  // namespace

#endif

// Whether this processor's tiles can be used by this process, which asks the system for them.
extern "C" int has_tiles() {
#if !defined(HAS_TILES)
    return 0;
#elif defined(EMULATE_TILES)
    return 1;
#else
    constexpr long ASK = 0x1023, DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, ASK, DATA) == 0;
    return granted;
#endif
}
