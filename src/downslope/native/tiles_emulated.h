// The instructions of matrix units in plain C++, by which products on them are tested where there are none.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

struct EmulatedTiles {
    uint8_t shapes[64] = {};  // as configured: the palette, bytes of a row from 16 on, rows from 48 on
    uint8_t data[8][16][64] = {};

    int rows(int t) const { return shapes[48 + t]; }
    int bytes(int t) const {
        uint16_t n;
        memcpy(&n, shapes + 16 + 2 * t, sizeof n);
        return n;
    }
    void configure(const void* from) {
        memcpy(shapes, from, sizeof shapes);
        memset(data, 0, sizeof data);
    }
    void load(int t, const void* from, long stride) {
        memset(data[t], 0, sizeof data[t]);
        for (int i = 0; i < rows(t); i++) memcpy(data[t][i], (const char*)from + i * stride, bytes(t));
    }
    void store(int t, void* to, long stride) const {
        for (int i = 0; i < rows(t); i++) memcpy((char*)to + i * stride, data[t][i], bytes(t));
    }
    static float number(const uint8_t* at) {  // bfloat16 is float32's upper half
        uint8_t whole[4] = {0, 0, at[0], at[1]};
        float f;
        memcpy(&f, whole, sizeof f);
        return f;
    }
    void add_products(int sum, int a, int b) {
        for (int i = 0; i < rows(sum); i++)
            for (int j = 0; j < bytes(sum) / 4; j++) {
                float total;
                memcpy(&total, data[sum][i] + 4 * j, sizeof total);
                for (int k = 0; k < bytes(a) / 4; k++)
                    for (int half = 0; half < 4; half += 2)
                        total += number(data[a][i] + 4 * k + half) * number(data[b][k] + 4 * j + half);
                memcpy(data[sum][i] + 4 * j, &total, sizeof total);
            }
    }
};

thread_local EmulatedTiles emulated;

}  // namespace

#undef _tile_loadconfig
#define _tile_loadconfig(from) emulated.configure(from)
#define _tile_storeconfig(to) memcpy(to, emulated.shapes, 64)
#define _tile_release() (emulated = {})
#define _tile_zero(t) memset(emulated.data[t], 0, sizeof emulated.data[t])
#define _tile_loadd(t, from, stride) emulated.load(t, from, stride)
#define _tile_stored(t, to, stride) emulated.store(t, to, stride)
#define _tile_dpbf16ps(sum, a, b) emulated.add_products(sum, a, b)
