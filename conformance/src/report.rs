//! The matrix: cases by rigs.

use shootdown_conformance::cases::Case;
use shootdown_conformance::rig::Maker;
use shootdown_conformance::run::Cell;
use std::collections::BTreeMap;

/// Prints it; whether nothing is red.
pub fn matrix(cases: &[&'static Case], makers: &[&'static dyn Maker], cells: &[Vec<Cell>]) -> bool {
    let width = cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
    let names: Vec<&str> = makers.iter().map(|maker| maker.name()).collect();
    println!("{:<width$}  {}", "", names.join("  "));
    let mut counts = [0; 3];
    let mut skips: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut reds = Vec::new();
    for (case, row) in cases.iter().zip(cells) {
        let mut line = format!("{:<width$}", case.name);
        for (name, cell) in names.iter().zip(row) {
            let (word, kind) = match cell {
                Cell::Green => ("green", 0),
                Cell::Skip(why) => {
                    skips.entry((case.name, why)).or_default().push(name);
                    ("skip", 1)
                }
                Cell::Red(what) => {
                    reds.push((case, name, what));
                    ("RED", 2)
                }
            };
            counts[kind] += 1;
            line += &format!("  {word:<width$}", width = name.len());
        }
        println!("{}", line.trim_end());
    }
    for ((case, why), rigs) in skips {
        println!("skip {case} on {}: {why}", rigs.join(", "));
    }
    for (case, name, what) in &reds {
        println!("RED {} on {name}: {what}", case.name);
        println!("  shows: {}", case.about);
    }
    let [green, skip, red] = counts;
    println!("{green} green, {skip} skipped, {red} red");
    red == 0 && green > 0
}
