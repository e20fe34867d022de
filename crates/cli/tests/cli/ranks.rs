//! Processes that a launcher starts together. Without MPI in the binary they would write the same files.

use crate::common::{Scratch, finish};

#[test]
#[cfg(not(feature = "mpi"))]
fn several_processes_without_mpi_are_refused_with_one_message() {
    let scratch = Scratch::new();
    let args = ["train", "--preset", "tiny", "--steps", "1", "--out", "run"];
    for [rank, size] in [["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"], ["PMI_RANK", "PMI_SIZE"]] {
        let mut first = scratch.command(&args);
        first.env(rank, "0").env(size, "4");
        scratch.fails_as(first, &["error: started as 4 processes", "built without MPI", "--features mpi"]);
        let mut other = scratch.command(&args);
        other.env(rank, "3").env(size, "4");
        let other = finish(other);
        assert_eq!((other.code, &*other.stdout, &*other.stderr), (Some(1), "", ""));
    }
}

#[test]
fn one_process_of_a_launcher_works_alone() {
    let scratch = Scratch::new();
    let mut one = scratch.command(&["plan", "--steps", "2"]);
    one.env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_SIZE", "1");
    finish(one).ok();
}
