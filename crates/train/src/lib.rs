//! tweedie-train.
