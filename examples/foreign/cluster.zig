//! A cluster of atoms under the Lennard-Jones potential, in Zig.
//!
//! x holds the atoms, (x, y, z) one after the other. Each pair at distance r has the energy
//! 4 (r^-12 - r^-6); thirteen atoms form an icosahedron of energy -44.3268.
//!
//! Build: python -m ziglang build-lib -dynamic -O ReleaseFast cluster.zig -femit-bin=libcluster.so
//! Solve: downslope minimize ./libcluster.so:energy --x0 0,0,0,1.1,0,0,0,1.1,0

const std = @import("std");

export fn energy(x: [*]const f64, n: usize, gradient: ?[*]f64) f64 {
    if (n == 0 or n % 3 != 0) return std.math.nan(f64);
    if (gradient) |g| @memset(g[0..n], 0);
    var total: f64 = 0;
    var i: usize = 0;
    while (i < n) : (i += 3) {
        var j: usize = i + 3;
        while (j < n) : (j += 3) {
            const away: @Vector(3, f64) = .{ x[i] - x[j], x[i + 1] - x[j + 1], x[i + 2] - x[j + 2] };
            const squared = @reduce(.Add, away * away);
            const sixth = 1 / (squared * squared * squared);
            total += 4 * sixth * (sixth - 1);
            if (gradient) |g| {
                const slope = 24 * sixth * (1 - 2 * sixth) / squared;
                inline for (0..3) |k| {
                    g[i + k] += slope * away[k];
                    g[j + k] -= slope * away[k];
                }
            }
        }
    }
    return total;
}
