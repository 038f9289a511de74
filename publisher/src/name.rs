//! What a publisher is called.

use feed::message::NAME_BYTES_MAX;
use std::fmt;
use std::str::FromStr;

/// A publisher's name: 1 to [`NAME_BYTES_MAX`] bytes without control characters and white space, not
/// beginning with `$`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty, or too long.
    #[error("{0} bytes, not 1 to {NAME_BYTES_MAX}")]
    Length(usize),
    /// It begins as our own lines do.
    #[error("it begins with $")]
    Reserved,
    /// It would not fit into a field of a line.
    #[error("it has white space, or a character that controls something")]
    Control,
}

impl Name {
    /// The host's name, as far as it can be one.
    pub fn of_host() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        host.parse().unwrap_or_else(|_| Self("publisher".to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if !(1..=NAME_BYTES_MAX).contains(&text.len()) {
            return Err(NameError::Length(text.len()));
        }
        if text.starts_with('$') {
            return Err(NameError::Reserved);
        }
        if text.chars().any(|char| char.is_control() || char.is_whitespace() || is_bidirectional_control(char)) {
            return Err(NameError::Control);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Unicode's marks, embeddings, overrides and isolates, which turn a line around (UAX #9).
fn is_bidirectional_control(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_limits() {
        let parse = |text: &str| text.parse::<Name>().map(|name| name.to_string());
        assert_eq!(parse("publisher-1"), Ok("publisher-1".to_owned()));
        assert_eq!(parse(""), Err(NameError::Length(0)));
        assert_eq!(parse(&"n".repeat(65)), Err(NameError::Length(65)));
        assert_eq!(parse("$downpipe"), Err(NameError::Reserved));
        for text in ["a\nb", " ", "a b", "a\u{202e}b", "a\u{2028}b"] {
            assert_eq!(parse(text), Err(NameError::Control), "{text:?}");
        }
    }
}
