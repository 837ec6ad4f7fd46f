//! What the notifier core promises, row by row, and whether it holds.

use std::fmt;

use super::program::{Figures, median};

/// One promise, or a figure without one.
pub struct Row {
    /// What is measured.
    pub name: &'static str,
    /// How.
    pub quantity: Quantity,
    /// How much it may be.
    pub target: Target,
}

/// Where a row's value comes from.
pub enum Quantity {
    /// A quotient of two times, each a group and a case.
    Ratio {
        ours: (&'static str, &'static str),
        peer: (&'static str, &'static str),
        /// What the CPU itself costs.
        floor: Option<Floor>,
    },
    /// Locked operations that one operation of a group's case executes.
    Locked(&'static str, &'static str),
    /// Instructions that read memory, likewise.
    Loads(&'static str, &'static str),
    /// Instructions, likewise, the loop around it included.
    Instructions(&'static str, &'static str),
    /// Instructions beyond those of another case of the group.
    InstructionsOver(&'static str, &'static str, &'static str),
    /// A count of another kind.
    Fact(&'static str),
}

/// Cases of our group that do without protection what sections are made of.
#[derive(Clone, Copy)]
pub struct Floor {
    /// The least that there is, whether or not a section could be content with it.
    pub bare: &'static str,
    /// The least that a section which nests, sleeps and moves can be made of.
    pub section: &'static str,
}

/// How much a value may be.
#[derive(Clone, Copy)]
pub enum Target {
    Exactly(f64),
    AtMost(f64),
    None,
}

/// What came of a row.
pub struct Outcome {
    /// Ours, the peer's, as text with their units.
    pub ours: String,
    pub peer: String,
    /// The value that the target is about.
    pub value: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Met,
    /// Above the target, as on this CPU even the bare floor is; but near what a section can be made of.
    BeyondCpu {
        floor: f64,
    },
    Missed,
    NotMeasured(String),
    /// There is no target.
    Shown,
}

/// How far above the floor of sections a time may be where the bare floor is above the target.
const NEAR_FLOOR: f64 = 1.15;

const ONE: &str = "enter, 1 thread";
const TWO: &str = "enter, 2 threads";
const IDLE: &str = "grace period, idle";
const BUSY: &str = "grace period, busy";
const CROSSBEAM: &str = "crossbeam LocalHandle::pin";
const LINUX: &str = "Linux SRCU model";
const LINUX_LIST: &str = "Linux SRCU model, list";
const LINUX_EVERYONE: &str = "Linux SRCU model, call everyone";
const LIBURCU: &str = "liburcu memb";
const LOCKED_FLOOR: Option<Floor> = Some(Floor {
    bare: "floor: 1 locked",
    section: "floor: 1 locked",
});
const PLAIN_FLOOR: Option<Floor> = Some(Floor {
    bare: "2 stores, nothing else",
    section: "floor: 2 plain",
});
const LOCKED_ARRAY_FLOOR: Option<Floor> = Some(Floor {
    bare: "floor: 1 locked, array",
    section: "floor: 1 locked, array",
});
const PLAIN_ARRAY_FLOOR: Option<Floor> = Some(Floor {
    bare: "2 stores, nothing else, array",
    section: "floor: 2 plain, array",
});

/// Every row, in the order of the table.
pub const ROWS: &[Row] = &[
    ratio(
        "enter + exit, fenced",
        (ONE, "fenced"),
        (ONE, CROSSBEAM),
        LOCKED_FLOOR,
        0.90,
    ),
    ratio(
        "enter + exit, fenced",
        (ONE, "fenced"),
        (ONE, LINUX),
        LOCKED_FLOOR,
        0.55,
    ),
    ratio(
        "enter + exit, hooked",
        (ONE, "hooked"),
        (ONE, CROSSBEAM),
        PLAIN_FLOOR,
        0.12,
    ),
    ratio(
        "enter + exit, hooked",
        (ONE, "hooked"),
        (ONE, LIBURCU),
        PLAIN_FLOOR,
        0.50,
    ),
    ratio(
        "2 readers, fenced",
        (TWO, "fenced"),
        (ONE, "fenced"),
        None,
        1.15,
    ),
    ratio(
        "2 readers, hooked",
        (TWO, "hooked"),
        (ONE, "hooked"),
        None,
        1.15,
    ),
    row(
        "locked operations, fenced",
        Quantity::Locked("enter", "fenced"),
        Target::Exactly(1.0),
    ),
    row(
        "locked operations, hooked",
        Quantity::Locked("enter", "hooked"),
        Target::Exactly(0.0),
    ),
    row(
        "locked operations, Linux model",
        Quantity::Locked("enter", LINUX),
        Target::Exactly(2.0),
    ),
    row(
        "instructions, fenced",
        Quantity::Instructions("enter", "fenced"),
        Target::AtMost(30.0),
    ),
    row(
        "instructions, hooked",
        Quantity::Instructions("enter", "hooked"),
        Target::AtMost(14.0),
    ),
    row(
        "no subscriber, loads, fenced",
        Quantity::Loads("notify 0", "fenced"),
        Target::Exactly(1.0),
    ),
    row(
        "no subscriber, loads, hooked",
        Quantity::Loads("notify 0", "hooked"),
        Target::Exactly(1.0),
    ),
    row(
        "no subscriber, locked, fenced",
        Quantity::Locked("notify 0", "fenced"),
        Target::Exactly(0.0),
    ),
    row(
        "no subscriber, instructions over Linux's",
        Quantity::InstructionsOver("notify 0", "fenced", LINUX_LIST),
        Target::AtMost(3.0),
    ),
    ratio(
        "notify 1, fenced",
        ("notify 1", "fenced"),
        ("notify 1", LINUX_LIST),
        LOCKED_ARRAY_FLOOR,
        0.60,
    ),
    ratio(
        "notify 4, fenced",
        ("notify 4", "fenced"),
        ("notify 4", LINUX_LIST),
        LOCKED_ARRAY_FLOOR,
        0.70,
    ),
    ratio(
        "notify 1, hooked",
        ("notify 1", "hooked"),
        ("notify 1", LINUX_LIST),
        PLAIN_ARRAY_FLOOR,
        0.30,
    ),
    ratio(
        "notify 4, hooked",
        ("notify 4", "hooked"),
        ("notify 4", LINUX_LIST),
        PLAIN_ARRAY_FLOOR,
        0.55,
    ),
    row(
        "notify 1, locked, fenced",
        Quantity::Locked("notify 1", "fenced"),
        Target::Exactly(1.0),
    ),
    row(
        "notify 4, locked, fenced",
        Quantity::Locked("notify 4", "fenced"),
        Target::Exactly(1.0),
    ),
    row(
        "notify 4, locked, hooked",
        Quantity::Locked("notify 4", "hooked"),
        Target::Exactly(0.0),
    ),
    row(
        "heap calls while notifying, fenced",
        Quantity::Fact("heap calls, fenced"),
        Target::Exactly(0.0),
    ),
    row(
        "heap calls while notifying, hooked",
        Quantity::Fact("heap calls, hooked"),
        Target::Exactly(0.0),
    ),
    row(
        "range dispatch, locked, fenced",
        Quantity::Locked("dispatch 64", "fenced"),
        Target::None,
    ),
    row(
        "range dispatch, instructions, fenced",
        Quantity::Instructions("dispatch 64", "fenced"),
        Target::None,
    ),
    ratio(
        "range dispatch, 64, fenced",
        ("dispatch 64", "fenced"),
        ("dispatch 64", LINUX_EVERYONE),
        None,
        0.20,
    ),
    ratio(
        "range dispatch, 1024, fenced",
        ("dispatch 1024", "fenced"),
        ("dispatch 1024", LINUX_EVERYONE),
        None,
        0.03,
    ),
    ratio(
        "grace period, idle, fenced",
        (IDLE, "fenced"),
        (IDLE, "crossbeam, defer to run"),
        None,
        0.30,
    ),
    ratio(
        "grace period, busy, fenced",
        (BUSY, "fenced"),
        (BUSY, LIBURCU),
        None,
        0.10,
    ),
    shown(
        "grace period, idle, hooked",
        (IDLE, "hooked"),
        (IDLE, LIBURCU),
    ),
    shown(
        "grace period, busy, hooked",
        (BUSY, "hooked"),
        (BUSY, LIBURCU),
    ),
    row(
        "bytes of code, operations of 2017",
        Quantity::Fact("bytes of code, operations of 2017"),
        Target::AtMost(6.0 * 1024.0),
    ),
    row(
        "bytes of code, everything (Linux's: 23 to 29 KB)",
        Quantity::Fact("bytes of code, everything"),
        Target::None,
    ),
    row(
        "bytes a subscriber",
        Quantity::Fact("bytes a subscriber"),
        Target::AtMost(64.0),
    ),
];

const fn row(name: &'static str, quantity: Quantity, target: Target) -> Row {
    Row {
        name,
        quantity,
        target,
    }
}

const fn ratio(
    name: &'static str,
    ours: (&'static str, &'static str),
    peer: (&'static str, &'static str),
    floor: Option<Floor>,
    at_most: f64,
) -> Row {
    let quantity = Quantity::Ratio { ours, peer, floor };
    row(name, quantity, Target::AtMost(at_most))
}

const fn shown(
    name: &'static str,
    ours: (&'static str, &'static str),
    peer: (&'static str, &'static str),
) -> Row {
    let quantity = Quantity::Ratio {
        ours,
        peer,
        floor: None,
    };
    row(name, quantity, Target::None)
}

impl Row {
    /// Who it is measured against.
    pub fn peer(&self) -> &'static str {
        match self.quantity {
            Quantity::Ratio { ours, peer, .. } if ours.0 != peer.0 => "1 thread",
            Quantity::Ratio { peer, .. } => peer.1,
            Quantity::InstructionsOver(_, _, peer) => peer,
            _ => "",
        }
    }

    /// Whether its value is exact, so that measuring it again gives the same.
    pub fn is_exact(&self) -> bool {
        !matches!(self.quantity, Quantity::Ratio { .. })
    }

    /// The groups that [`Program::time`](super::program::Program::time) measures it with.
    pub fn timing(&self) -> Option<&'static str> {
        match self.quantity {
            Quantity::Ratio { ours, .. } => ours.0.split([' ', ',']).next(),
            _ => None,
        }
    }

    /// Compares what was measured with the target.
    pub fn judge(&self, figures: &Figures) -> Outcome {
        match self.quantity {
            Quantity::Ratio { ours, peer, floor } => self.judge_ratio(figures, ours, peer, floor),
            Quantity::Locked(group, case) => {
                self.judge_count(figures.count(group, case).map(|count| count.locked))
            }
            Quantity::Loads(group, case) => {
                self.judge_count(figures.count(group, case).map(|count| count.loads))
            }
            Quantity::Instructions(group, case) => {
                self.judge_count(figures.count(group, case).map(|count| count.instructions))
            }
            Quantity::InstructionsOver(group, case, peer) => {
                let instructions = |case| Some(figures.count(group, case)?.instructions);
                let over = instructions(case).zip(instructions(peer));
                self.judge_count(over.map(|(ours, peer)| ours - peer))
            }
            Quantity::Fact(name) => self.judge_count(figures.fact(name)),
        }
    }

    fn judge_count(&self, value: Option<f64>) -> Outcome {
        Outcome {
            ours: value.map_or_else(String::new, count),
            peer: String::new(),
            value,
            verdict: match value {
                None => Verdict::NotMeasured("not counted".to_owned()),
                Some(value) => self.target.verdict(value),
            },
        }
    }

    fn judge_ratio(
        &self,
        figures: &Figures,
        ours: (&str, &str),
        peer: (&str, &str),
        floor: Option<Floor>,
    ) -> Outcome {
        let time = |(group, case)| {
            let median = figures.samples(group, case).and_then(median);
            median.map_or_else(String::new, nanoseconds)
        };
        let ratios = figures.ratios(ours, peer);
        let value = ratios.clone().and_then(median);
        let verdict = match (ratios, value) {
            (None, _) => Verdict::NotMeasured(format!("no {}", peer.1)),
            (Some(ratios), Some(value)) if ratios.len() >= ENOUGH => {
                match self.target.verdict(value) {
                    Verdict::Missed => self.excuse(figures, ours, peer, floor),
                    verdict => verdict,
                }
            }
            _ => Verdict::NotMeasured("others used the CPUs".to_owned()),
        };
        Outcome {
            ours: time(ours),
            peer: time(peer),
            value,
            verdict,
        }
    }

    /// The verdict on a ratio above its target.
    fn excuse(
        &self,
        figures: &Figures,
        ours: (&str, &str),
        peer: (&str, &str),
        floor: Option<Floor>,
    ) -> Verdict {
        let Some(floor) = floor else {
            return Verdict::Missed;
        };
        let quotient = |ours, peer| figures.ratios(ours, peer).and_then(median);
        let bare = quotient((ours.0, floor.bare), peer);
        match (bare, quotient(ours, (ours.0, floor.section))) {
            (Some(bare), Some(above))
                if self.target.verdict(bare) == Verdict::Missed && above <= NEAR_FLOOR =>
            {
                Verdict::BeyondCpu { floor: bare }
            }
            _ => Verdict::Missed,
        }
    }
}

/// Undisturbed rounds without which a ratio is not judged.
const ENOUGH: usize = 10;

impl Target {
    fn verdict(self, value: f64) -> Verdict {
        let met = match self {
            Self::Exactly(target) => value == target,
            Self::AtMost(target) => value <= target,
            Self::None => return Verdict::Shown,
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(target) => write!(f, "= {target}"),
            Self::AtMost(target) => write!(f, "≤ {target}"),
            Self::None => Ok(()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met => f.write_str("met"),
            Self::BeyondCpu { floor } => write!(f, "missed; this CPU's floor: {floor:.2}"),
            Self::Missed => f.write_str("MISSED"),
            Self::NotMeasured(why) => write!(f, "not measured: {why}"),
            Self::Shown => Ok(()),
        }
    }
}

/// A count; a mean of several ways through the code need not be whole.
pub fn count(value: f64) -> String {
    let decimals = usize::from(value.fract() != 0.0);
    format!("{value:.decimals$}")
}

/// A time with three digits that mean something.
pub fn nanoseconds(ns: f64) -> String {
    let decimals = if ns < 10.0 {
        2
    } else if ns < 100.0 {
        1
    } else {
        0
    };
    format!("{ns:.decimals$} ns")
}
