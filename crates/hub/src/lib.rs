//! tweedie-hub.
