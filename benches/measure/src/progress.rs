//! One line on a terminal that says what is being measured. Where stderr is no terminal it says nothing, and it
//! never writes to stdout, which has the tables.

use std::io::{IsTerminal, Write, stderr};

/// Says what is being measured, in place of what was said before.
pub fn say(what: &str) {
    write(&format!("\r\x1b[K{what}"));
}

/// Makes room for a row of a table.
pub fn clear() {
    write("\r\x1b[K");
}

fn write(text: &str) {
    if stderr().is_terminal() {
        // A terminal that is gone is no reason to stop.
        let _ = stderr().write_all(text.as_bytes());
    }
}
