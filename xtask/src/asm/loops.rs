//! Functions of assembly as rustc writes it (x86-64 in AT&T's syntax, and aarch64), and what their innermost loops do.

use std::collections::HashMap;

/// What one turn of an innermost loop does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loop {
    /// Instructions that multiply vectors and add, or only multiply where the set cannot do both.
    pub multiply_adds: usize,
    /// Stores of vectors, wherever to.
    pub stores: usize,
    /// Stores of vectors to the stack.
    pub stack_stores: usize,
    /// Vectors read from the stack.
    pub stack_loads: usize,
    /// Instructions in all.
    pub instructions: usize,
    /// Calls of other functions.
    pub calls: usize,
}

/// A function and its innermost loops.
#[derive(Debug)]
pub struct Function {
    /// Demangled, without the hash at its end.
    pub path: String,
    pub loops: Vec<Loop>,
}

/// The functions of an assembly file.
pub fn functions(assembly: &str) -> Vec<Function> {
    let mut all = Vec::new();
    let mut symbol = None;
    let mut body = Body::default();
    for line in assembly.lines() {
        if let Some(label) = line.strip_suffix(':').filter(|l| !l.starts_with(char::is_whitespace)) {
            if label.starts_with(".Lfunc_end") {
                if let Some(symbol) = symbol.take() {
                    let path = format!("{:#}", rustc_demangle::demangle(symbol));
                    all.push(Function { path, loops: std::mem::take(&mut body).loops() });
                }
            } else if label.starts_with(".L") {
                body.labels.insert(label, body.lines.len());
            } else {
                (symbol, body) = (Some(label), Body::default());
            }
        } else if line.starts_with('\t') && !line.starts_with("\t.") {
            let line = line.split("//").next().unwrap_or(line);
            body.lines.push(Instruction::new(line.trim()));
        }
    }
    all
}

#[derive(Default)]
struct Body<'a> {
    lines: Vec<Instruction<'a>>,
    /// Labels, and the index of the instruction that follows each.
    labels: HashMap<&'a str, usize>,
}

impl Body<'_> {
    fn loops(self) -> Vec<Loop> {
        let back = self.lines.iter().enumerate().filter_map(|(end, line)| {
            let start = *self.labels.get(line.target()?)?;
            (start <= end).then_some((start, end))
        });
        let all: Vec<_> = back.collect();
        let holds = |a: &(usize, usize), b: &(usize, usize)| a != b && a.0 <= b.0 && b.1 <= a.1;
        // Registers other than the stack pointer that point to the stack's frame.
        let frame =
            self.lines.iter().any(|l| l.text == "movq\t%rsp, %rbp" || l.text.starts_with("add\tx29, sp"));
        let inner = all.iter().filter(|l| !all.iter().any(|other| holds(l, other)));
        inner.map(|&(start, end)| of_lines(&self.lines[start..=end], frame)).collect()
    }
}

fn of_lines(lines: &[Instruction<'_>], frame: bool) -> Loop {
    let mut found = Loop { instructions: lines.len(), ..Loop::default() };
    for line in lines {
        found.multiply_adds += usize::from(line.multiplies());
        found.calls += usize::from(["call", "callq", "bl", "blr"].contains(&line.name));
        let vectors = line.vectors_in_memory();
        let on_stack = if line.on_stack(frame) { vectors } else { 0 };
        if line.stores() {
            found.stores += vectors;
            found.stack_stores += on_stack;
        } else {
            found.stack_loads += on_stack;
        }
    }
    found
}

#[derive(Clone, Copy)]
struct Instruction<'a> {
    text: &'a str,
    name: &'a str,
    operands: &'a str,
}

impl<'a> Instruction<'a> {
    fn new(text: &'a str) -> Self {
        let (name, operands) = text.split_once('\t').unwrap_or((text, ""));
        Self { text, name, operands }
    }

    /// Where it jumps to inside its function.
    fn target(&self) -> Option<&'a str> {
        let jumps = self.name.starts_with('j')
            || self.name == "b"
            || ["b.", "cb", "tb"].iter().any(|jump| self.name.starts_with(jump));
        let last = self.operands.rsplit([',', ' ']).next()?;
        (jumps && last.starts_with(".L")).then_some(last)
    }

    fn multiplies(&self) -> bool {
        let packed = self.name.ends_with("ps");
        let fused = ["vfmadd", "vfnmadd", "vfmsub", "vfnmsub"].iter().any(|f| self.name.starts_with(f));
        let pairs = ["vdpbf16ps", "vpdpbusd", "vpmaddubsw", "pmaddwd", "pmuludq", "pmulld"];
        let neon = ["fmla", "fmls", "smull", "smull2", "sdot", "bfdot"].contains(&self.name);
        packed && fused || self.name == "mulps" || pairs.contains(&self.name) || neon
    }

    fn memory(&self) -> Option<&'a str> {
        let (open, close) = if self.operands.contains('[') { ('[', ']') } else { ('(', ')') };
        let from = self.operands.find(open)? + 1;
        Some(&self.operands[from..from + self.operands[from..].find(close)?])
    }

    /// Vectors that it reads from memory or writes to it.
    fn vectors_in_memory(&self) -> usize {
        if self.memory().is_none() {
            return 0;
        }
        let x86 = ["%xmm", "%ymm", "%zmm"].iter().any(|register| self.operands.contains(register));
        if x86 {
            return 1;
        }
        // `q0`, or `v0` in braces.
        let registers = self.operands.split('[').next().unwrap_or("");
        registers.split([',', ' ', '{', '}']).filter(|r| is_numbered(r, 'q') || is_numbered(r, 'v')).count()
    }

    /// Whether it writes to the memory that it names.
    fn stores(&self) -> bool {
        if self.operands.contains('[') {
            return self.name.starts_with("st");
        }
        // A mask may follow.
        self.operands.split(" {").next().is_some_and(|operands| operands.ends_with(')'))
    }

    fn on_stack(&self, frame: bool) -> bool {
        let base = self.memory().and_then(|m| m.split([',', ' ']).next()).unwrap_or("");
        base == "%rsp" || base == "sp" || frame && (base == "%rbp" || base == "x29")
    }
}

/// Whether `register` is `kind` and a number, as `v0.4s`.
fn is_numbered(register: &str, kind: char) -> bool {
    let number = register.split('.').next().and_then(|r| r.strip_prefix(kind));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
