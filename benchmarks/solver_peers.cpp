// Ceres and dlib behind C functions: a callback gives value and gradient, or residuals and Jacobian.
// The callback returns 0; anything else ends the run by an exception, which the C function returns as -1.

#include <ceres/ceres.h>
#include <dlib/optimization.h>

#include <cmath>
#include <stdexcept>

namespace {

using Callback = int (*)(const double* x, double* value, double* derivative);
using Column = dlib::matrix<double, 0, 1>;

void call(Callback callback, const double* x, double* value, double* derivative) {
  if (callback(x, value, derivative) != 0) throw std::runtime_error("ended by the callback");
}

struct Function final : ceres::FirstOrderFunction {
  Callback callback;
  int n;
  Function(Callback c, int size) : callback(c), n(size) {}
  bool Evaluate(const double* x, double* value, double* gradient) const override {
    std::vector<double> unused(n);
    call(callback, x, value, gradient != nullptr ? gradient : unused.data());
    return std::isfinite(*value);
  }
  int NumParameters() const override { return n; }
};

struct Residuals final : ceres::CostFunction {
  Callback callback;
  Residuals(Callback c, int m, int n) : callback(c) {
    set_num_residuals(m);
    mutable_parameter_block_sizes()->push_back(n);
  }
  bool Evaluate(double const* const* x, double* residuals, double** jacobian) const override {
    call(callback, x[0], residuals, jacobian != nullptr ? jacobian[0] : nullptr);
    for (int i = 0; i < num_residuals(); ++i)
      if (!std::isfinite(residuals[i])) return false;
    return true;
  }
};

// dlib asks for value and gradient by two functions, and its own criteria are on values or on ‖g‖₂.
struct Gradient {
  double wanted;
  const double *low, *high;
  template <typename V>
  bool should_continue_search(const V& x, double, const V& g) const {
    double size = 0;
    for (long i = 0; i < g.size(); ++i) {
      double d = g(i);
      if (low != nullptr) d = x(i) - std::min(std::max(x(i) - d, low[i]), high[i]);
      size = std::max(size, std::abs(d));
    }
    return !(size <= wanted);
  }
};

template <typename Search>
void dlib_run(Search search, int n, double* x, Callback callback, double wanted, const double* low,
              const double* high) {
  Column at = dlib::mat(x, n), g(n);
  double value = 0;
  const auto f = [&](const Column& p) { call(callback, p.begin(), &value, g.begin()); return value; };
  const auto der = [&](const Column& p) { call(callback, p.begin(), &value, g.begin()); return g; };
  const Gradient stop{wanted, low, high};
  if (low == nullptr)
    dlib::find_min(search, stop, f, der, at, -1e300);
  else
    dlib::find_min_box_constrained(search, stop, f, der, at, Column(dlib::mat(low, n)),
                                   Column(dlib::mat(high, n)));
  std::copy(at.begin(), at.end(), x);
}

}  // namespace

extern "C" {

// kind: 0 L-BFGS, 1 BFGS, 2 conjugate gradients. Returns 1 where Ceres says CONVERGENCE, else 0.
int ceres_minimize(int kind, int n, double* x, Callback callback, double wanted) try {
  ceres::GradientProblem problem(new Function(callback, n));
  ceres::GradientProblemSolver::Options options;
  options.line_search_direction_type = kind == 0   ? ceres::LBFGS
                                       : kind == 1 ? ceres::BFGS
                                                   : ceres::NONLINEAR_CONJUGATE_GRADIENT;
  options.max_lbfgs_rank = 10;
  options.max_num_iterations = 100000;
  options.gradient_tolerance = wanted;
  options.function_tolerance = options.parameter_tolerance = 0;
  options.logging_type = ceres::SILENT;
  ceres::GradientProblemSolver::Summary summary;
  ceres::Solve(options, problem, x, &summary);
  return summary.termination_type == ceres::CONVERGENCE;
} catch (const std::exception&) {
  return -1;
}

// kind: 0 Levenberg-Marquardt, 1 dogleg.
int ceres_least_squares(int kind, int m, int n, double* x, Callback callback, double tolerance) try {
  ceres::Problem problem;
  problem.AddResidualBlock(new Residuals(callback, m, n), nullptr, x);
  ceres::Solver::Options options;
  options.trust_region_strategy_type = kind == 0 ? ceres::LEVENBERG_MARQUARDT : ceres::DOGLEG;
  options.linear_solver_type = ceres::DENSE_QR;
  options.max_num_iterations = 2000;
  options.function_tolerance = options.parameter_tolerance = options.gradient_tolerance = tolerance;
  options.logging_type = ceres::SILENT;
  ceres::Solver::Summary summary;
  ceres::Solve(options, &problem, &summary);
  return summary.termination_type == ceres::CONVERGENCE;
} catch (const std::exception&) {
  return -1;
}

// kind as of Ceres; low is null where nothing is bounded. dlib says nothing of success: it throws or returns.
int dlib_minimize(int kind, int n, double* x, Callback callback, double wanted, const double* low,
                  const double* high) try {
  if (kind == 0)
    dlib_run(dlib::lbfgs_search_strategy(10), n, x, callback, wanted, low, high);
  else if (kind == 1)
    dlib_run(dlib::bfgs_search_strategy(), n, x, callback, wanted, low, high);
  else
    dlib_run(dlib::cg_search_strategy(), n, x, callback, wanted, low, high);
  return 1;
} catch (const std::exception&) {
  return -1;
}
}
