//! `cargo xtask bench invalidate`: what the invalidation engine sends, how fast it sends it and how it
//! scales. Everything that `--check` judges is counted or in virtual time, the same in every run; real
//! time is shown beside it.

use anyhow::Result;

use super::book;
use super::callgrind;
use super::machine;
use super::plot::Plot;
use super::program::{Figures, Program, median};
use super::rows::nanoseconds;
use super::table::Table;

/// The markers of the book's part end with this.
const NAME: &str = "invalidate";

/// A promise: a figure and what it may be.
struct Row {
    name: &'static str,
    value: fn(&Figures) -> Option<f64>,
    target: Target,
}

#[derive(Clone, Copy)]
enum Target {
    Exactly(f64),
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::Exactly(target) => value == target,
            Self::AtMost(target) => value <= target,
            Self::Below(target) => value < target,
            Self::AtLeast(target) => value >= target,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Exactly(target) => format!("= {target}"),
            Self::AtMost(target) => format!("≤ {target}"),
            Self::Below(target) => format!("< {target}"),
            Self::AtLeast(target) => format!("≥ {target}"),
        }
    }
}

const fn row(name: &'static str, value: fn(&Figures) -> Option<f64>, target: Target) -> Row {
    Row {
        name,
        value,
        target,
    }
}

/// Every row, in the order of the table.
const ROWS: &[Row] = &[
    row(
        "doorbells an IOMMU and list, most",
        |f| f.fact("doorbells an IOMMU and list, most"),
        Target::Exactly(1.0),
    ),
    row(
        "waits in series: VT-d, SMMUv3, RISC-V without device TLBs",
        |f| f.fact("waits in series, VT-d and SMMUv3"),
        Target::Exactly(1.0),
    ),
    row(
        "waits in series: RISC-V with device TLBs",
        |f| f.fact("waits in series, RISC-V with device TLBs"),
        Target::AtMost(2.0),
    ),
    row(
        "register reads",
        |f| f.fact("register reads"),
        Target::Exactly(0.0),
    ),
    row("heap calls", |f| f.fact("heap calls"), Target::Exactly(0.0)),
    row(
        "waits with something held",
        |f| f.fact("waits with something held"),
        Target::Exactly(0.0),
    ),
    row(
        "longest time under the lock, ns (a completion takes 500)",
        |f| f.fact("longest time under the lock, ns"),
        Target::Below(500.0),
    ),
    row(
        "range commands beyond the minimum, 1 to 2^20 pages",
        |f| f.fact("range commands beyond the minimum"),
        Target::Exactly(0.0),
    ),
    row(
        "their excess, pages",
        |f| f.fact("excess of range commands, pages"),
        Target::Exactly(0.0),
    ),
    row(
        "worst excess with 2 commands, %",
        |f| f.fact("worst excess with 2 commands, %"),
        Target::Below(100.0),
    ),
    row(
        "mean excess with 2 commands, %",
        |f| f.fact("mean excess with 2 commands, %"),
        Target::AtMost(35.0),
    ),
    row(
        "mean excess with 4 commands, %",
        |f| f.fact("mean excess with 4 commands, %"),
        Target::AtMost(5.0),
    ),
    row(
        "cost of covers / the optimum's",
        |f| f.fact("cover, against the optimum"),
        Target::AtMost(1.10),
    ),
    row(
        "1 CPU, time / floor's",
        |f| ratio(f, "submit/1/ours, VT-d", "submit/1/floor: no lock"),
        Target::AtMost(1.03),
    ),
    row(
        "2 CPUs, throughput / 1 CPU's",
        |f| Some(2.0 * ratio(f, "submit/1/ours, VT-d", "submit/2/ours, VT-d")?),
        Target::AtLeast(1.9),
    ),
    row(
        "2 CPUs, throughput / Linux VT-d model's",
        |f| ratio(f, "submit/2/Linux VT-d model", "submit/2/ours, VT-d"),
        Target::AtLeast(2.4),
    ),
    row(
        "2 CPUs, throughput / Linux SMMUv3 model's",
        |f| ratio(f, "submit/2/Linux SMMUv3 model", "submit/2/ours, SMMUv3"),
        Target::AtLeast(1.05),
    ),
    row(
        "2 CPUs, throughput / Linux RISC-V model's",
        |f| ratio(f, "submit/2/Linux RISC-V model", "submit/2/ours, RISC-V"),
        Target::AtLeast(2.2),
    ),
    row(
        "locked operations, ring alone, 1 command",
        |f| Some(f.count("software", "ours, ring alone")?.locked),
        Target::AtMost(2.0),
    ),
    row(
        "instructions, ring alone, 1 command",
        |f| Some(f.count("software", "ours, ring alone")?.instructions),
        Target::AtMost(130.0),
    ),
    row(
        "syncs an operation, 32 CPUs",
        |f| f.fact("scale/50/32/ours/waits"),
        Target::AtMost(0.35),
    ),
    row(
        "syncs an operation, 64 CPUs",
        |f| f.fact("scale/50/64/ours/waits"),
        Target::AtMost(0.10),
    ),
    row(
        "32 CPUs, throughput / Linux VT-d model's",
        |f| throughput(f, 50, 32),
        Target::AtLeast(8.0),
    ),
    row(
        "64 CPUs, throughput / Linux VT-d model's",
        |f| throughput(f, 50, 64),
        Target::AtLeast(8.0),
    ),
    row(
        "32 CPUs, slow syncs, throughput / Linux VT-d model's",
        |f| throughput(f, 300, 32),
        Target::AtLeast(8.0),
    ),
];

fn ratio(figures: &Figures, above: &str, below: &str) -> Option<f64> {
    Some(figures.fact(above)? / figures.fact(below)?)
}

fn throughput(figures: &Figures, sync: u64, cpus: u64) -> Option<f64> {
    let key = |who| format!("scale/{sync}/{cpus}/{who}/operations a second");
    ratio(figures, &key("ours"), &key("Linux VT-d model"))
}

/// The kinds of IOMMUs of the traces.
const KINDS: [&str; 9] = [
    "VT-d",
    "SMMUv3, ranges",
    "SMMUv3, no ranges",
    "RISC-V, ranges",
    "RISC-V, no ranges",
    "RISC-V, device TLB",
    "VT-d, 4 x 4",
    "SMMUv3, 4 x 4",
    "RISC-V, 4 x 4",
];
const TRACES: [&str; 7] = [
    "munmap, 1 to 4096 pages anywhere",
    "allocator trim, 4 to 512 pages",
    "buffer, 3 to 257 pages anywhere",
    "huge page, 2 MiB aligned",
    "one page",
    "network ring, 64 KiB aligned",
    "munmap, 1 MiB to 1 GiB",
];
const SUBMITTERS: [&str; 8] = [
    "floor: no lock",
    "ours, ring alone",
    "ours, VT-d",
    "ours, SMMUv3",
    "ours, RISC-V",
    "Linux VT-d model",
    "Linux SMMUv3 model",
    "Linux RISC-V model",
];
const CPUS: [&str; 5] = ["8", "16", "32", "64", "128"];
const SCALERS: [&str; 3] = ["ours", "Linux VT-d model", "Linux SMMUv3 model"];

/// Measures, prints and, if asked to, judges; false if a row failed then.
///
/// # Errors
/// When the measuring program does not build or run.
pub fn run(check: bool, quick: bool, docs: bool) -> Result<bool> {
    let program = Program::build()?;
    let mut figures = Figures::default();
    program.invalidation(&mut figures)?;
    let uncounted = callgrind::count(&program.path, Some(NAME), &mut figures).err();
    for group in ["submit", "software"] {
        program.time(group, quick, &mut figures)?;
    }
    let (verdicts, failed) = verdicts(&figures);
    let tables = tables(&figures);
    println!("{}\n\n{}", machine::describe(), verdicts.text());
    for (title, table) in &tables {
        println!("{title}\n{}", table.text());
    }
    if let Some(error) = uncounted {
        println!("not counted: {error:#}");
    }
    if docs {
        let mut section = format!(
            "\nMeasured on: {}.\n\n{}\n",
            machine::describe(),
            verdicts.markdown()
        );
        for (title, table) in &tables {
            section += &format!("### {title}\n\n{}\n", table.markdown());
        }
        for (name, plot) in plots(&figures) {
            section += &format!("![{}](performance/{name}.svg)\n\n", plot.title);
            book::write_plot(name, &plot)?;
        }
        book::write_section(NAME, &section)?;
    }
    if check {
        println!("{failed} of {} rows failed", ROWS.len());
    }
    Ok(!check || failed == 0)
}

fn verdicts(figures: &Figures) -> (Table, usize) {
    let mut table = Table::new(["row", "value", "target", "verdict"]);
    let mut failed = 0;
    for row in ROWS {
        let value = (row.value)(figures);
        let is_met = value.is_some_and(|value| row.target.is_met(value));
        failed += usize::from(!is_met);
        let verdict = match (value, is_met) {
            (None, _) => "not measured",
            (_, true) => "met",
            (_, false) => "MISSED",
        };
        let value = value.map_or_else(String::new, short);
        table.push([
            row.name.to_owned(),
            value,
            row.target.text(),
            verdict.to_owned(),
        ]);
    }
    (table, failed)
}

/// Three digits that mean something.
fn short(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value}")
    } else if value < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

fn tables(figures: &Figures) -> Vec<(&'static str, Table)> {
    vec![
        (
            "Each trace: commands / doorbells / waits in series / register reads / excess pages a page",
            traces(figures),
        ),
        (
            "One page, modelled hardware: nanoseconds an operation of each CPU",
            submission(figures),
        ),
        (
            "8 to 128 CPUs, a simulation: million operations a second (syncs an operation)",
            scaling(figures),
        ),
    ]
}

fn traces(figures: &Figures) -> Table {
    let mut table = Table::new(["IOMMU", "trace", "ours", "Linux, computed"]);
    for (kind, trace) in KINDS
        .iter()
        .flat_map(|kind| TRACES.map(|trace| (kind, trace)))
    {
        let cell = |who: &str| {
            let value = |what| figures.fact(&format!("{kind}/{trace}/{who}/{what}"));
            let names = ["commands", "doorbells", "waits", "reads", "excess"];
            let values: Option<Vec<String>> =
                names.iter().map(|what| value(*what).map(short)).collect();
            values.map_or_else(|| "–".to_owned(), |values| values.join(" / "))
        };
        table.push([
            (*kind).to_owned(),
            trace.to_owned(),
            cell("ours"),
            cell("Linux"),
        ]);
    }
    table
}

fn submission(figures: &Figures) -> Table {
    let head = [
        "",
        "1 CPU, virtual",
        "2 CPUs, virtual",
        "1 CPU, real",
        "2 CPUs, real",
        "software, real",
        "instructions",
        "locked",
    ];
    let mut table = Table::new(head);
    for name in SUBMITTERS {
        let fact = |cpus| figures.fact(&format!("submit/{cpus}/{name}"));
        let real = |group| figures.samples(group, name).and_then(median);
        let times = [
            fact(1),
            fact(2),
            real("submit, 1 CPU"),
            real("submit, 2 CPUs"),
            real("software"),
        ];
        let count = figures.count("software", name);
        let counts = [
            count.map(|count| count.instructions),
            count.map(|count| count.locked),
        ];
        let times = times.map(|time| time.map_or_else(String::new, nanoseconds));
        let counts = counts.map(|count| count.map_or_else(String::new, short));
        let name = std::iter::once(name.to_owned());
        table.push(name.chain(times).chain(counts));
    }
    table
}

fn scaling(figures: &Figures) -> Table {
    let heads = CPUS.map(|cpus| format!("{cpus} CPUs"));
    let mut table = Table::new(std::iter::once(String::new()).chain(heads));
    for (sync, who) in [50, 300]
        .into_iter()
        .flat_map(|sync| SCALERS.map(|who| (sync, who)))
    {
        let cell = |cpus: &str| {
            let fact = |what| figures.fact(&format!("scale/{sync}/{cpus}/{who}/{what}"));
            let both = fact("operations a second").zip(fact("waits"));
            both.map_or_else(String::new, |(operations, waits)| {
                format!("{:.2} ({waits:.2})", operations / 1e6)
            })
        };
        let name = format!("{who}, a sync takes {sync} ns");
        table.push(std::iter::once(name).chain(CPUS.map(cell)));
    }
    table
}

fn plots(figures: &Figures) -> Vec<(&'static str, Plot<'_>)> {
    let submit = |name| {
        let fact = |cpus| figures.fact(&format!("submit/{cpus}/{name}"));
        (name, vec![fact(1), fact(2)])
    };
    let scale = |who| {
        let nanoseconds = |cpus: &str| {
            let key = format!("scale/50/{cpus}/{who}/operations a second");
            figures.fact(&key).map(|operations| 1e9 / operations)
        };
        (who, CPUS.map(nanoseconds).to_vec())
    };
    vec![
        (
            "submit",
            Plot {
                title: "One page, modelled hardware, virtual time: an operation of each CPU",
                groups: vec!["1 CPU", "2 CPUs"],
                cases: SUBMITTERS.map(submit).to_vec(),
            },
        ),
        (
            "scaling",
            Plot {
                title: "So many CPUs, a simulation: time between two completed operations",
                groups: CPUS.to_vec(),
                cases: SCALERS.map(scale).to_vec(),
            },
        ),
    ]
}
