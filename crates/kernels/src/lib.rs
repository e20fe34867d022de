//! tweedie-kernels.
