#pragma once
/// Marks code that compiles for host and device alike (rules, rounding, random numbers).
#ifdef __CUDACC__
#define STRATA_HD __host__ __device__
#else
#define STRATA_HD
#endif
