//! A choice of modules that does not appear in parameter names.

use burn::{
    module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor},
    tensor::Device,
};

/// One of two modules in the same position. Parameters are named as if it were that module.
#[derive(Clone, Debug)]
pub enum Either<A, B> {
    /// The first module.
    A(A),
    /// The second module.
    B(B),
}

impl<A: Module, B: Module> Module for Either<A, B> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Self::A(m) => m.collect_devices(devices),
            Self::B(m) => m.collect_devices(devices),
        }
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|m| m.fork(device), |m| m.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|m| m.to_device(device), |m| m.to_device(device))
    }

    fn train(self) -> Self {
        self.each(A::train, B::train)
    }

    fn valid(&self) -> Self {
        match self {
            Self::A(m) => Self::A(m.valid()),
            Self::B(m) => Self::B(m.valid()),
        }
    }

    fn materialize(self) -> Self {
        self.each(A::materialize, B::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::A(m) => m.visit(visitor),
            Self::B(m) => m.visit(visitor),
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::A(m) => Self::A(m.map(mapper)),
            Self::B(m) => Self::B(m.map(mapper)),
        }
    }
}

impl<A, B> Either<A, B> {
    fn each(self, a: impl FnOnce(A) -> A, b: impl FnOnce(B) -> B) -> Self {
        match self {
            Self::A(m) => Self::A(a(m)),
            Self::B(m) => Self::B(b(m)),
        }
    }
}

impl<A: ModuleDisplay, B: ModuleDisplay> ModuleDisplay for Either<A, B> {}

impl<A: ModuleDisplay, B: ModuleDisplay> ModuleDisplayDefault for Either<A, B> {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::A(m) => m.content(content),
            Self::B(m) => m.content(content),
        }
    }
}
