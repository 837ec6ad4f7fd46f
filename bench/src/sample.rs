//! Taking samples: all cases of a group in turn, in another order in each round.
//!
//! A sample that did not have a CPU to itself counts for nothing.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::case::{Case, Work};
use crate::clock::{thread_time, wall_time};
use crate::crew::Crew;
use crate::grace::Pair;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Samples of each case.
    pub rounds: usize,
    /// What one sample takes, about.
    pub sample: Duration,
}

/// Samples of each case, in nanoseconds an operation; `NaN` if disturbed.
pub struct Samples {
    name: String,
    values: Vec<f64>,
}

impl Samples {
    fn new(name: impl Into<String>) -> Self {
        Samples {
            name: name.into(),
            values: Vec::new(),
        }
    }

    /// Writes a line for `cargo xtask bench`.
    pub fn print(&self, group: &str) {
        let values: Vec<String> = self.values.iter().map(|ns| format!("{ns:.4}")).collect();
        println!("samples\t{group}\t{}\t{}", self.name, values.join(" "));
    }
}

/// Samples `cases` on one thread.
pub fn alone(cases: &[Case], effort: Effort) -> Vec<Samples> {
    let mut works: Vec<Work> = cases.iter().map(Case::on_this_thread).collect();
    let times: Vec<u64> = works
        .iter_mut()
        .map(|work| calibrate(work, effort.sample))
        .collect();
    let mut samples: Vec<Samples> = cases.iter().map(|case| Samples::new(case.name)).collect();
    let mut random = Random::new();
    for _ in 0..effort.rounds {
        for index in random.order(cases.len()) {
            let sample = time(&mut works[index], times[index]).ns;
            samples[index].values.push(sample);
        }
    }
    samples
}

/// Threads that [`together`] chooses two from, as it may matter where their stacks are.
const READERS: usize = 6;

/// Samples `cases` on one thread and on two at once, in the same rounds: first all of the one, then
/// all of the other.
pub fn together(
    cases: impl Fn() -> Vec<Case> + Clone + Send + 'static,
    effort: Effort,
) -> [Vec<Samples>; 2] {
    let cases: Arc<Vec<Case>> = Arc::new(cases());
    let on_each = cases.clone();
    let crew = Crew::start(READERS, move || -> Vec<Work> {
        on_each.iter().map(Case::on_this_thread).collect()
    });
    let calibrate_all = move |works: &mut Vec<Work>| -> Vec<u64> {
        let calibrate = |work| calibrate(work, effort.sample);
        works.iter_mut().map(calibrate).collect()
    };
    let times = crew.give(0, calibrate_all).recv().expect("calibrated");
    let all = || -> Vec<Samples> { cases.iter().map(|case| Samples::new(case.name)).collect() };
    let (mut one, mut two) = (all(), all());
    let mut random = Random::new();
    for _ in 0..effort.rounds {
        let members = random.order(crew.size());
        for index in random.order(cases.len()) {
            let sample = |threads| on_threads(&crew, &members[..threads], index, times[index]);
            one[index].values.push(sample(1));
            two[index].values.push(sample(2));
        }
    }
    [one, two]
}

/// The mean of a sample that `members` take at the same time.
fn on_threads(crew: &Crew<Vec<Work>>, members: &[usize], case: usize, times: u64) -> f64 {
    let missing = Arc::new(AtomicUsize::new(members.len()));
    let results: Vec<_> = members
        .iter()
        .map(|&member| {
            let missing = missing.clone();
            crew.give(member, move |works| {
                missing.fetch_sub(1, Ordering::AcqRel);
                while missing.load(Ordering::Acquire) > 0 {
                    spin_loop();
                }
                time(&mut works[case], times)
            })
        })
        .collect();
    let timings: Vec<Timing> = results
        .iter()
        .map(|result| result.recv().expect("a sample"))
        .collect();
    if !overlap(&timings) {
        return f64::NAN;
    }
    timings.iter().map(|timing| timing.ns).sum::<f64>() / timings.len() as f64
}

/// Whether all were under way for nearly the whole time. On a busy machine two threads may share a
/// CPU, one after the other.
fn overlap(timings: &[Timing]) -> bool {
    const NEARLY: f64 = 0.8;
    let begins = timings.iter().map(|timing| timing.begin);
    let ends = timings.iter().map(|timing| timing.end);
    let (first, last) = (begins.clone().min(), ends.clone().max());
    let together = ends
        .min()
        .unwrap_or_default()
        .saturating_sub(begins.max().unwrap_or_default());
    let whole = last
        .unwrap_or_default()
        .saturating_sub(first.unwrap_or_default());
    together.as_secs_f64() >= whole.as_secs_f64() * NEARLY
}

/// Grace periods in one sample.
const GRACE_PERIODS: u64 = 16;

/// Samples waiting for nobody and waiting for a busy reader: first all of the one, then all of the
/// other. In wall time, since some who wait sleep.
pub fn grace(
    pairs: impl Fn() -> Vec<Pair> + Clone + Send + 'static,
    effort: Effort,
) -> [Vec<Samples>; 2] {
    let pairs: Arc<Vec<Pair>> = Arc::new(pairs());
    let on_reader = pairs.clone();
    let reader = Crew::start(1, move || -> Vec<Work> {
        let reader = |pair: &Pair| pair.reader.on_this_thread();
        on_reader.iter().map(reader).collect()
    });
    let mut updaters: Vec<Work> = pairs
        .iter()
        .map(|pair| pair.updater.on_this_thread())
        .collect();
    let all = || -> Vec<Samples> {
        let samples = |pair: &Pair| Samples::new(pair.updater.name);
        pairs.iter().map(samples).collect()
    };
    let (mut idle, mut busy) = (all(), all());
    let mut random = Random::new();
    for _ in 0..effort.rounds {
        for index in random.order(pairs.len()) {
            idle[index].values.push(wait(&mut updaters[index]));
            busy[index]
                .values
                .push(while_busy(&reader, index, || wait(&mut updaters[index])));
        }
    }
    [idle, busy]
}

/// Calls `work` while the reader enters and leaves without a pause.
fn while_busy<R>(reader: &Crew<Vec<Work>>, case: usize, work: impl FnOnce() -> R) -> R {
    const SECTIONS_BETWEEN_LOOKS: u64 = 64;
    let reading = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let ended = reader.give(0, {
        let (reading, stop) = (reading.clone(), stop.clone());
        move |works| {
            while !stop.load(Ordering::Relaxed) {
                works[case](SECTIONS_BETWEEN_LOOKS);
                reading.store(true, Ordering::Relaxed);
            }
        }
    });
    while !reading.load(Ordering::Relaxed) {
        spin_loop();
    }
    let result = work();
    stop.store(true, Ordering::Relaxed);
    ended.recv().expect("the reader stopped");
    result
}

/// Nanoseconds of wall time a grace period.
fn wait(updater: &mut Work) -> f64 {
    let started = wall_time();
    updater(GRACE_PERIODS);
    per_operation(wall_time() - started, GRACE_PERIODS)
}

/// How many operations take about `sample`. Of several tries the shortest counts, as others may have
/// disturbed the rest.
fn calibrate(work: &mut Work, sample: Duration) -> u64 {
    const TRIES: usize = 3;
    let mut times = 16;
    loop {
        let tries = (0..TRIES).map(|_| {
            let started = thread_time();
            work(times);
            thread_time() - started
        });
        let took = tries.min().expect("there are tries");
        if took * 4 >= sample {
            let wanted = times as f64 * sample.as_secs_f64() / took.as_secs_f64();
            return (wanted as u64).max(1);
        }
        times *= 2;
    }
}

/// One thread's sample.
struct Timing {
    /// CPU time an operation, in nanoseconds; `NaN` if others used the CPU meanwhile.
    ns: f64,
    /// Wall time.
    begin: Duration,
    end: Duration,
}

fn time(work: &mut Work, times: u64) -> Timing {
    const UNDISTURBED: f64 = 1.02;
    work(times / 16 + 1);
    let (begin, thread) = (wall_time(), thread_time());
    work(times);
    let (thread, end) = (thread_time() - thread, wall_time());
    let disturbed = (end - begin).as_secs_f64() > thread.as_secs_f64() * UNDISTURBED;
    let ns = if disturbed {
        f64::NAN
    } else {
        per_operation(thread, times)
    };
    Timing { ns, begin, end }
}

fn per_operation(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations as f64
}

/// Marsaglia's xorshift; each program run takes another course.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Random(wall_time().as_nanos() as u64 | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The numbers below `length`, shuffled.
    fn order(&mut self, length: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..length).collect();
        for last in (1..length).rev() {
            let other = (self.next() >> 32) as usize % (last + 1);
            order.swap(last, other);
        }
        order
    }
}
