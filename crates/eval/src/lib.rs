//! tweedie-eval.
