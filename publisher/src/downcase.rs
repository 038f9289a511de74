//! What `/downcase` makes of its query: pure, so that it can be tested byte by byte.
//!
//! The query is read as HTML forms write it (`application/x-www-form-urlencoded`, WHATWG URL
//! standard, 5.1), but strictly where that standard is lenient: text that is not UTF-8 is refused
//! instead of repaired, since what is published should be what was sent.

use percent_encoding::percent_decode;
use std::borrow::Cow;

/// The longest `param`, in bytes, decoded.
pub(crate) const PARAM_BYTES_MAX: usize = 8192;

const PARAM: &str = "param";

/// Why a query has no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("the query parameter `{PARAM}` is missing, as in /downcase?{PARAM}=HELLO")]
    Missing,
    #[error("the query parameter `{PARAM}` is not UTF-8")]
    NotUtf8,
    #[error("the query parameter `{PARAM}` is {0} bytes long, more than {PARAM_BYTES_MAX}")]
    TooLong(usize),
}

/// The answer to a query string (without its `?`): both what the client gets and what is published.
pub(crate) fn answer(query: &str) -> Result<String, QueryError> {
    let text = param(query)?;
    Ok(format!("lower case of {text} is {}", text.to_lowercase()))
}

/// The first parameter called `param`.
fn param(query: &str) -> Result<String, QueryError> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) =
        pairs.into_iter().find(|(name, _)| *decode(name) == *PARAM.as_bytes()).ok_or(QueryError::Missing)?;
    let value = decode(value);
    if value.len() > PARAM_BYTES_MAX {
        return Err(QueryError::TooLong(value.len()));
    }
    String::from_utf8(value.into_owned()).map_err(|_| QueryError::NotUtf8)
}

/// `+` is a space, `%hh` a byte; a `%` that two hexadecimal digits do not follow stays as it is.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode(spaced.as_bytes()).collect::<Vec<u8>>().into();
    }
    percent_decode(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_answer_repeats_the_text_and_lowers_it() {
        for (query, expected) in [
            ("param=HELLO", "lower case of HELLO is hello"),
            ("param=", "lower case of  is "),
            ("param", "lower case of  is "),
            ("param=A+B%2Bc", "lower case of A B+c is a b+c"),
            ("param=%C3%84%CE%A3", "lower case of ÄΣ is äς"),
            ("param=100%&param=NO", "lower case of 100% is 100%"),
            ("param=%zz%4", "lower case of %zz%4 is %zz%4"),
            ("x=1&param=A=B&param=C", "lower case of A=B is a=b"),
            ("%70aram=X", "lower case of X is x"),
            ("param=a%0Ab%00", "lower case of a\nb\0 is a\nb\0"),
        ] {
            assert_eq!(answer(query).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn what_has_no_answer_is_refused_by_its_reason() {
        for query in ["", "Param=x", "params=x", "x&y=param", "&&", "=param"] {
            assert_eq!(answer(query), Err(QueryError::Missing), "{query}");
        }
        for query in ["param=%ff", "param=a%C3", "param=%ED%A0%80"] {
            assert_eq!(answer(query), Err(QueryError::NotUtf8), "{query}");
        }
    }

    #[test]
    fn the_limit_counts_decoded_bytes() {
        let longest = "%41".repeat(PARAM_BYTES_MAX);
        assert!(answer(&format!("param={longest}")).is_ok());
        assert_eq!(answer(&format!("param={longest}A")), Err(QueryError::TooLong(PARAM_BYTES_MAX + 1)));
    }

    proptest! {
        #[test]
        fn any_text_comes_back_however_it_was_encoded(text in any::<String>(), encode_all in any::<bool>()) {
            let mut query = String::from("param=");
            for byte in text.bytes() {
                if byte.is_ascii_alphanumeric() && !encode_all {
                    query.push(byte as char);
                } else {
                    query.push_str(&format!("%{byte:02x}"));
                }
            }
            prop_assert_eq!(answer(&query).unwrap(), format!("lower case of {text} is {}", text.to_lowercase()));
        }

        #[test]
        fn no_query_panics(query in any::<String>()) {
            let _ = answer(&query);
        }
    }
}
