//! What a person sees while something takes time: a spinner or bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Keeps a task within a task on a line of its own.
static TERMINAL: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Without a terminal, a long task says at most this often that it is still alive.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// One task in progress, shown on standard error until it is dropped.
pub struct Progress {
    title: String,
    started: Instant,
    bar: Option<ProgressBar>,
    spoken: Instant,
    latest: String,
}

impl Progress {
    /// Starts showing `title`.
    pub fn start(title: &str) -> Self {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        let bar = terminal.then(|| spinner(title));
        if bar.is_none() {
            eprintln!("{title} ...");
        }
        Self {
            title: title.to_owned(),
            started: now,
            bar,
            spoken: now,
            latest: String::new(),
        }
    }

    /// Shows `line`, the latest thing that happened.
    pub fn line(&mut self, line: &str) {
        line.trim().clone_into(&mut self.latest);
        match &self.bar {
            Some(bar) => bar.set_message(self.latest.clone()),
            None => self.tick(),
        }
    }

    /// Shows that `percent` of the task is done.
    pub fn percent(&mut self, percent: f32, line: &str) {
        self.line(&format!("{percent:>3.0} % {line}"));
    }

    /// Lets time pass; speaks up when nothing was said for long.
    pub fn tick(&mut self) {
        if self.bar.is_none() && self.spoken.elapsed() >= HEARTBEAT {
            self.spoken = Instant::now();
            eprintln!(
                "{} ... {} s: {}",
                self.title,
                self.elapsed().as_secs(),
                self.latest
            );
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner(title: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = TERMINAL.add(ProgressBar::new_spinner().with_style(style));
    bar.set_prefix(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
