//! Which publishers are followed.

use net::{AddressError, Endpoint};
use std::fmt;
use std::str::FromStr;

/// What the index calls the publisher of the same process, whose port may be another each time.
const OWN_HOME: &str = "$own";

/// A publisher's numbered feed: where it is, and what the index calls that place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSource {
    endpoint: Endpoint,
    home: String,
}

impl FeedSource {
    /// A publisher that is known by its address.
    pub fn at(endpoint: Endpoint) -> Self {
        Self { home: endpoint.address().to_string(), endpoint }
    }

    /// The publisher of the same process, wherever it listens this time.
    pub fn own(endpoint: Endpoint) -> Self {
        Self { home: OWN_HOME.to_owned(), endpoint }
    }

    /// Where to connect.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the index calls it: the home of the streams that are met there first.
    pub fn home(&self) -> &str {
        &self.home
    }

    /// The first of several that is there already, by its place or by its home: it would be followed twice.
    pub(crate) fn given_twice(sources: &[Self]) -> Option<&Self> {
        let is_twin = |one: &Self, other: &Self| one.endpoint == other.endpoint || one.home == other.home;
        let mut numbered = sources.iter().enumerate();
        let twice = numbered.find(|(index, source)| sources[..*index].iter().any(|earlier| is_twin(earlier, source)));
        twice.map(|(_, source)| source)
    }

    /// What metrics call it.
    pub(crate) fn label(&self) -> String {
        self.endpoint.address().to_string()
    }
}

impl FromStr for FeedSource {
    type Err = AddressError;

    /// `tcp://HOST:PORT`
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Ok(Self::at(text.parse::<Endpoint>()?.connectable()?))
    }
}

impl fmt::Display for FeedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_called_by_its_address_and_our_own_always_the_same() {
        let source: FeedSource = "tcp://Publisher:4445".parse().unwrap();
        assert_eq!((source.home(), source.to_string()), ("publisher:4445", "tcp://publisher:4445".to_owned()));
        let own = FeedSource::own("tcp://127.0.0.1:50123".parse().unwrap());
        assert_eq!(
            (own.home(), own.to_string(), own.label()),
            ("$own", "tcp://127.0.0.1:50123".into(), "127.0.0.1:50123".into())
        );
        assert!("tcp://publisher:0".parse::<FeedSource>().is_err());
        assert!("publisher=tcp://publisher:1".parse::<FeedSource>().is_err());
    }

    #[test]
    fn the_same_place_twice_is_noticed() {
        let [one, two, again] = ["tcp://a:1", "tcp://b:1", "tcp://A:1"].map(|text| text.parse::<FeedSource>().unwrap());
        let own = FeedSource::own(one.endpoint.clone());
        assert_eq!(FeedSource::given_twice(&[one.clone(), two.clone()]), None);
        assert_eq!(FeedSource::given_twice(&[one.clone(), two, again.clone()]), Some(&again));
        assert_eq!(FeedSource::given_twice(&[one, own.clone()]), Some(&own));
    }
}
