// Where to put n/2 depots for six towns: the sum of the towns' distances to their nearest depots, the
// nearest taken softly so that the function is smooth; with dlib's matrices.
//
// x holds the depots, (x, y) one after the other.
//
// Build: c++ -O2 -shared -fPIC -I "$INCLUDE" towns_dlib.cpp -o libtowns.so -ldlib
// Solve: downslope minimize ./libtowns.so:distance --x0 "0,0, 1,1"

#include <cmath>
#include <dlib/matrix.h>
#include "downslope.h"

using dlib::matrix, dlib::mat;

static const double towns[6][2] = {{0, 0}, {0, 1}, {0.4, 0.5}, {3, 3}, {3, 4}, {4, 3.2}};

DOWNSLOPE_EXPORT double distance(const double *x, size_t n, double *gradient) {
    if (n == 0 || n % 2 != 0) return NAN;
    const double sharpness = 4.0, rounding = 1e-2;
    const long depots = static_cast<long>(n / 2);
    const matrix<double> at = mat(x, depots, 2);
    matrix<double> slope = dlib::zeros_matrix<double>(depots, 2);
    double value = 0;
    for (const auto &town : towns) {
        const matrix<double> away = at - dlib::ones_matrix<double>(depots, 1) * mat(town, 1, 2);
        const matrix<double> lengths = dlib::sqrt(dlib::sum_cols(dlib::squared(away)) + rounding);
        // The soft minimum: -log(sum(exp(-s d))) / s, with the least taken out before the exponential.
        const double least = dlib::min(lengths);
        const matrix<double> terms = dlib::exp(-sharpness * (lengths - least));
        const double total = dlib::sum(terms);
        value += least - std::log(total) / sharpness;
        const matrix<double> weights = dlib::pointwise_divide(terms / total, lengths);
        slope += dlib::diagm(weights) * away;
    }
    if (gradient) dlib::set_ptrm(gradient, depots, 2) = slope;
    return value;
}
