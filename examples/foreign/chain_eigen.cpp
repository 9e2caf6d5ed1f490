// A chain of point masses that hangs between (0, 0) and (1, 0): its energy, with Eigen.
//
// x holds the free masses, (x, y) one after the other. Springs of stiffness 50 and rest length 1/N
// join neighbours; gravity pulls down. The gradient is written by hand, in Eigen's expressions.
//
// Build: c++ -O2 -shared -fPIC -I "$INCLUDE" -I /usr/include/eigen3 chain_eigen.cpp -o libchain.so
// Solve: downslope minimize ./libchain.so:energy --x0 "0.25,-0.1, 0.5,-0.1, 0.75,-0.1"

#include <cmath>
#include <Eigen/Dense>
#include "downslope.h"

using Points = Eigen::Matrix2Xd;

DOWNSLOPE_EXPORT double energy(const double *x, size_t n, double *gradient) {
    if (n == 0 || n % 2 != 0) return NAN;
    const Eigen::Index free = static_cast<Eigen::Index>(n / 2), links = free + 1;
    const double stiffness = 50.0, rest = 1.0 / links, weight = 1.0 / free;

    Points points(2, free + 2);
    points << Eigen::Vector2d(0, 0), Eigen::Map<const Points>(x, 2, free), Eigen::Vector2d(1, 0);

    const Points between = points.rightCols(links) - points.leftCols(links);
    const Eigen::ArrayXd lengths = between.colwise().norm();
    const Eigen::ArrayXd stretch = lengths - rest;
    const double value = 0.5 * stiffness * stretch.square().sum() + weight * points.row(1).sum();

    if (gradient) {
        const Points pull = between * (stiffness * stretch / lengths).matrix().asDiagonal();
        Eigen::Map<Points> out(gradient, 2, free);
        out = pull.leftCols(free) - pull.rightCols(free);
        out.row(1).array() += weight;
    }
    return value;
}
