//! Reads the machine code of the kernels' innermost loops, for every instruction set, so that a loop which has come to
//! keep its sums in memory is seen on any machine, whatever it can run and whatever else it is doing.

mod hot;
mod loops;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use hot::{HOT, Hot, Limit};
use loops::{Function, Loop};

/// What the kernels are compiled for, and the instruction sets that each must have.
const TARGETS: &[(&str, &[&str])] = &[
    ("x86_64-unknown-linux-gnu", &["avx512bf16", "vnni", "avx512", "avx2", "scalar"]),
    ("aarch64-unknown-linux-gnu", &["neon"]),
];

/// `list` prints what every loop with vectors does; otherwise the hot loops, and it fails where one does too much.
pub fn run(list: bool) -> Result<()> {
    let (mut faults, mut read) = (Vec::new(), 0);
    for (target, sets) in TARGETS {
        if !is_installed(target)? {
            println!("asm: {target} is not checked: install it with `rustup target add {target}`");
            continue;
        }
        read += 1;
        let functions = functions(target)?;
        if list {
            print_all(target, &functions);
            continue;
        }
        for hot in HOT {
            for limit in hot.limits.iter().filter(|limit| sets.contains(&limit.isa)) {
                match check(hot, limit, &functions) {
                    Ok(line) => println!("{line}"),
                    Err(fault) => faults.push(fault),
                }
            }
        }
    }
    ensure!(read > 0, "none of these targets is installed, so no machine code was read");
    if !faults.is_empty() {
        bail!(
            "{}\n\nThe limits are in xtask/src/asm/hot.rs. `cargo xtask asm --list` prints what every loop does.",
            faults.join("\n")
        );
    }
    Ok(())
}

/// What the loops of a hot kernel do, or what is wrong with them.
fn check(hot: &Hot, limit: &Limit, functions: &[Function]) -> Result<String, String> {
    let Limit { isa, multiply_adds, stores, loads } = *limit;
    let (module, kernel) = (hot.module, hot.kernel);
    let name = format!("{} ({module}, {kernel}) on {isa}", hot.what);
    let (start, end) = (format!("tweedie_kernels::{module}::"), format!("::{kernel}::on_{isa}"));
    let of_kernel = |f: &&Function| f.path.starts_with(&start) && f.path.ends_with(&end);
    // A kernel that is generic over what it writes is there once for each.
    let found: Vec<_> = functions.iter().filter(of_kernel).collect();
    if found.is_empty() {
        return Err(format!("{name}: no function `{start}…{end}` in the machine code"));
    }
    let mut lines = Vec::new();
    for function in found {
        let loops = function.loops.iter().filter(|l| l.calls == 0 && l.multiply_adds > 0);
        let most = |of: fn(&Loop) -> usize| loops.clone().map(of).max().unwrap_or(0);
        let largest = most(|l| l.multiply_adds);
        if largest < multiply_adds {
            return Err(format!(
                "{name}: the largest innermost loop has {largest} multiply-adds; expected at least {multiply_adds}"
            ));
        }
        for l in loops.clone() {
            let of = format!("{name}: the loop of {} multiply-adds", l.multiply_adds);
            if l.stack_stores > stores {
                return Err(format!(
                    "{of} stores {} vectors on the stack in each turn; allowed: {stores}. Its sums no longer stay in \
                     registers: look for an index into them that is not a constant",
                    l.stack_stores
                ));
            }
            if l.stack_loads > loads {
                return Err(format!(
                    "{of} reads {} vectors from the stack in each turn; allowed: {loads}",
                    l.stack_loads
                ));
            }
        }
        let (stored, read) = (most(|l| l.stack_stores), most(|l| l.stack_loads));
        lines.push(format!("{name}: {largest} multiply-adds, {stored} stores and {read} loads on the stack"));
    }
    lines.dedup();
    Ok(lines.join("\n"))
}

fn print_all(target: &str, functions: &[Function]) {
    println!("{target}\nmultiply-adds, stores, of them on the stack, loads from the stack, instructions");
    for f in functions {
        for l in f.loops.iter().filter(|l| l.multiply_adds + l.stack_stores + l.stack_loads > 0) {
            let Loop { multiply_adds, stores, stack_stores, stack_loads, instructions, calls } = l;
            let calls = if *calls > 0 { " (calls)" } else { "" };
            println!(
                "{multiply_adds:4}{stores:4}{stack_stores:4}{stack_loads:4}{instructions:5}  {}{calls}",
                f.path
            );
        }
    }
}

fn is_installed(target: &str) -> Result<bool> {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    let output = output.context("cannot run rustc")?;
    let directory = String::from_utf8(output.stdout).context("the path of rustc's libraries is not UTF-8")?;
    Ok(output.status.success() && Path::new(directory.trim()).is_dir())
}

/// The functions of the kernels as releases have them: one unit of code generation.
fn functions(target: &str) -> Result<Vec<Function>> {
    let metadata = crate::layers::metadata()?;
    let directory = metadata["target_directory"].as_str().context("metadata without target directory")?;
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "-p", "tweedie-kernels", "--lib", "--example", "instances"])
        .args(["--target", target, "--target-dir", &format!("{directory}/asm")])
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTFLAGS", "--emit=asm -C codegen-units=1")
        .env("CARGO_INCREMENTAL", "0")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo build")?;
    ensure!(output.status.success(), "cannot compile the kernels for {target}");
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    let mut all = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("a message of cargo is not JSON")?;
        if let Some(file) = assembly(&message) {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            all.extend(
                loops::functions(&text).into_iter().filter(|f| f.path.starts_with("tweedie_kernels::")),
            );
        }
    }
    ensure!(!all.is_empty(), "no assembly of the kernels for {target} in {directory}/asm");
    Ok(all)
}

/// The assembly beside the kernels' `lib*.rmeta` that a message of cargo names.
fn assembly(message: &Value) -> Option<PathBuf> {
    let manifest = message["manifest_path"].as_str()?;
    if message["reason"] != "compiler-artifact" || !Path::new(manifest).ends_with("kernels/Cargo.toml") {
        return None;
    }
    let names = message["filenames"].as_array()?;
    let rmeta = Path::new(names.iter().filter_map(Value::as_str).find(|name| name.ends_with(".rmeta"))?);
    let name = rmeta.file_stem()?.to_str()?.strip_prefix("lib")?;
    Some(rmeta.with_file_name(format!("{name}.s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOT: Hot = Hot { what: "products", module: "gemm::micro", kernel: "rows_with", limits: &[] };
    const LIMIT: Limit = Limit { isa: "avx512", multiply_adds: 2, stores: 0, loads: 0 };

    fn kernel(body: &str) -> Vec<Function> {
        let symbol = "_ZN15tweedie_kernels4gemm5micro4rows9rows_with9on_avx51217h0123456789abcdefE";
        loops::functions(&format!("{symbol}:\n{body}.Lfunc_end0:\n"))
    }

    const CLEAN: &str = "\
.LBB0_1:
\tvbroadcastss\t(%rdi,%rax,4), %zmm3
\tvfmadd231ps\t%zmm2, %zmm3, %zmm0
\tvfmadd231ps\t64(%rsi){1to16}, %zmm3, %zmm1
\tincq\t%rax
\tjne\t.LBB0_1
";

    #[test]
    fn sums_in_registers_pass() {
        let line = check(&HOT, &LIMIT, &kernel(CLEAN)).unwrap();
        assert!(line.ends_with("2 multiply-adds, 0 stores and 0 loads on the stack"), "{line}");
    }

    #[test]
    fn sums_on_the_stack_are_a_fault_that_says_where() {
        let stored =
            CLEAN.replace("\tincq", "\tvmovups\t%zmm0, 64(%rsp)\n\tvmovups\t%zmm1, 128(%rsp)\n\tincq");
        let fault = check(&HOT, &LIMIT, &kernel(&stored)).unwrap_err();
        assert!(
            fault.starts_with(
                "products (gemm::micro, rows_with) on avx512: the loop of 2 multiply-adds stores 2 vectors"
            ),
            "{fault}"
        );
        // The frame pointer is the stack only where the function sets it.
        let pointer = stored.replace("%rsp", "%rbp");
        assert!(check(&HOT, &LIMIT, &kernel(&pointer)).is_ok());
        assert!(check(&HOT, &LIMIT, &kernel(&format!("\tmovq\t%rsp, %rbp\n{pointer}"))).is_err());
        let loaded = CLEAN.replace("64(%rsi){1to16}", "64(%rsp)");
        assert!(
            check(&HOT, &LIMIT, &kernel(&loaded)).unwrap_err().contains("reads 1 vectors from the stack")
        );
    }

    #[test]
    fn missing_functions_and_multiply_adds_are_faults() {
        let fault = check(&HOT, &Limit { isa: "avx2", ..LIMIT }, &kernel(CLEAN)).unwrap_err();
        assert!(fault.contains("no function"), "{fault}");
        let fault = check(&HOT, &Limit { multiply_adds: 24, ..LIMIT }, &kernel(CLEAN)).unwrap_err();
        assert!(fault.contains("has 2 multiply-adds; expected at least 24"), "{fault}");
        // Outside a loop, and in a loop that calls a function, they do not count.
        let once = CLEAN.replace("\tjne\t.LBB0_1\n", "");
        assert!(check(&HOT, &LIMIT, &kernel(&once)).is_err());
        let calls = CLEAN.replace("\tincq", "\tcallq\tmemcpy@PLT\n\tincq");
        assert!(check(&HOT, &LIMIT, &kernel(&calls)).is_err());
    }

    #[test]
    fn aarch64_is_read_too() {
        let body = "\
.LBB0_1:
\tldr\tq3, [x8], #16
\tfmla\tv0.4s, v3.4s, v2.s[0]
\tfmla\tv1.4s, v3.4s, v2.s[1]
\tstp\tq0, q1, [sp, #32]
\tsubs\tx9, x9, #1
\tb.ne\t.LBB0_1
";
        let [function] = &kernel(body)[..] else { panic!("one function") };
        let found = Loop { multiply_adds: 2, stores: 2, stack_stores: 2, instructions: 6, ..Loop::default() };
        assert_eq!(function.loops, [found]);
    }
}
