//! Faults that are planted on purpose, so that it is seen which test notices each.
//!
//! Each crate lists its own by [`planted_faults!`](crate::planted_faults), in a room `planted`.
//! Without `cfg(planted)` every question is answered no at compile time, and nothing of this is
//! left. With it, one fault of the whole process is planted: that of the last `select`, or before
//! the first one that which the environment variable `SHOOTDOWN_PLANT` names. `cargo xtask test
//! --planted` runs, for each fault, the tests that are to notice it.

#[cfg(planted)]
pub use selection::{PlantedFault, is_selected, select};

/// Declares a crate's faults: what each does, then its name, then who is to notice it: the build
/// (`real` or `loom`), the test programs, and parts of the names of the tests that are run.
///
/// A test program is a file in `tests/`, or `lib` for the tests in `src/`, or one of another package
/// as in `iommu-vtd/unit`; of several, separated by blanks, each must notice. Names of faults are
/// unique over all crates.
#[doc(hidden)]
#[macro_export]
macro_rules! planted_faults {
    ($(#[doc = $about:literal] $fault:ident => $build:ident $programs:literal $tests:literal;)*) => {
        /// A mistake that the crate can be told to make.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault {
            $(#[doc = $about] $fault,)*
        }

        #[cfg(planted)]
        pub use $crate::plant::{PlantedFault, select};

        /// All faults of this crate.
        #[cfg(planted)]
        pub static FAULTS: &[PlantedFault] = &[$(PlantedFault {
            name: stringify!($fault),
            about: $about,
            build: stringify!($build),
            programs: $programs,
            tests: $tests,
        },)*];

        /// Whether `fault` is planted.
        #[cfg(not(planted))]
        #[inline(always)]
        pub(crate) const fn is(_fault: Fault) -> bool {
            false
        }

        /// Whether `fault` is planted.
        #[cfg(planted)]
        pub(crate) fn is(fault: Fault) -> bool {
            $crate::plant::is_selected(&FAULTS[fault as usize])
        }
    };
}

#[cfg(planted)]
mod selection {
    use alloc::string::String;
    use core::fmt;
    use core::ptr;
    // loom's would be reset with each execution.
    use core::sync::atomic::{AtomicPtr, Ordering::SeqCst};
    use std::env;
    use std::sync::OnceLock;

    /// What is known of a fault.
    #[derive(Debug)]
    pub struct PlantedFault {
        /// What `SHOOTDOWN_PLANT` calls it.
        pub name: &'static str,
        /// What it does, in one sentence.
        pub about: &'static str,
        /// `real`, or `loom` for a build under `cfg(loom)`.
        pub build: &'static str,
        /// The test programs that are to notice it, separated by blanks.
        pub programs: &'static str,
        /// Parts of names of tests to run, separated by blanks; all if empty.
        pub tests: &'static str,
    }

    /// As `cargo xtask test --planted` reads it.
    impl fmt::Display for PlantedFault {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self {
                name,
                about,
                build,
                programs,
                tests,
            } = self;
            let about = about.trim();
            write!(
                formatter,
                "planted\t{name}\t{build}\t{programs}\t{tests}\t{about}"
            )
        }
    }

    static NOTHING: PlantedFault = PlantedFault {
        name: "",
        about: "",
        build: "",
        programs: "",
        tests: "",
    };

    /// Null until the first selection.
    static SELECTED: AtomicPtr<PlantedFault> = AtomicPtr::new(ptr::null_mut());

    /// Plants `fault`, of whatever crate, and takes every other away. From then on the environment
    /// does not count.
    pub fn select(fault: Option<&'static PlantedFault>) {
        let selected = ptr::from_ref(fault.unwrap_or(&NOTHING));
        SELECTED.store(selected.cast_mut(), SeqCst);
    }

    /// Whether `fault` is planted. For `planted_faults!`.
    pub fn is_selected(fault: &'static PlantedFault) -> bool {
        static ENVIRONMENT: OnceLock<Option<String>> = OnceLock::new();
        let selected = SELECTED.load(SeqCst);
        if !selected.is_null() {
            return ptr::eq(selected, fault);
        }
        let named = ENVIRONMENT.get_or_init(|| env::var("SHOOTDOWN_PLANT").ok());
        named.as_deref() == Some(fault.name)
    }
}
