//! Tables for people: aligned, short, ratios first; the same lines are Markdown.

use crate::progress;

/// A table whose rows are printed as they come.
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Prints the title and the head. The first column is as wide as `first`, in characters; the others as their names.
    pub fn new(title: &str, first: usize, columns: &[&str]) -> Self {
        let mut widths: Vec<_> = columns.iter().map(|column| column.chars().count().max(8)).collect();
        widths[0] = widths[0].max(first);
        let table = Self { widths };
        progress::clear();
        println!("\n### {title}\n");
        table.row(columns);
        let rules: Vec<_> = table.widths.iter().enumerate().map(|(at, width)| rule(*width, at > 0)).collect();
        println!("|{}|", rules.join("|"));
        table
    }

    /// Prints a row: the first cell to the left, the others to the right.
    pub fn row<S: AsRef<str>>(&self, cells: &[S]) {
        progress::clear();
        let cell = |(at, width): (usize, &usize)| {
            let text = cells.get(at).map_or("", AsRef::as_ref);
            if at == 0 { format!(" {text:<width$} ") } else { format!(" {text:>width$} ") }
        };
        let cells: Vec<_> = self.widths.iter().enumerate().map(cell).collect();
        println!("|{}|", cells.join("|"));
    }
}

fn rule(width: usize, is_right: bool) -> String {
    let dashes = "-".repeat(width + 1);
    if is_right { format!("{dashes}:") } else { format!("{dashes}-") }
}

/// How often one figure goes into another.
pub fn ratio(part: f64, of: f64) -> String {
    match part / of {
        ratio if !ratio.is_finite() => "-".to_owned(),
        ratio if ratio >= 100.0 => format!("{ratio:.0}"),
        ratio if ratio >= 10.0 => format!("{ratio:.1}"),
        ratio => format!("{ratio:.2}"),
    }
}

/// A time of seconds, in milliseconds.
pub fn millis(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1e3)
}

/// A number per second, in thousands or millions.
pub fn rate(per_second: f64) -> String {
    match per_second {
        _ if per_second >= 1e6 => format!("{:.2} M/s", per_second / 1e6),
        _ if per_second >= 1e4 => format!("{:.0} k/s", per_second / 1e3),
        _ => format!("{per_second:.0} /s"),
    }
}

/// Bytes per second, in MB.
pub fn bandwidth(bytes_per_second: f64) -> String {
    format!("{:.0} MB/s", bytes_per_second / 1e6)
}

/// A number of bytes, in MiB.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
