//! What is measured: an operation, repeated.

use std::hint::black_box;

/// Performs an operation as often as it is told to, on the thread that made it.
pub type Work = Box<dyn FnMut(u64)>;

/// One way of doing the thing that a group of cases compares.
pub struct Case {
    /// Who does it, as the table calls him.
    pub name: &'static str,
    make: Box<dyn Fn() -> Work + Send + Sync>,
}

impl Case {
    /// A case whose work is made by `make` on each thread that runs it.
    pub fn new(name: &'static str, make: impl Fn() -> Work + Send + Sync + 'static) -> Self {
        Case {
            name,
            make: Box::new(make),
        }
    }

    /// A case that repeats `operation` on `state`, which all threads share.
    pub fn shared<S: Sync, R>(
        name: &'static str,
        state: &'static S,
        operation: impl Fn(&'static S) -> R + Copy + Send + Sync + 'static,
    ) -> Self {
        Case::new(name, move || repeat(state, operation))
    }

    /// The work, for the calling thread only.
    pub fn on_this_thread(&self) -> Work {
        (self.make)()
    }
}

/// How often [`read`] has the operation in its loop, so that the loop itself costs next to nothing.
const UNROLLED: u64 = 4;

/// Repeats `operation` and adds up what it reads. `state` stays in a register.
pub fn read<S: Copy + 'static>(state: S, operation: impl Fn(S) -> u64 + 'static) -> Work {
    Box::new(move |times| {
        let state = state;
        let mut sum = 0_u64;
        let mut read = || sum = sum.wrapping_add(operation(state));
        for _ in 0..times / UNROLLED {
            read();
            read();
            read();
            read();
        }
        (0..times % UNROLLED).for_each(|_| read());
        black_box(sum);
    })
}

/// Repeats `operation`. `state` stays in a register, so that the loop adds as little as it can.
pub fn repeat<S: Copy + 'static, R>(state: S, operation: impl Fn(S) -> R + 'static) -> Work {
    Box::new(move |times| {
        let state = state;
        for _ in 0..times {
            black_box(operation(state));
        }
    })
}

/// Lives as long as the program; what cases share is never torn down.
pub fn forever<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}
