//! The loops in which the engine spends its time, and what each must hold.

/// What one turn of a loop may do, compiled for one instruction set.
pub struct Limit {
    pub isa: &'static str,
    /// Multiply-adds of the function's largest loop, at least.
    pub multiply_adds: usize,
    /// Vectors that a loop with multiply-adds stores on the stack, at most.
    pub stores: usize,
    /// Vectors that it reads from the stack, at most.
    pub loads: usize,
}

/// A kernel whose loops are read.
pub struct Hot {
    /// What it computes.
    pub what: &'static str,
    /// The module that dispatches it.
    pub module: &'static str,
    /// The function that is compiled for each instruction set.
    pub kernel: &'static str,
    pub limits: &'static [Limit],
}

const fn at_least(isa: &'static str, multiply_adds: usize, stores: usize, loads: usize) -> Limit {
    Limit { isa, multiply_adds, stores, loads }
}

/// Products keep all their sums in registers. Elsewhere a few vectors may lie on the stack: what was measured, where
/// fewer brought nothing.
pub const HOT: &[Hot] = &[
    Hot {
        what: "products of rows, f32",
        module: "gemm::micro",
        kernel: "rows_with",
        limits: &[
            at_least("avx512", 24, 0, 0),
            at_least("avx2", 12, 0, 0),
            at_least("neon", 24, 0, 0),
            at_least("scalar", 8, 0, 0),
        ],
    },
    Hot {
        what: "products of columns, f32",
        module: "gemm::micro",
        kernel: "cols_with",
        limits: &[
            at_least("avx512", 24, 0, 0),
            at_least("avx2", 8, 0, 0),
            at_least("neon", 16, 0, 0),
            at_least("scalar", 8, 4, 5),
        ],
    },
    Hot {
        what: "products, bf16",
        module: "bf16::micro",
        kernel: "rows",
        limits: &[
            at_least("avx512bf16", 24, 0, 0),
            at_least("avx512", 48, 0, 0),
            at_least("avx2", 16, 0, 0),
            at_least("neon", 32, 0, 0),
        ],
    },
    Hot {
        what: "products of Winograd's algorithm, bf16",
        module: "bf16::winograd",
        kernel: "panels",
        limits: &[
            at_least("avx512bf16", 24, 0, 0),
            at_least("avx512", 48, 0, 0),
            at_least("avx2", 16, 0, 0),
            at_least("neon", 32, 0, 0),
        ],
    },
    Hot {
        what: "attention, bf16",
        module: "bf16::attention",
        kernel: "meet",
        limits: &[
            at_least("avx512bf16", 24, 0, 0),
            at_least("avx512", 48, 0, 0),
            at_least("avx2", 16, 0, 1),
            at_least("neon", 32, 0, 4),
        ],
    },
    Hot {
        what: "products of bytes",
        module: "int8::linear",
        kernel: "block",
        limits: &[
            at_least("vnni", 24, 0, 0),
            at_least("avx512", 24, 0, 0),
            at_least("avx2", 8, 0, 0),
            at_least("neon", 32, 10, 10),
        ],
    },
    Hot {
        what: "attention's weights",
        module: "attention::forward",
        kernel: "weigh",
        limits: &[at_least("avx512", 6, 0, 0), at_least("avx2", 12, 0, 1), at_least("neon", 24, 4, 4)],
    },
    Hot {
        what: "attention's gradient",
        module: "attention::backward",
        kernel: "score_gradient",
        limits: &[at_least("avx512", 9, 0, 0), at_least("avx2", 18, 3, 3), at_least("neon", 36, 4, 8)],
    },
    Hot {
        what: "Winograd's input transform",
        module: "winograd::source",
        kernel: "input_tiles",
        limits: &[at_least("avx512", 96, 13, 13), at_least("avx2", 16, 14, 13)],
    },
    Hot {
        what: "Winograd's output transform",
        module: "winograd::forward",
        kernel: "output_tiles",
        limits: &[at_least("avx512", 30, 8, 9), at_least("avx2", 6, 8, 12), at_least("neon", 12, 0, 4)],
    },
    Hot {
        what: "Winograd's transform of output gradients",
        module: "winograd::groups",
        kernel: "output_gradient_tiles",
        limits: &[at_least("avx512", 40, 0, 0), at_least("avx2", 8, 0, 8)],
    },
    Hot {
        what: "group normalization",
        module: "group_norm",
        kernel: "normalize",
        limits: &[at_least("avx512", 36, 0, 0), at_least("avx2", 72, 0, 24), at_least("neon", 36, 0, 45)],
    },
    Hot {
        what: "group normalization's gradient, the sums",
        module: "group_norm::gradient",
        kernel: "reduce",
        limits: &[at_least("avx512", 22, 0, 0), at_least("avx2", 44, 30, 29), at_least("neon", 44, 6, 30)],
    },
    Hot {
        what: "group normalization's gradient",
        module: "group_norm::gradient",
        kernel: "input_gradient",
        limits: &[at_least("avx512", 2, 0, 0), at_least("avx2", 4, 0, 3), at_least("neon", 8, 0, 10)],
    },
    Hot {
        what: "layer normalization",
        module: "layer_norm",
        kernel: "row_forward",
        limits: &[at_least("avx512", 1, 0, 0), at_least("avx2", 2, 0, 0), at_least("neon", 4, 0, 0)],
    },
    Hot {
        what: "SiLU",
        module: "elementwise",
        kernel: "silu_piece",
        limits: &[at_least("avx512", 8, 0, 0), at_least("avx2", 16, 0, 0), at_least("neon", 32, 0, 0)],
    },
    Hot {
        what: "scale and shift of channels",
        module: "elementwise",
        kernel: "affine_rows",
        limits: &[at_least("avx512", 4, 0, 0), at_least("avx2", 8, 0, 2), at_least("neon", 16, 0, 6)],
    },
    Hot {
        what: "AdamW",
        module: "adamw",
        kernel: "piece",
        limits: &[at_least("avx512", 4, 0, 0), at_least("avx2", 8, 1, 1)],
    },
];
