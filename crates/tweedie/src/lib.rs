//! tweedie.
