//! Records, messages and statements as lines, in one of three formats.
//!
//! ```text
//! text     2026-11-21T08:03:53.861943Z publisher-1/downcase lower case of HELLO is hello
//! json     {"timestamp":…,"observed_timestamp":…,"source":…,"topic":…,"seq":…,"body":…}
//! article  INFO:root:lower case of HELLO is hello   - 2026-11-21 08:03
//! ```
//!
//! Times are in UTC. Those of text and article are of receipt, or with [`Stamp::Published`] of publishing,
//! where that is known; JSON has both, `timestamp` being that of publishing, which messages of plain sources
//! do not have, nor a number. `article` is what the Python subscriber of the article wrote, byte for byte
//! where nothing needs an escape, and so shows neither source nor topic.
//!
//! What the log says of itself:
//!
//! ```text
//! text     TIME $downpipe/lost source=publisher-1 stream=UUID from=7 to=41 records=34 reason=retention
//! json     {"observed_timestamp":…,"source":"$downpipe","topic":"lost","publisher":"publisher-1","stream":…,"from":7,…}
//! article  WARNING:downpipe:lost source=publisher-1 stream=UUID …   - 2026-11-21 08:03
//! ```
//!
//! | topic | keys |
//! |---|---|
//! | `lost` | source, stream, from, to, records, reason: `retention` or `damage` |
//! | `fork` | source, stream, from: where the log stood, to: where it goes on in the other history |
//! | `replaced` | source, stream, by: the stream that is there now, from: where the log stood, to: the highest that was heard of, records: how many of them are lost |
//! | `moved` | file: the number of the file before, reason: `moved`, `shorter`, `damaged`, `adopted` |
//!
//! `to` is the number behind the last one. In JSON `source` is taken, and the publisher's name is under
//! `publisher`.

use super::escape::{Style, escape, escape_topic};
use super::index::{Aside, Entry, Kind};
use super::positions::{Positions, replacement};
use chrono::{DateTime, Utc};
use feed::Block;
use std::sync::Arc;

/// The topic of a message that names none.
const NO_TOPIC: &[u8] = b"-";
/// The detail of a lost entry whose records the disk of the publisher did not keep.
pub(crate) const LOST_BY_DAMAGE: u32 = 2;
/// The same of one whose records the publisher has removed.
pub(crate) const LOST_BY_RETENTION: u32 = 1;

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

/// Which time a line of text or article shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// When it was received.
    Received,
    /// When it was published, if that is known.
    Published,
}

impl Stamp {
    /// Each by its name.
    pub const ALL: [(&'static str, Self); 2] = [("received", Self::Received), ("published", Self::Published)];
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

/// Renders lines in one format. It keeps the last second it wrote: messages come in bursts.
pub(crate) struct Renderer {
    format: Format,
    stamp: Stamp,
    second: i64,
    second_text: String,
    /// What the lines of a block have in common.
    prefix: Vec<u8>,
}

impl Renderer {
    pub(crate) fn new(format: Format, stamp: Stamp) -> Self {
        Self { format, stamp, second: i64::MIN, second_text: String::new(), prefix: Vec::new() }
    }

    /// Appends the message of a plain source to `out`, as one line with its newline.
    pub(crate) fn message(&mut self, message: &Message, out: &mut Vec<u8>) {
        let topic = message.topic.as_deref().unwrap_or(NO_TOPIC);
        let source = message.source.as_bytes();
        match self.format {
            Format::Text => {
                self.time(message.received, out);
                out.push(b' ');
                escape_topic(source, Style::Field, out);
                out.push(b'/');
                text_tail(topic, &message.body, out);
            }
            Format::Json => {
                out.extend_from_slice(b"{\"observed_timestamp\":\"");
                self.time(message.received, out);
                out.extend_from_slice(b"\",\"source\":\"");
                escape_topic(source, Style::Json, out);
                json_topic(topic, out);
                json_body(&message.body, out);
            }
            Format::Article => self.article(&message.body, message.received, out),
        }
        out.push(b'\n');
    }

    /// Appends the records of a block to `out`, a line each. `name` is the publisher's. The same block, time
    /// and options make the same bytes.
    ///
    /// What the lines have in common is written once for all that have one topic.
    pub(crate) fn block(&mut self, block: &Block, name: &str, received: DateTime<Utc>, out: &mut Vec<u8>) {
        let mut prefix = std::mem::take(&mut self.prefix);
        prefix.clear();
        self.common(name, received, &mut prefix);
        let (common, mut topic) = (prefix.len(), None);
        for record in block.records() {
            if topic != Some(record.topic) {
                topic = Some(record.topic);
                prefix.truncate(common);
                self.topic(record.topic, &mut prefix);
            }
            let published = || DateTime::from_timestamp_nanos(record.time_ns);
            match (self.format, self.stamp) {
                (Format::Text, stamp) => {
                    if stamp == Stamp::Published {
                        self.time(published(), out);
                    }
                    out.extend_from_slice(&prefix);
                    escape(record.body, Style::Text, out);
                }
                (Format::Json, _) => {
                    out.extend_from_slice(b"{\"timestamp\":\"");
                    self.time(published(), out);
                    out.extend_from_slice(&prefix);
                    out.extend_from_slice(itoa::Buffer::new().format(record.sequence).as_bytes());
                    out.extend_from_slice(b",\"body\":\"");
                    escape(record.body, Style::Json, out);
                    out.extend_from_slice(b"\"}");
                }
                (Format::Article, Stamp::Received) => self.article(record.body, received, out),
                (Format::Article, Stamp::Published) => self.article(record.body, published(), out),
            }
            out.push(b'\n');
        }
        self.prefix = prefix;
    }

    /// What the lines of a block have in common in front of the topic; in JSON behind the time of publishing.
    fn common(&mut self, name: &str, received: DateTime<Utc>, prefix: &mut Vec<u8>) {
        match self.format {
            Format::Text => {
                if self.stamp == Stamp::Received {
                    self.time(received, prefix);
                }
                prefix.push(b' ');
                escape_topic(name.as_bytes(), Style::Field, prefix);
                prefix.push(b'/');
            }
            Format::Json => {
                prefix.extend_from_slice(b"\",\"observed_timestamp\":\"");
                self.time(received, prefix);
                prefix.extend_from_slice(b"\",\"source\":\"");
                escape_topic(name.as_bytes(), Style::Json, prefix);
            }
            Format::Article => {}
        }
    }

    /// The topic, and what stands between it and the body, in JSON the sequence.
    fn topic(&self, topic: &str, prefix: &mut Vec<u8>) {
        match self.format {
            Format::Text => {
                escape_topic(topic.as_bytes(), Style::Field, prefix);
                prefix.push(b' ');
            }
            Format::Json => {
                json_topic(topic.as_bytes(), prefix);
                prefix.extend_from_slice(b"\",\"seq\":");
            }
            Format::Article => {}
        }
    }

    /// The article's line, without its newline.
    fn article(&mut self, body: &[u8], time: DateTime<Utc>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"INFO:root:");
        escape(body, Style::Article, out);
        out.extend_from_slice(b"   - ");
        self.minute(time, out);
    }

    /// RFC 3339 with microseconds, in UTC.
    fn time(&mut self, time: DateTime<Utc>, out: &mut Vec<u8>) {
        self.keep_second(time);
        out.extend_from_slice(self.second_text.as_bytes());
        // A leap second counts on past 999,999.
        let mut micros = time.timestamp_subsec_micros().min(999_999);
        let mut text = *b".000000Z";
        for digit in text[1..7].iter_mut().rev() {
            *digit += (micros % 10) as u8;
            micros /= 10;
        }
        out.extend_from_slice(&text);
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

fn text_tail(topic: &[u8], body: &[u8], out: &mut Vec<u8>) {
    escape_topic(topic, Style::Field, out);
    out.push(b' ');
    escape(body, Style::Text, out);
}

fn json_topic(topic: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\",\"topic\":\"");
    escape_topic(topic, Style::Json, out);
}

fn json_body(body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\",\"body\":\"");
    escape(body, Style::Json, out);
    out.extend_from_slice(b"\"}");
}

/// A value of a statement.
enum Value {
    Text(String),
    Number(u64),
}

/// Appends the line that an entry of the log's own stands for to `out`; see the [module](self). Of an entry
/// that is of another kind, nothing. All that it says is in the entry, but for the publisher's name.
pub(crate) fn statement(format: Format, entry: &Entry, positions: &Positions, out: &mut Vec<u8>) {
    let Some((topic, fields)) = said(entry, positions) else { return };
    let mut renderer = Renderer::new(format, Stamp::Received);
    let time = DateTime::from_timestamp_nanos(entry.time_ns);
    match format {
        Format::Text => {
            renderer.time(time, out);
            out.extend_from_slice(format!(" $downpipe/{topic}").as_bytes());
            pairs(&fields, out);
        }
        Format::Json => {
            out.extend_from_slice(b"{\"observed_timestamp\":\"");
            renderer.time(time, out);
            out.extend_from_slice(format!("\",\"source\":\"$downpipe\",\"topic\":\"{topic}\"").as_bytes());
            for (key, value) in &fields {
                let key = if *key == "source" { "publisher" } else { key };
                match value {
                    Value::Number(number) => out.extend_from_slice(format!(",\"{key}\":{number}").as_bytes()),
                    Value::Text(text) => {
                        out.extend_from_slice(format!(",\"{key}\":\"").as_bytes());
                        escape(text.as_bytes(), Style::Json, out);
                        out.push(b'"');
                    }
                }
            }
            out.push(b'}');
        }
        Format::Article => {
            out.extend_from_slice(format!("WARNING:downpipe:{topic}").as_bytes());
            pairs(&fields, out);
            out.extend_from_slice(b"   - ");
            renderer.minute(time, out);
        }
    }
    out.push(b'\n');
}

/// The topic and the fields of an entry's line.
fn said(entry: &Entry, positions: &Positions) -> Option<(&'static str, Vec<(&'static str, Value)>)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let known = positions.get(entry.stream).map(|standing| standing.name.as_str());
    let name = || ("source", text(known.unwrap_or("?")));
    let stream = || ("stream", text(&entry.stream.to_string()));
    let (first, next) = (entry.first, entry.next.next);
    let range = |to: u64| [("from", Value::Number(first)), ("to", Value::Number(to))];
    Some(match entry.kind {
        Kind::Lost => {
            let records = ("records", Value::Number(next.saturating_sub(first)));
            let reason = ("reason", text(if entry.detail == LOST_BY_DAMAGE { "damage" } else { "retention" }));
            ("lost", [name(), stream()].into_iter().chain(range(next)).chain([records, reason]).collect())
        }
        Kind::Fork => ("fork", [name(), stream()].into_iter().chain(range(next)).collect()),
        Kind::Replaced => {
            let by = replacement(entry).map(|(new, ..)| new).unwrap_or_default();
            let to = next.max(first);
            let records = ("records", Value::Number(to - first));
            let by = ("by", text(&by.to_string()));
            ("replaced", [name(), stream(), by].into_iter().chain(range(to)).chain([records]).collect())
        }
        Kind::Moved => {
            let aside = Aside::ALL.into_iter().find(|aside| *aside as u32 == entry.detail);
            let reason = ("reason", text(aside.map_or("moved", Aside::word)));
            ("moved", vec![("file", Value::Number(first)), reason])
        }
        _ => return None,
    })
}

fn pairs(fields: &[(&str, Value)], out: &mut Vec<u8>) {
    for (key, value) in fields {
        out.extend_from_slice(format!(" {key}=").as_bytes());
        match value {
            Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Text(text) => escape(text.as_bytes(), Style::Field, out),
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
        Renderer::new(format, Stamp::Received).message(&message, &mut out);
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
        let mut renderer = Renderer::new(Format::Text, Stamp::Received);
        let mut out = Vec::new();
        for time in ["2026-12-31T23:59:59.999999Z", "2027-01-01T00:00:00Z", "2026-12-31T23:59:59.5Z"] {
            let received = time.parse().unwrap();
            renderer.message(&Message { received, source: "s".into(), topic: None, body: [].into() }, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let times: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(
            times,
            ["2026-12-31T23:59:59.999999Z", "2027-01-01T00:00:00.000000Z", "2026-12-31T23:59:59.500000Z"]
        );
    }
}
