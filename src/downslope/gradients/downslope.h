/* A function that downslope minimizes, written in C, C++, Zig, Rust, Fortran, ... : one symbol of a
 * shared library.
 *
 *     double f(const double *x, size_t n, double *gradient);
 *
 * x         n numbers; the function reads them and never writes to them.
 * n         how many. A function of a fixed number of unknowns returns NAN for any other.
 * gradient  where the n partial derivatives at x go, or NULL where the caller wants the value alone.
 *           It does not overlap x, and holds nothing meaningful before the call.
 * returns   the value at x; NAN or INFINITY where the function is not defined. A search steps back
 *           from such a point, and nothing looks at its gradient.
 *
 * The function keeps no pointer after it returns, throws no exception across the border, and answers
 * the same x with the same value. Python's global lock is not held during the call. It is called
 * from one thread at a time, unless the caller asks for several (`load(..., threads=4)`): then it
 * must not write to anything it shares with itself.
 *
 *     c++ -O2 -shared -fPIC -I INCLUDE f.cpp -o libf.so
 *
 * where INCLUDE is what `python -m downslope.gradients` prints, the folder of this header.
 *
 * In C++, DOWNSLOPE_EXPORT gives the symbol its plain name and makes it visible:
 *
 *     DOWNSLOPE_EXPORT double f(const double *x, size_t n, double *gradient) { ... }
 *
 * This header needs nothing and may be copied into a project. Version of the interface: 1.
 */
#ifndef DOWNSLOPE_H
#define DOWNSLOPE_H

#include <stddef.h>

#if defined(_WIN32)
#define DOWNSLOPE_VISIBLE __declspec(dllexport)
#else
#define DOWNSLOPE_VISIBLE __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
#define DOWNSLOPE_EXPORT extern "C" DOWNSLOPE_VISIBLE
#else
#define DOWNSLOPE_EXPORT DOWNSLOPE_VISIBLE
#endif

/* The type of such a function. */
typedef double downslope_function(const double *x, size_t n, double *gradient);

#endif
