//! A message as a line, in one of three formats.
//!
//! ```text
//! text     2026-11-21T08:03:53.861943Z publisher-1/downcase lower case of HELLO is hello
//! json     {"observed_timestamp":"2026-11-21T08:03:53.861943Z","source":…,"topic":…,"body":…}
//! article  INFO:root:lower case of HELLO is hello   - 2026-11-21 08:03
//! ```
//!
//! Times are those of receipt, in UTC. `article` is what the Python subscriber of the article wrote,
//! byte for byte where nothing needs an escape, and so shows neither source nor topic.

use super::escape::{Style, escape, escape_topic};
use chrono::{DateTime, Utc};
use std::io::Write;
use std::sync::Arc;

/// The topic of a message that names none.
const NO_TOPIC: &[u8] = b"-";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Time, source and topic, body: for people and for `cut`.
    Text,
    /// One JSON object a line: for programs.
    Json,
    /// As the article's Python subscriber wrote it.
    Article,
}

impl Format {
    /// Every format by its name.
    pub const ALL: [(&'static str, Self); 3] = [("text", Self::Text), ("json", Self::Json), ("article", Self::Article)];
}

/// What a plain source delivered, to be written as one line.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// When it was received.
    pub(crate) received: DateTime<Utc>,
    /// The name of its source.
    pub(crate) source: Arc<str>,
    /// What it is about, if it says so.
    pub(crate) topic: Option<Box<[u8]>>,
    /// What it says.
    pub(crate) body: Box<[u8]>,
}

/// Renders messages in one format. It keeps the last second it wrote: messages come in bursts.
pub(crate) struct Renderer {
    format: Format,
    second: i64,
    second_text: String,
}

impl Renderer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, second: i64::MIN, second_text: String::new() }
    }

    /// Appends the message to `out`, as one line with its newline.
    pub(crate) fn render(&mut self, message: &Message, out: &mut Vec<u8>) {
        let topic = message.topic.as_deref().unwrap_or(NO_TOPIC);
        match self.format {
            Format::Text => {
                self.time(message.received, out);
                out.push(b' ');
                escape(message.source.as_bytes(), Style::Field, out);
                out.push(b'/');
                escape_topic(topic, Style::Field, out);
                out.push(b' ');
                escape(&message.body, Style::Text, out);
            }
            Format::Json => {
                out.extend(b"{\"observed_timestamp\":\"");
                self.time(message.received, out);
                out.extend(b"\",\"source\":\"");
                escape(message.source.as_bytes(), Style::Json, out);
                out.extend(b"\",\"topic\":\"");
                escape_topic(topic, Style::Json, out);
                out.extend(b"\",\"body\":\"");
                escape(&message.body, Style::Json, out);
                out.extend(b"\"}");
            }
            Format::Article => {
                out.extend(b"INFO:root:");
                escape(&message.body, Style::Article, out);
                out.extend(b"   - ");
                self.minute(message.received, out);
            }
        }
        out.push(b'\n');
    }

    /// RFC 3339 with microseconds, in UTC.
    fn time(&mut self, time: DateTime<Utc>, out: &mut Vec<u8>) {
        self.keep_second(time);
        out.extend_from_slice(self.second_text.as_bytes());
        // A leap second counts on past 999,999.
        write!(out, ".{:06}Z", time.timestamp_subsec_micros().min(999_999)).expect("a vector can be written to");
    }

    fn minute(&mut self, time: DateTime<Utc>, out: &mut Vec<u8>) {
        self.keep_second(time);
        let (date, clock) = self.second_text.split_once('T').expect("the format has a T");
        out.extend_from_slice(date.as_bytes());
        out.push(b' ');
        out.extend_from_slice(&clock.as_bytes()[..5]);
    }

    fn keep_second(&mut self, time: DateTime<Utc>) {
        if time.timestamp() != self.second {
            self.second = time.timestamp();
            self.second_text = time.format("%Y-%m-%dT%H:%M:%S").to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(format: Format, topic: Option<&str>, body: &str) -> String {
        let message = Message {
            received: "2026-11-21T08:03:53.000043Z".parse().unwrap(),
            source: "pub 1/a".into(),
            topic: topic.map(|topic| topic.as_bytes().into()),
            body: body.as_bytes().into(),
        };
        let mut out = Vec::new();
        Renderer::new(format).render(&message, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_formats_are_as_documented() {
        let (topic, body) = (Some("downcase"), "lower case of \"A\\\" is \"a\\\"");
        assert_eq!(
            rendered(Format::Text, topic, body),
            "2026-11-21T08:03:53.000043Z pub\\x201\\x2fa/downcase lower case of \"A\\\\\" is \"a\\\\\"\n"
        );
        assert_eq!(
            rendered(Format::Json, topic, body),
            "{\"observed_timestamp\":\"2026-11-21T08:03:53.000043Z\",\"source\":\"pub 1/a\",\"topic\":\"downcase\",\
             \"body\":\"lower case of \\\"A\\\\\\\" is \\\"a\\\\\\\"\"}\n"
        );
        assert_eq!(
            rendered(Format::Article, topic, body),
            "INFO:root:lower case of \"A\\\" is \"a\\\"   - 2026-11-21 08:03\n"
        );
    }

    #[test]
    fn a_message_without_a_topic_has_a_dash() {
        assert!(rendered(Format::Text, None, "body").ends_with("/- body\n"));
        assert!(rendered(Format::Json, None, "").ends_with("\"topic\":\"-\",\"body\":\"\"}\n"));
    }

    #[test]
    fn a_foreign_topic_cannot_pass_for_ours() {
        assert!(rendered(Format::Text, Some("$downpipe/lost a"), "b").ends_with("/\\x24downpipe\\x2flost\\x20a b\n"));
        assert!(rendered(Format::Json, Some("$lost"), "b").contains(r#""topic":"\u0024lost""#));
    }

    #[test]
    fn each_message_has_its_own_time() {
        let mut renderer = Renderer::new(Format::Text);
        let mut out = Vec::new();
        for time in ["2026-12-31T23:59:59.999999Z", "2027-01-01T00:00:00Z", "2026-12-31T23:59:59.5Z"] {
            let received = time.parse().unwrap();
            renderer.render(&Message { received, source: "s".into(), topic: None, body: [].into() }, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let times: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(
            times,
            ["2026-12-31T23:59:59.999999Z", "2027-01-01T00:00:00.000000Z", "2026-12-31T23:59:59.500000Z"]
        );
    }
}
