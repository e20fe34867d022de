//! tweedie-pipe.
