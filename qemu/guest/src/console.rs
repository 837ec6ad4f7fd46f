//! Text output on the machine's serial port.

use crate::arch::native;
use crate::report;
use core::fmt;

/// The serial port. Writing needs no lock: one processor, interrupts off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(native::console::write_byte);
        Ok(())
    }
}

/// Prints one line for people on the [`Console`].
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        // The console never fails.
        let _ = core::fmt::Write::write_fmt(
            &mut $crate::console::Console,
            format_args!("{}\n", format_args!($($argument)*)),
        );
    }};
}

/// Says what went wrong and ends the run as failed.
pub fn fail(error: &dyn fmt::Display) -> ! {
    report::error(&mut Console, error);
    report::end(&mut Console, false);
    native::exit::failure()
}
