//! Memory allocator settings.

/// Sets how many bytes the [packed weights](crate::PackedWeights) of a model may take if it has no limit of its own. By default
/// a sixteenth of the memory that is available at the first use, from 256 MiB to 4 GiB.
pub fn set_packed_weights(bytes: usize) {
    crate::engine::set_packed_limit(bytes);
}

/// Prepares the process; programs call this once at their start.
///
/// - Tells the allocator to keep freed memory (glibc only). A network allocates and frees the same large tensors at
///   every step; if they were returned to the system, each would be mapped, zeroed and faulted in again.
/// - If a [mapped file](crate::FileMap) is truncated by another program, the process ends with a message.
pub fn init() {
    #[cfg(unix)]
    crate::file_map::report_truncation();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Blocks up to this size come from the heap, larger ones from the system.
        const LARGEST: i32 = 1 << 30;
        // SAFETY: `mallopt` only sets parameters; unknown ones are ignored.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            // Grow in large steps, to make few system calls.
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}
