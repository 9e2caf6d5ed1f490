// An arm of n joints in the plane that reaches for a point with little bending: the derivatives come
// from Ceres' Jet, automatic differentiation by dual numbers, four unknowns at a time.
//
// x holds the angle of each joint against the link before it. All links have length 1/n.
//
// Build: c++ -O2 -shared -fPIC -I "$INCLUDE" -I /usr/include/eigen3 arm_ceres.cpp -o libarm.so
// Solve: downslope minimize ./libarm.so:reach --x0 0.1,0.1,0.1

#include <algorithm>
#include <vector>
#include <ceres/jet.h>
#include "downslope.h"

template <typename T>
T cost(const std::vector<T> &angles) {
    using std::cos, std::sin;  // Jet's own are found by its namespace
    const double length = 1.0 / angles.size();
    T heading(0.0), across(0.0), up(0.0), bending(0.0);
    for (const T &angle : angles) {
        heading += angle;
        across += length * cos(heading);
        up += length * sin(heading);
        bending += angle * angle;
    }
    const T miss_across = across - 0.3, miss_up = up - 0.6;
    return miss_across * miss_across + miss_up * miss_up + 0.01 * bending;
}

DOWNSLOPE_EXPORT double reach(const double *x, size_t n, double *gradient) {
    if (!gradient) return cost(std::vector<double>(x, x + n));
    constexpr size_t lanes = 4;
    using Jet = ceres::Jet<double, lanes>;
    double value = 0;
    for (size_t start = 0; start < n; start += lanes) {
        std::vector<Jet> angles(x, x + n);
        const size_t end = std::min(start + lanes, n);
        for (size_t i = start; i < end; ++i) angles[i].v[i - start] = 1.0;
        const Jet found = cost(angles);
        for (size_t i = start; i < end; ++i) gradient[i] = found.v[i - start];
        value = found.a;
    }
    return value;
}
