//! Dot plots as SVG: a line a case, a dot a group, on a logarithmic axis of nanoseconds.

use std::fmt::Write;

/// A plot.
pub struct Plot<'a> {
    /// What it shows.
    pub title: &'a str,
    /// The groups, in the order of each case's values.
    pub groups: Vec<&'a str>,
    /// Each case with its values in nanoseconds.
    pub cases: Vec<(&'a str, Vec<Option<f64>>)>,
}

const WIDTH: f64 = 760.0;
/// Where the axis begins and ends.
const LEFT: f64 = 220.0;
const RIGHT: f64 = 730.0;
/// Where the first line is, and how far the next.
const TOP: f64 = 76.0;
const STEP: f64 = 24.0;
/// Told apart by lightness too.
const COLOURS: [&str; 5] = ["#08306b", "#2171b5", "#6baed6", "#fd8d3c", "#a63603"];

impl Plot<'_> {
    /// The plot as an SVG document.
    pub fn svg(&self) -> String {
        let bottom = TOP + STEP * self.cases.len() as f64;
        let height = bottom + 44.0;
        let axis = Axis::over(self.cases.iter().flat_map(|(_, values)| values).flatten());
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">
<title>{title}</title>
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="16" y="24" font-size="15" font-weight="bold">{title}</text>
"##,
            title = escape(self.title)
        );
        self.legend(&mut svg);
        axis.draw(&mut svg, bottom);
        for (index, (case, values)) in self.cases.iter().enumerate() {
            let y = TOP + STEP * (index as f64 + 0.5);
            line(&mut svg, &axis, case, values, y);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        for (index, group) in self.groups.iter().enumerate() {
            let x = LEFT + 104.0 * index as f64;
            push(
                svg,
                format_args!(
                    r#"<circle cx="{x}" cy="48" r="5" fill="{}"/><text x="{}" y="52">{}</text>"#,
                    COLOURS[index % COLOURS.len()],
                    x + 10.0,
                    escape(group)
                ),
            );
        }
    }
}

fn line(svg: &mut String, axis: &Axis, case: &str, values: &[Option<f64>], y: f64) {
    push(
        svg,
        format_args!(
            r##"<text x="{}" y="{}" text-anchor="end">{}</text><line x1="{LEFT}" y1="{y}" x2="{RIGHT}" y2="{y}" stroke="#dddddd"/>"##,
            LEFT - 10.0,
            y + 4.0,
            escape(case)
        ),
    );
    for (index, value) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        push(
            svg,
            format_args!(
                r#"<circle cx="{:.1}" cy="{y}" r="5" fill="{}"><title>{}</title></circle>"#,
                axis.x(*value),
                COLOURS[index % COLOURS.len()],
                super::rows::nanoseconds(*value)
            ),
        );
    }
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a string takes everything");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Powers of ten from one to another.
struct Axis {
    first: i32,
    last: i32,
}

impl Axis {
    fn over<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let exponents = values.map(|value| value.log10());
        let (least, most) = exponents.fold((f64::MAX, f64::MIN), |(least, most), exponent| {
            (least.min(exponent), most.max(exponent))
        });
        if least > most {
            return Self { first: 0, last: 1 };
        }
        let first = least.floor() as i32;
        Self {
            first,
            last: (most.ceil() as i32).max(first + 1),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        LEFT + part * (RIGHT - LEFT)
    }

    fn draw(&self, svg: &mut String, bottom: f64) {
        for exponent in self.first..=self.last {
            let value = 10_f64.powi(exponent);
            let x = self.x(value);
            push(
                svg,
                format_args!(
                    r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}" stroke="#bbbbbb"/><text x="{x:.1}" y="{}" text-anchor="middle">{value}</text>"##,
                    bottom + 16.0
                ),
            );
        }
        push(
            svg,
            format_args!(
                r#"<text x="{}" y="{}" text-anchor="middle">median, nanoseconds</text>"#,
                (LEFT + RIGHT) / 2.0,
                bottom + 34.0
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_placed_on_a_logarithmic_axis() {
        let axis = Axis::over([0.5, 30.0].iter());
        assert_eq!((axis.first, axis.last), (-1, 2));
        assert_eq!(axis.x(0.1), LEFT);
        assert_eq!(axis.x(100.0), RIGHT);
        assert_eq!(axis.x(1.0), LEFT + (RIGHT - LEFT) / 3.0);
    }
}
