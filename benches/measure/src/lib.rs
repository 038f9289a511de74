//! What the benchmarks have in common: processes that are measured ([`process`]), the ends of the pipeline
//! that are not the product's own ([`roles`]), records that can be counted ([`records`]), HTTP clients ([`load`]), what
//! the disk can do ([`disk`]), tables ([`table`]) and what is said meanwhile ([`progress`]).
//!
//! Nothing here asserts a time. Whatever goes wrong ends the benchmark with a panic that says what.

pub mod disk;
pub mod load;
pub mod process;
pub mod progress;
pub mod records;
pub mod roles;
pub mod table;

/// The middle of several values; of an even number of them, the upper one of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The value that `part` of all are at most: 0.99 for the 99th percentile. The values are to be sorted.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
