//! The tables and plots in the book.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::plot::Plot;
use super::{FAMILIES, Report};
use crate::workspace;

const BEGIN: &str = "<!-- begin: cargo xtask bench notifier --docs -->\n";
const END: &str = "<!-- end -->\n";

/// Replaces what stands between the markers of `performance.md`, and the plots beside it.
///
/// # Errors
/// When the page or its markers are missing, or something cannot be written.
pub fn write(report: &Report<'_>) -> Result<()> {
    let folder = workspace::root().join("docs/src");
    let page = folder.join("performance.md");
    let text =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = between_markers(&text, &section(report))?;
    fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))?;

    let plots = folder.join("performance");
    fs::create_dir_all(&plots).with_context(|| format!("cannot create {}", plots.display()))?;
    for family in FAMILIES {
        let plot = Plot {
            title: family.title,
            groups: family.groups.iter().map(|(_, head)| *head).collect(),
            cases: report.medians(family),
        };
        let path = plots.join(format!("{}.svg", family.name));
        fs::write(&path, plot.svg()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn between_markers(page: &str, section: &str) -> Result<String> {
    let (before, rest) = page
        .split_once(BEGIN)
        .with_context(|| format!("the page has no line {BEGIN}"))?;
    let after = rest.split_once(END).map(|(_, after)| after);
    ensure!(after.is_some(), "the page has no line {END}");
    Ok(format!(
        "{before}{BEGIN}{section}{END}{}",
        after.unwrap_or_default()
    ))
}

fn section(report: &Report<'_>) -> String {
    let mut section = format!(
        "\nMeasured on: {}.\n\n{}\n",
        report.machine,
        report.verdicts().markdown()
    );
    for family in FAMILIES {
        section += &format!(
            "### {title}\n\n![{title}: medians of every case](performance/{name}.svg)\n\n{table}\n",
            title = family.title,
            name = family.name,
            table = report.times(family).markdown()
        );
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        let expected = format!("a\n{BEGIN}new\n{END}b\n");
        assert_eq!(between_markers(&page, "new\n").unwrap(), expected);
        assert!(between_markers("a\n", "new\n").is_err());
    }
}
