//! tweedie-data.
