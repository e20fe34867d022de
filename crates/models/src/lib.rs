//! tweedie-models.
