//! A device that fails. Alone in its process, because it does not recover.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Tensor};
use tweedie_ops::{failure, guarded, is_cpu, to_host};

#[test]
fn a_tensor_that_does_not_fit_is_an_error() {
    let device = common::device();
    assert_eq!(guarded(|| 3), Ok(3));
    if is_cpu(&device) {
        let other = catch_unwind(AssertUnwindSafe(|| guarded(|| panic!("for another reason"))));
        assert!(other.is_err(), "other panics go on");
        return;
    }
    // 4 GiB: buffers of Vulkan have less.
    let found = guarded(|| to_host(Tensor::<1>::zeros([1 << 30], (&device, DType::F32)).sum()));
    let failed = found.unwrap_err();
    assert_eq!(failure(), Some(failed.clone()));
    let text = failed.to_string();
    assert!(text.starts_with("the device failed: it cannot allocate a buffer of 4294967296 bytes"), "{text}");
    assert_eq!(guarded(|| 3), Err(failed), "what follows is lost");
}
